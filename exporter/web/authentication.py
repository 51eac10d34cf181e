"""What stands before everything on the web listener: a password, and headers of every answer."""

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from exporter.listener import App
from exporter.web.passwords import Busy, Passwords
from exporter.webconfig import WebConfig

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

REALM = b'Basic realm="css-relay-exporter", charset="UTF-8"'
BUSY_SECONDS = 1


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
