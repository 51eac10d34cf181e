"""The rules of a listener, the state that all connections of a worker share, and the transport of each."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakSet

from msgspec import Struct
from uvicorn.server import ServerState

#: An ASGI application.
App = Callable[[Any, Any, Any], Awaitable[None]]


class Listener(Struct, frozen=True):
    """A listener: an address and the rules for its connections.

    Args:
        name: callbacks or web.
        address: HOST:PORT.
        idle_seconds: how long a connection may stay open without a request.
        tls: returns the TLS context for a new connection; None for plain HTTP.
        headers: returns further headers for answers to requests that are not valid HTTP.
        is_trusted_proxy: whether the proxy at an address may send a PROXY protocol header.
        reserved_files: open files that the connections of this listener must leave free.
    """

    name: str
    address: str
    idle_seconds: float
    tls: Callable[[], ssl.SSLContext] | None = None
    headers: Callable[[], Mapping[str, str]] = dict
    is_trusted_proxy: Callable[[str], bool] = lambda address: False
    reserved_files: int = 0


class WorkerState(ServerState):
    """The state that all connections of a worker share.

    Args:
        max_open_files: how many files this process may have open. Each connection is one.
    """

    def __init__(self, max_open_files: int) -> None:
        super().__init__()
        self.max_open_files = max_open_files
        #: The clock of all time limits of connections. It advances only while the event loop runs: after the
        #: process was stopped, or got no processor time, bytes that are already in the socket buffers are not
        #: too late.
        self.running_seconds = 0.0
        #: TLS handshakes in progress. uvicorn does not count their connections. Weak: failed ones disappear.
        self.handshakes: WeakSet[ssl.SSLObject] = WeakSet()
        #: Whether the worker is shutting down. Each answer is then the last one of its connection.
        self.is_draining = False

    def is_full(self, listener: Listener) -> bool:
        """Return whether a listener has more connections than it may have.

        The limit keeps files free for the store, for scrapes and for the operators' listener.
        """
        # Handshakes count too: their sockets are open, but uvicorn has no connection for them yet.
        return len(self.connections) + len(self.handshakes) > self.max_open_files - listener.reserved_files


class LingeringTransport:
    """A transport with a lingering close: it continues to read while the client still sends.

    If a socket is closed while bytes arrive, TCP resets the connection, and the client may lose the answer
    (RFC 9112, 9.6).
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # Those of the transport itself until it closes: every request calls them several times.
        self.write, self.is_closing = transport.write, transport.is_closing
        self.pause_reading = transport.pause_reading
        #: Whether the client is still sending a request.
        self.is_receiving = False
        #: Whether received bytes wait to be parsed. Reading stays paused meanwhile; the `read_paused` of
        #: uvicorn's flow control does not show that.
        self.has_unparsed = False

    def close(self) -> None:
        """Send everything written, then close. Wait for a client that is still sending to close its side."""
        if self.is_closing():
            return
        self.stop_writing()
        # TLS connections can't close one direction only.
        if self.is_receiving and self._transport.can_write_eof():
            self._transport.write_eof()
            # Bytes that stay unread would cause the reset.
            self._transport.resume_reading()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close immediately; drop what is not sent yet."""
        self.stop_writing()
        self._transport.abort()

    def resume_reading(self) -> None:
        """Resume reading, unless received bytes wait to be parsed."""
        if not self.has_unparsed:
            self._transport.resume_reading()

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait to be sent because the client does not read."""
        return self._transport.get_write_buffer_size() > 0

    def stop_writing(self) -> None:
        """Ignore what is written from now on: a closed transport raises an error for it."""
        self.write, self.is_closing = lambda data: None, lambda: True
