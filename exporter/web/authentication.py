"""What stands before everything on the web listener: a password, and headers of every answer.

Passwords are compared with bcrypt hashes: slow for wrong ones, fast for one that was right before. They are
tried one at a time, in a thread that yields to all others, so that callbacks and scrapes don't wait for them.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bcrypt

from exporter.server.listener import App
from exporter.web.web_config import WebConfig

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

REALM = b'Basic realm="css-relay-exporter", charset="UTF-8"'
BUSY_SECONDS = 1
MAX_WAITING = 16
MAX_KNOWN = 256
NICENESS = 10
#: bcrypt looks no further; some of its implementations refuse what is longer, others leave it out.
MAX_PASSWORD_BYTES = 72


class BasicAuth:
    """Serves an app to those who know a password.

    Args:
        app: what they look at.
        config: returns who may look, as it is now.
    """

    def __init__(self, app: App, config: Callable[[], WebConfig]) -> None:
        self._app = app
        self._config = config
        self._passwords = Passwords()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request: 401 without the right password, 429 if too many guesses wait for an answer."""
        config = self._config()
        send = _with_headers(send, config.headers)
        try:
            may_look = not config.users or await self._knows(scope, config.users)
        except Busy:
            await _refuse(send, 429, (b"retry-after", b"%d" % BUSY_SECONDS))
            return
        if may_look:
            await self._app(scope, receive, send)
        else:
            await _refuse(send, 401, (b"www-authenticate", REALM))

    async def _knows(self, scope: Scope, users: Mapping[str, str]) -> bool:
        credentials = _credentials(scope)
        if credentials is None:
            return False
        if await self._passwords.are_right(users, *credentials):
            return True
        client = scope.get("client") or ("unknown",)
        log.warning("a password is wrong, or its user unknown", extra={"address": client[0]})
        return False


def _credentials(scope: Scope) -> tuple[str, bytes] | None:
    """Return name and password of a request, None if it has none that can be read."""
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, text = header.partition(b" ")
    try:
        name, colon, password = base64.b64decode(text.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    if scheme.lower() != b"basic" or not colon:
        return None
    return name.decode("utf-8", "surrogateescape"), password


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Return a `send` that adds headers; they come before those that the app would give."""
    if not headers:
        return send
    added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    names = {name for name, _ in added}

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [pair for pair in message.get("headers", ()) if bytes(pair[0]).lower() not in names]
            message = {**message, "headers": [*others, *added]}
        await send(message)

    return send_more


async def _refuse(send: Send, status: int, header: tuple[bytes, bytes]) -> None:
    body = b"Unauthorized\n" if status == 401 else b"Too Many Requests\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Busy(Exception):  # noqa: N818 - a state rather than a failure
    """So many guesses wait that no further one is taken."""


class Passwords:
    """Tells whether a password is a user's."""

    def __init__(self) -> None:
        # What was right is known again by its digest under a key that never leaves this process.
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, None] = {}
        self._users: Mapping[str, str] = {}
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "passwords", initializer=_yield_to_others)

    async def are_right(self, users: Mapping[str, str], name: str, password: bytes) -> bool:
        """Whether `password` is that of the user `name`.

        Args:
            users: hashes by name, at least one; what is known is forgotten when they are others.

        Raises:
            Busy: too many guesses wait.
        """
        if users is not self._users:
            self._users, self._known = users, {}
        # Who is unknown costs the same: the work is done for another, and its outcome counts for nothing.
        text = users.get(name) or max(users.values(), key=_cost)
        digest = self._digest(name, text, password)
        if digest in self._known:
            return True
        if self._waiting >= MAX_WAITING:
            raise Busy
        self._waiting += 1
        try:
            is_right = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._try, digest, text, password
            )
        finally:
            self._waiting -= 1
        if not is_right or name not in users:
            return False
        self._know(digest)
        return True

    def _try(self, digest: bytes, text: str, password: bytes) -> bool:
        """Compare, unless the same was found right while this waited."""
        return digest in self._known or bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], text.encode())

    def _know(self, digest: bytes) -> None:
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = None

    def _digest(self, name: str, text: str, password: bytes) -> bytes:
        parts = (name.encode("utf-8", "surrogateescape"), text.encode(), password)
        return hmac.digest(self._key, b"".join(len(p).to_bytes(8, "big") + p for p in parts), "sha256")


def _cost(text: str) -> str:
    return text[4:6]


def _yield_to_others() -> None:
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then it has to do without
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
