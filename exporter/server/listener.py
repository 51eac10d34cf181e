"""What a listener is, what all connections of a worker share, and what stands in front of an app."""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakSet

from msgspec import Struct
from uvicorn.server import ServerState

#: An ASGI application.
App = Callable[[Any, Any, Any], Awaitable[None]]

#: What an app is told of a body of which nothing has come.
NOTHING_YET = {"type": "http.request", "body": b"", "more_body": True}


class Listener(Struct, frozen=True):
    """What is special about a listener.

    Args:
        name: callbacks or web.
        address: HOST:PORT.
        idle_seconds: how long a connection may wait for its next request.
        tls: returns what a new connection is encrypted with, None for plain HTTP.
        headers: returns further headers of answers to what is no HTTP.
        speaks_for_others: whether the proxy at an address may say for whom it asks.
        reserve: open files that its connections must leave for everything else.
    """

    name: str
    address: str
    idle_seconds: float
    tls: Callable[[], ssl.SSLContext] | None = None
    headers: Callable[[], Mapping[str, str]] = dict
    speaks_for_others: Callable[[str], bool] = lambda address: False
    reserve: int = 0


class State(ServerState):
    """What all connections of a worker share.

    Args:
        max_open_files: how many this process may have open.
    """

    def __init__(self, max_open_files: int) -> None:
        super().__init__()
        self.max_open_files = max_open_files
        #: The clock of all time limits of connections. It stands still while this process does: what came
        #: meanwhile is not late.
        self.running_seconds = 0.0
        #: TLS handshakes that are under way.
        self.handshakes: WeakSet[ssl.SSLObject] = WeakSet()
        #: Whether the worker is to end, so that each answer is the last one of its connection.
        self.is_draining = False

    def is_full(self, listener: Listener) -> bool:
        """Whether a listener has as many connections as it may have.

        One more would rather wait until no file can be opened, the store's least of all.
        """
        return len(self.connections) + len(self.handshakes) > self.max_open_files - listener.reserve


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
