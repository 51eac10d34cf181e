"""A connection of one of the listeners: what is done before gunicorn sees its bytes, and instead of it."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gunicorn.asgi.protocol import (
    _CACHED_SERVER_HEADER,
    ASGIProtocol,
    _get_cached_date_header,
    _get_cached_status_line,
)
from msgspec import Struct

from exporter.access import read_proxy_header

if TYPE_CHECKING:
    from exporter.worker import Worker

HEADERS_SECONDS = 10.0
CLOSE = b"Connection: close\r\n"

Headers = Sequence[tuple[bytes, bytes]]
#: An answer's status, and what follows the headers that all answers have: its own ones and its body.
Answer = tuple[int, bytes]
#: Given path, headers, body and peer of a POST, returns what answers it; None if the framework should.
Express = Callable[[str, Headers, bytes, str], Coroutine[Any, Any, Answer] | None]


class Listener(Struct, frozen=True):
    """What is special about a listener.

    Args:
        name: callbacks or web.
        tls: what its connections are encrypted with, None for plain HTTP.
        headers: returns further headers of answers to what is no HTTP.
        speaks_for_others: whether the proxy at an address may say for whom it asks.
        headers_seconds: how long a request may take until its headers are whole.
        reserve: open files that its connections must leave for everything else.
        express: is asked before the framework is.
    """

    name: str
    tls: ssl.SSLContext | None = None
    headers: Callable[[], Mapping[str, str]] = dict
    speaks_for_others: Callable[[str], bool] = lambda address: False
    headers_seconds: float = HEADERS_SECONDS
    reserve: int = 0
    express: Express = lambda path, headers, body, peer: None


class Connection(ASGIProtocol):  # type: ignore[misc]
    """A connection of a listener: its headers come in time, and begin with those of a proxy if that may be.

    Args:
        worker: serves it.
        listener: where it came in.
    """

    def __init__(self, worker: "Worker", listener: Listener) -> None:
        super().__init__(worker)
        self._listener = listener
        self._peer: tuple[str, int] = ("", 0)
        self._source: tuple[str, int] | None = None
        self._unread: bytes | None = None
        self._has_ended = False
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for headers."""
        super().connection_made(transport)
        if self.worker.is_full(self._listener):
            # Rather than to wait until no file can be opened, the store's least of all.
            self._close_transport()
            return
        self._peer = transport.get_extra_info("peername") or self._peer
        if self._listener.speaks_for_others(self._peer[0]):
            self._unread = b""
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Take in bytes: a proxy's header first, then requests."""
        if self._unread is not None:
            self._unread += data
            data = self._after_proxy_header()
            if not data:
                return
        if self._patience is None and self._awaiting_request:
            self._cancel_keepalive_timer()
            self._wait_for_headers()
        super().data_received(data)

    def eof_received(self) -> bool:
        """Stay until the answer is out, where a caller ends its side as soon as it has sent its request."""
        receiver = self._body_receiver
        is_asked = receiver is not None and receiver._complete and not self._awaiting_request
        self._has_ended = is_asked and not self._is_ssl
        return self._has_ended

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._stop_waiting()
        super().connection_lost(exc)
        if self._awaiting_request:  # it would wait some seconds more to be cancelled
            self._request_ready.set()
        # It knows its callbacks, and they know this: both would lie in memory until rubbish is looked for.
        self._callback_parser = None

    def _arm_keepalive_timer(self) -> None:
        """Wait for another request; not of a caller that has ended its side: it can't send any."""
        if self._has_ended:
            self._keepalive_timeout()
        else:
            super()._arm_keepalive_timer()

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> bool:
        """Answer a request, by the short way if that takes it; return whether another may follow."""
        answering = self._express(request, peername)
        if answering is None:
            keep_alive: bool = await super()._serve_http_request(request, sockname, peername)
            return keep_alive
        status, rest = await answering
        closes = self._will_close(request, response_requires_close=False)
        if not self._closed:
            line = _get_cached_status_line(request.version, status)
            close = CLOSE if closes else b""
            self._safe_write(b"".join((line, _CACHED_SERVER_HEADER, _get_cached_date_header(), close, rest)))
        return not closes

    def _express(self, request: Any, peername: Any) -> Coroutine[Any, Any, Answer] | None:
        """Return what answers a POST whose body is here, None if that is the framework's to do."""
        receiver = self._body_receiver
        if request.method != "POST" or request.chunked or not receiver._complete or receiver.expect_continue:
            return None
        if self._flow_control.write_paused:  # only the framework waits until its caller reads
            return None
        body = b"".join(receiver._chunks)
        return self._listener.express(request.path, request.headers_bytes, body, peername[0])

    def _on_headers_complete(self) -> bool:
        self._stop_waiting()
        skips_body: bool = super()._on_headers_complete()
        return skips_body

    def _wait_for_headers(self) -> None:
        loop: asyncio.AbstractEventLoop = self.worker.loop
        self._patience = loop.call_later(self._listener.headers_seconds, self._close_transport)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _after_proxy_header(self) -> bytes:
        """Return what follows a proxy's header, nothing while it is not whole."""
        data = self._unread or b""
        try:
            header = read_proxy_header(data)
        except ValueError as exc:
            self._send_error_response(400, str(exc))
            self._close_transport()
            return b""
        if header is None:
            return b""
        self._source, self._unread = header.source, None
        return data[header.length :]

    def _effective_peername(self, peername: Any) -> Any:
        return self._source or peername

    def _send_error_response(self, status: int, message: str, extra_headers: Any = ()) -> None:
        """Answer what is no HTTP; an unknown Transfer-Encoding is the caller's fault, and no 5xx."""
        headers = (*extra_headers, *self._listener.headers().items())
        super()._send_error_response(400 if status == 501 else status, message, headers)
