"""A connection of a listener: uvicorn's, held to limits of time and size, and to its turn.

uvicorn parses HTTP and calls the application. It leaves open, and this module decides: how long a caller may
take; how much is parsed of what it sends before other connections have their turn; and what it is told where
that is no HTTP.
"""

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exporter.server.listener import Listener, State
from exporter.server.request_head import (
    HEAD_TOO_LONG,
    MAX_HEAD_BYTES,
    NO_HTTP,
    Refusal,
    answer,
    origin_form,
    read_proxy_header,
    refusal_of,
)
from exporter.server.transport import Flow, LingeringTransport

#: How long the headers of a request may take to come, and its body.
HEADERS_SECONDS, BODY_SECONDS = 10.0, 10.0
#: How long a caller may take to read what it is sent.
SEND_SECONDS = 10.0
#: How long it is waited for to close its side, when it has been told all.
LINGER_SECONDS = 2.0
#: So often a caller is told to go before it must: who asks meanwhile learns it from its answer.
LAST_CALLS = 10
#: So much is parsed of what a connection sent before other connections have their turn.
PIECE_BYTES = 4096
#: What the size of a small chunk takes: it does not count among what is no body.
CHUNK_BYTES = 8
#: In a request's scope when no more of its body will come, though its end is missing: what was expected.
BROKEN_BODY = "css_relay.broken_body"
#: That, where the caller is gone.
THE_REST = "expected the rest of the body"


class Reading(Enum):
    """What the next bytes of a connection belong to."""

    NOTHING = "between two requests"
    HEAD = "first line and headers"
    BODY = "body"


