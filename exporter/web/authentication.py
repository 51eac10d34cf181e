"""Authentication of the web listener, and the headers that are added to all its answers.

Passwords are checked against bcrypt hashes: slow for wrong passwords, fast for known ones. They are checked
one at a time, in a thread of low priority, so that callbacks and scrapes do not wait for them.
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

#: The scope of a request, or one message of ASGI.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CHALLENGE = b'Basic realm="css-relay-exporter", charset="UTF-8"'
#: Password checks that may wait; more are answered 429. Each takes tens of milliseconds.
MAX_WAITING = 16
#: Passwords that are remembered as right, so that they are not checked with bcrypt again.
MAX_REMEMBERED = 256
#: Nice value of the thread that runs bcrypt.
NICENESS = 10
#: bcrypt uses no more bytes. Some implementations reject longer passwords; here they are cut.
MAX_PASSWORD_BYTES = 72


class BasicAuth:
    """Requires HTTP basic authentication before an ASGI app, if the web configuration has users."""

    def __init__(self, app: App, config: Callable[[], WebConfig]) -> None:
        self._app = app
        self._config = config
        self._passwords = Passwords()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request: 401 without a right password, 429 if too many password checks are waiting."""
        # Read once, so that a reload in between does not mix two configurations in one answer.
        config = self._config()
        send = _with_headers(send, config.headers)
        try:
            is_allowed = not config.users or await self._is_authenticated(scope, config.users)
        except TooManyChecksError:
            await _reject(send, 429, (b"retry-after", b"1"))
            return
        if is_allowed:
            await self._app(scope, receive, send)
        else:
            await _reject(send, 401, (b"www-authenticate", CHALLENGE))

    async def _is_authenticated(self, scope: Message, users: Mapping[str, str]) -> bool:
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, text = header.partition(b" ")
        try:
            name, colon, password = base64.b64decode(text.strip(), validate=True).partition(b":")
        except binascii.Error:
            return False
        if scheme.lower() != b"basic" or not colon:
            return False
        if await self._passwords.verify(users, name.decode("utf-8", "surrogateescape"), password):
            return True
        client = scope.get("client") or ("unknown",)
        # Without the user's name: people type a password into that field by mistake.
        log.warning("wrong user name or password", extra={"address": client[0]})
        return False


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Return a `send` that adds headers, and drops headers of the same names from the app's answer."""
    if not headers:
        return send
    added = {name.lower().encode(): value.encode() for name, value in headers.items()}

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if bytes(pair[0]).lower() not in added]
            message = {**message, "headers": [*kept, *added.items()]}
        await send(message)

    return send_with_headers


async def _reject(send: Send, status: int, header: tuple[bytes, bytes]) -> None:
    body = b"Unauthorized\n" if status == 401 else b"Too Many Requests\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class TooManyChecksError(Exception):
    """Too many password checks are waiting."""


class Passwords:
    """Checks passwords against bcrypt hashes, and remembers the right ones."""

    def __init__(self) -> None:
        # Right passwords are remembered as digests with a random key, so that none is kept as it is.
        self._key = secrets.token_bytes(32)
        # A dict as an ordered set: the password remembered longest comes first.
        self._remembered: dict[bytes, None] = {}
        self._users: Mapping[str, str] = {}
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "passwords", initializer=_lower_priority)

    async def verify(self, users: Mapping[str, str], name: str, password: bytes) -> bool:
        """Return whether `password` is that of the user `name`; `users` has at least one bcrypt hash.

        Raises:
            TooManyChecksError: too many password checks are waiting.
        """
        # Other users: forget all passwords. By identity, not equality: a reload always makes a new mapping.
        if users is not self._users:
            self._users, self._remembered = users, {}
        # For an unknown user the costliest hash is checked and the result ignored, so that the response time
        # does not reveal which users exist.
        # The cost of a hash "$2b$12$..." is its "12".
        hashed = users.get(name) or max(users.values(), key=lambda text: text[4:6])
        digest = self._digest(name, hashed, password)
        if digest in self._remembered:
            return True
        if self._waiting >= MAX_WAITING:
            raise TooManyChecksError
        self._waiting += 1
        try:
            is_right = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._matches, digest, hashed, password
            )
        finally:
            self._waiting -= 1
        if not is_right or name not in users:
            return False
        while len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = None
        return True

    def _matches(self, digest: bytes, hashed: str, password: bytes) -> bool:
        # A client may send several requests together: those that waited for the first check skip their own.
        return digest in self._remembered or bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], hashed.encode())

    def _digest(self, name: str, hashed: str, password: bytes) -> bytes:
        parts = (name.encode("utf-8", "surrogateescape"), hashed.encode(), password)
        # With the length before each part, so that no two different triples have the same bytes.
        return hmac.digest(self._key, b"".join(len(p).to_bytes(8, "big") + p for p in parts), "sha256")


def _lower_priority() -> None:
    # On Linux a priority can be set for one thread, by its own id.
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then the priority stays as it is
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
