"""Lets an app look at a request before any of its body has come."""

from collections.abc import Awaitable, Callable
from typing import Any

from exporter.listener import App

NOTHING_YET = {"type": "http.request", "body": b"", "more_body": True}


class DeferBody:
    """Calls an app as soon as headers have come.

    falcon waits for the first part of a body before it calls a handler; a caller that promises a body and
    sends none would be held without a limit, and one with a wrong path or a body too long not be told. Nor
    would anyone who sends `Expect: 100-continue` be refused without the body.

    Args:
        app: a falcon app.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """Serve one request."""
        has_begun = False

        async def deferred() -> Any:
            nonlocal has_begun
            if has_begun:
                return await receive()
            has_begun = True
            return NOTHING_YET

        await self._app(scope, deferred, send)