class Connection(HttpToolsProtocol):
    """A connection of a listener.

    Args:
        config: uvicorn's, with the application.
        state: what all connections of the worker share.
        listener: where it came in.
    """

    server_state: State
    flow: Flow
    transport: LingeringTransport  # type: ignore[assignment]

    def __init__(self, config: Config, state: State, listener: Listener) -> None:
        super().__init__(config, state, {})
        self._listener = listener
        self._reading = Reading.NOTHING
        self._unparsed = bytearray()
        self._awaits_proxy_header = False
        self._calls_left = LAST_CALLS
        self._has_ended = False
        #: Whether the caller waits to be asked for its body, and might not send it.
        self._expects_continue = False
        #: Bytes of the request that are no body.
        self._head_bytes = 0
        #: Why the request is refused, where the parser has nothing against it.
        self._refusal: Refusal | None = None
        #: What is sent once all requests are answered, before the connection closes; None while it goes on.
        self._farewell: bytes | None = None
        #: By when the caller must have sent what is waited for, and read what was sent (`_now`).
        self._send_by = self._read_by = float("inf")

    @property
    def _now(self) -> float:
        return self.server_state.running_seconds

    @property
    def _is_answered(self) -> bool:
        """Whether every request so far has its answer."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self.flow, self.transport = Flow(transport), LingeringTransport(transport)
        if encrypted := transport.get_extra_info("ssl_object"):
            self.server_state.handshakes.discard(encrypted)
        self.client = self.client or ("", 0)  # it may be gone already
        if self.server_state.is_full(self._listener):
            transport.abort()
            return
        self._awaits_proxy_header = self._listener.speaks_for_others(self.client[0])
        self._send_by = self._now + HEADERS_SECONDS

    def data_received(self, data: bytes) -> None:
        """Take in bytes, and parse as many as have their turn."""
        if self._farewell is not None or self.transport.is_closing():
            return
        if len(data) <= PIECE_BYTES and not (self._unparsed or self.pipeline or self._awaits_proxy_header):
            self._parse(data)
        else:
            self._unparsed += data
            self._parse_unparsed()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Stay until the answers are out, where a caller ends its side as soon as it has asked."""
        if self._reading is Reading.BODY:
            self._break_body(THE_REST)
        if self._is_answered:
            return False
        self._has_ended = True
        if not self._unparsed:
            self._close_after_answer()
        return self.scheme == "http"

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything; who waits for the rest of a body is told that it will not come."""
        if self._reading is Reading.BODY:
            self._break_body(THE_REST)
        self._farewell = b""
        self.pipeline.clear()
        if self.timeout_keep_alive_task is not None:  # uvicorn leaves it where the connection was reset
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the caller some time to read."""
        super().pause_writing()
        self._read_by = self._now + SEND_SECONDS

    def resume_writing(self) -> None:
        """The caller has read."""
        super().resume_writing()
        self._read_by = float("inf")

    def look_after(self) -> None:
        """Close the connection if its caller takes too long."""
        now = self._now
        if now > self._read_by:
            self.transport.abort()
        elif self.transport.is_closing():
            patience = SEND_SECONDS if self.transport.has_unsent else LINGER_SECONDS
            self._read_by = min(self._read_by, now + patience)
        elif self._is_answered and now > self._send_by:
            self._let_go()

    def _parse_unparsed(self) -> None:
        """Parse piece after piece, until a request waits behind another one."""
        if self._awaits_proxy_header:
            self._read_proxy_header()
        while self._unparsed and not self._awaits_proxy_header and not self.pipeline:
            piece = bytes(self._unparsed[:PIECE_BYTES])
            del self._unparsed[:PIECE_BYTES]
            self._parse(piece)
        if self._unparsed and not self._awaits_proxy_header:
            self.flow.is_held = True
            self.flow.pause_reading()

    def _parse(self, piece: bytes) -> None:
        self._head_bytes += len(piece)
        super().data_received(piece)
        is_too_long = self._head_bytes > MAX_HEAD_BYTES and self._reading is not Reading.NOTHING
        if is_too_long and self._farewell is None:
            self._refusal = HEAD_TOO_LONG
            self.send_400_response("")

    def _read_proxy_header(self) -> None:
        try:
            header = read_proxy_header(bytes(self._unparsed))
        except ValueError as exc:
            self._refusal = HTTPStatus.BAD_REQUEST, str(exc)
            self.send_400_response("")
            return
        if header is not None:
            self._awaits_proxy_header = False
            self.client = header.source or self.client
            del self._unparsed[: header.length]

    def on_message_begin(self) -> None:
        """Begin to read a request."""
        self._reading, self.transport.is_sent_to = Reading.HEAD, True
        self._send_by = self._now + HEADERS_SECONDS
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Call the application, unless a request is ambiguous or out of bounds."""
        version = self.parser.get_http_version()
        self._refusal = refusal_of(version, self.url, self.headers)
        if self._refusal is not None:
            raise ValueError(self._refusal)
        self.url = origin_form(self.url)
        self.expect_100_continue &= version == "1.1"
        super().on_headers_complete()
        self._reading = Reading.BODY
        self.headers = []  # what follows the last chunk is no header
        self._expects_continue = self.expect_100_continue and self.cycle.keep_alive
        if self.server_state.is_draining or self._expects_continue:
            self._close_after_answer()
        if self.parser.should_upgrade():  # the parser stops here: what comes next may be no HTTP
            self._break_body("expected no Upgrade")

    def on_body(self, body: bytes) -> None:
        """Take in a part of a body."""
        self._head_bytes -= len(body) + CHUNK_BYTES
        if self._expects_continue and not self.server_state.is_draining:
            # It sends its body after all, so that what follows is the next request.
            self.cycle.keep_alive, self.cycle.default_headers = True, self.server_state.default_headers
        self._expects_continue = False
        self.cycle.waiting_for_100_continue = False  # it did not wait
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for another request."""
        self._reading, self._head_bytes, self.transport.is_sent_to = Reading.NOTHING, 0, False
        self._send_by = self._now + self._listener.idle_seconds
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what has come meanwhile."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.flow.is_held and not self.pipeline:
            self.flow.is_held = False
            self._parse_unparsed()
            if not self.flow.is_held and len(self.cycle.body) <= HIGH_WATER_LIMIT:
                self.flow.resume_reading()
        if self._is_answered:
            self._wait_or_close()

    def _wait_or_close(self) -> None:
        """Wait for what the caller owes, if the connection goes on."""
        if self._farewell is not None:
            self.transport.write(self._farewell)
            self.transport.close()
        elif self._has_ended:
            self.transport.close()
        else:
            seconds = {Reading.NOTHING: self._listener.idle_seconds, Reading.HEAD: HEADERS_SECONDS}
            self._send_by = self._now + seconds.get(self._reading, BODY_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Tell the caller that this is no HTTP, when it has its answers to what came before; then close."""
        self._unparsed.clear()
        self.transport.is_sent_to = True
        if self._reading is Reading.BODY:  # its request is answered as one whose body is cut off
            self._farewell = b""
            self._break_body("expected well-formed chunks, of more than a few bytes each")
        else:
            headers = {name.decode(): value.decode() for name, value in self.server_state.default_headers}
            self._farewell = answer(self._refusal or NO_HTTP, headers | dict(self._listener.headers()))
        if self._is_answered:
            self._wait_or_close()

    def _break_body(self, expected: str) -> None:
        """Have the application know that no more of a body will come."""
        self._reading = Reading.NOTHING
        if not self.cycle.response_complete:
            scope: Any = self.cycle.scope
            scope[BROKEN_BODY] = expected
            self.cycle.more_body = False
            self.cycle.message_event.set()
            self._close_after_answer()

    def _close_after_answer(self) -> None:
        """Tell the caller with the answer that the connection closes; not every version of uvicorn does."""
        if self.cycle.keep_alive and not self._farewell:
            self.cycle.keep_alive = False
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def shutdown(self) -> None:
        """Close the connection, after the answer under way or the last of so many calls without a request."""
        self._calls_left -= 1
        if not self._is_answered:
            self._close_after_answer()
        elif self._calls_left < 0:
            self._let_go()

    def _let_go(self) -> None:
        """Close the connection of a caller that has all its answers; whatever it still sends is in vain."""
        if self._reading is Reading.NOTHING:
            self.transport.close()
        else:
            self.transport.abort()
