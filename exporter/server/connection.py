"""A connection of a listener: uvicorn's protocol class with limits, and a share of the event loop.

uvicorn parses HTTP and calls the app. This module adds: time limits for slow clients; a limit on the bytes
that are parsed before other connections are served; and answers to requests that are not valid HTTP.
"""

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exporter.server.listener import LingeringTransport, Listener, WorkerState
from exporter.server.request_head import (
    HEAD_TOO_LONG,
    MAX_HEAD_BYTES,
    NOT_HTTP,
    ErrorAnswer,
    check_head,
    error_bytes,
    origin_form,
    read_proxy_header,
)

#: Time limits for receiving the headers of a request, and its body.
HEADERS_SECONDS, BODY_SECONDS = 10.0, 10.0
#: Time limit for a client to read an answer.
SEND_SECONDS = 10.0
#: How long a closing connection waits for the client to close its side.
LINGER_SECONDS = 2.0
#: Calls of `shutdown` before an idle connection is closed. A request in between is still answered.
SHUTDOWN_CALLS = 10
#: Maximum number of bytes of one connection that are parsed before other connections are served.
PIECE_BYTES = 4096
#: Bytes around a small chunk (size and line ends) that do not count toward MAX_HEAD_BYTES.
CHUNK_FRAME_BYTES = 8
#: Key in a request's scope if its body ended too early. The value states what was expected.
INCOMPLETE_BODY = "css_relay.incomplete_body"
#: That value if the client has closed its side.
EXPECTED_REST_OF_BODY = "expected the rest of the body"


class ReadState(Enum):
    """The part of a request that the next received bytes belong to."""

    IDLE = "between two requests"
    HEAD = "first line and headers"
    BODY = "body"


class Connection(HttpToolsProtocol):
    """A connection of a listener.

    Args:
        config: uvicorn's settings, with the app.
        state: the state that all connections of the worker share.
        listener: the listener that accepted the connection.
    """

    server_state: WorkerState
    transport: LingeringTransport  # type: ignore[assignment]

    def __init__(self, config: Config, state: WorkerState, listener: Listener) -> None:
        super().__init__(config, state, {})
        self._listener = listener
        self._read_state = ReadState.IDLE
        self._unparsed = bytearray()
        self._awaits_proxy_header = False
        self._shutdown_calls_left = SHUTDOWN_CALLS
        self._has_received_eof = False
        #: Whether the request has `Expect: 100-continue` and nothing of its body has arrived.
        self._expects_continue = False
        #: Bytes of the request outside its body.
        self._head_bytes = 0
        #: The answer to a request that the parser accepts and this class rejects.
        self._error: ErrorAnswer | None = None
        #: Bytes to send after the last answer, before the connection closes; None while it stays open.
        self._final_bytes: bytes | None = None
        #: Deadlines in `running_seconds`: for the client to send, and to read what was sent.
        self._receive_deadline = self._send_deadline = float("inf")

    @property
    def _is_answered(self) -> bool:
        """Whether every request received so far has been answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = LingeringTransport(transport)
        self.flow = FlowControl(self.transport)  # type: ignore[arg-type]
        if tls_object := transport.get_extra_info("ssl_object"):
            self.server_state.handshakes.discard(tls_object)
        self.client = self.client or ("", 0)  # None if the client has already disconnected
        if self.server_state.is_full(self._listener):
            # The rest of the files is reserved for the store and for operators.
            transport.abort()
            return
        self._awaits_proxy_header = self._listener.is_trusted_proxy(self.client[0])
        self._receive_deadline = self.server_state.running_seconds + HEADERS_SECONDS

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, or buffer them while an earlier request is in progress."""
        if self._final_bytes is not None or self.transport.is_closing():
            return
        # The usual case: a small request on an idle connection needs no buffer.
        if len(data) <= PIECE_BYTES and not (self._unparsed or self.pipeline or self._awaits_proxy_header):
            self._parse(data)
        else:
            self._unparsed += data
            self._parse_unparsed()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open for answers: a client may close its side right after its request."""
        if self._read_state is ReadState.BODY:
            self._end_body_early(EXPECTED_REST_OF_BODY)
        if self._is_answered:
            return False
        self._has_received_eof = True
        if not self._unparsed:
            self._close_after_answer()
        return self.scheme == "http"  # a TLS connection can't stay half open

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything. An app that waits for the rest of a body gets an error."""
        if self._read_state is ReadState.BODY:
            self._end_body_early(EXPECTED_REST_OF_BODY)
        self._final_bytes = b""  # nothing more is parsed
        self.pipeline.clear()
        if self.timeout_keep_alive_task is not None:  # uvicorn does not, after a reset
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)
        # The app may still answer a request that others follow: uvicorn stops only the newest one.
        self.transport.stop_writing()

    def pause_writing(self) -> None:
        """Start the client's time limit for reading."""
        super().pause_writing()
        self._send_deadline = self.server_state.running_seconds + SEND_SECONDS

    def resume_writing(self) -> None:
        """Stop the time limit: the client has read enough."""
        super().resume_writing()
        self._send_deadline = float("inf")

    def check_deadlines(self) -> None:
        """Close the connection if its client has exceeded a time limit."""
        now = self.server_state.running_seconds
        if now > self._send_deadline:
            self.transport.abort()
        elif self.transport.is_closing():
            grace_seconds = SEND_SECONDS if self.transport.has_unsent else LINGER_SECONDS
            self._send_deadline = min(self._send_deadline, now + grace_seconds)
        elif self._is_answered and now > self._receive_deadline:
            self._close_now()

    def _parse_unparsed(self) -> None:
        """Parse buffered bytes until a request has to wait for the answer to the one before it."""
        if self._awaits_proxy_header:
            self._read_proxy_header()
        while self._unparsed and not self._awaits_proxy_header and not self.pipeline:
            piece = bytes(self._unparsed[:PIECE_BYTES])
            del self._unparsed[:PIECE_BYTES]
            self._parse(piece)
        if self._unparsed and not self._awaits_proxy_header:
            # Unread bytes stay in the socket, so that a client with many requests fills no memory here.
            self.transport.has_unparsed = True
            self.transport.pause_reading()

    def _parse(self, piece: bytes) -> None:
        self._head_bytes += len(piece)
        super().data_received(piece)
        is_head_too_long = self._head_bytes > MAX_HEAD_BYTES and self._read_state is not ReadState.IDLE
        if is_head_too_long and self._final_bytes is None:
            self._error = HEAD_TOO_LONG
            self.send_400_response("")

    def _read_proxy_header(self) -> None:
        try:
            header = read_proxy_header(bytes(self._unparsed))
        except ValueError as exc:
            self._error = HTTPStatus.BAD_REQUEST, str(exc)
            self.send_400_response("")
            return
        if header is not None:
            self._awaits_proxy_header = False
            self.client = header.source or self.client
            del self._unparsed[: header.length]

    def on_message_begin(self) -> None:
        self._read_state, self.transport.is_receiving = ReadState.HEAD, True
        self._receive_deadline = self.server_state.running_seconds + HEADERS_SECONDS
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Call the app, unless the head of the request is rejected."""
        version = self.parser.get_http_version()
        self._error = check_head(version, self.url, self.headers)
        if self._error is not None:
            raise ValueError(self._error)  # the parser stops, and uvicorn calls `send_400_response`
        if not self.url.startswith(b"/") or b"#" in self.url:
            self.url = origin_form(self.url)
        self.expect_100_continue &= version == "1.1"  # HTTP/1.0 has no `100 Continue`
        super().on_headers_complete()
        self._read_state = ReadState.BODY
        self.headers = []  # trailers must not be added to the headers of the request
        self._expects_continue = self.expect_100_continue and self.cycle.keep_alive
        if self.server_state.is_draining or self._expects_continue:
            self._close_after_answer()
        if self.parser.should_upgrade():  # the parser stops here: the next bytes may not be HTTP
            self._end_body_early("expected a request without Upgrade")

    def on_body(self, body: bytes) -> None:
        self._head_bytes -= len(body) + CHUNK_FRAME_BYTES
        if self._expects_continue and not self.server_state.is_draining:
            # The body arrived, so the next bytes are a new request: the connection can stay open.
            self.cycle.keep_alive, self.cycle.default_headers = True, self.server_state.default_headers
        self._expects_continue = False
        self.cycle.waiting_for_100_continue = False  # the client did not wait for it
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._read_state, self._head_bytes, self.transport.is_receiving = ReadState.IDLE, 0, False
        self._receive_deadline = self.server_state.running_seconds + self._listener.idle_seconds
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with the bytes that arrived during the answer."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.transport.has_unparsed and not self.pipeline:
            self.transport.has_unparsed = False
            self._parse_unparsed()
            # Above that limit uvicorn has paused reading itself, until the app reads the body.
            if len(self.cycle.body) <= HIGH_WATER_LIMIT:
                self.transport.resume_reading()
        if not self._is_answered:
            return
        if self._final_bytes is not None or self._has_received_eof:
            self._send_final_bytes()
        else:
            limits = {ReadState.IDLE: self._listener.idle_seconds, ReadState.HEAD: HEADERS_SECONDS}
            seconds = limits.get(self._read_state, BODY_SECONDS)
            self._receive_deadline = self.server_state.running_seconds + seconds

    def _send_final_bytes(self) -> None:
        """Send what follows the last answer, if anything, and close the connection."""
        self.transport.write(self._final_bytes or b"")
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not valid HTTP, after the answers to earlier requests; then close."""
        self._unparsed.clear()
        self.transport.is_receiving = True
        if self._read_state is ReadState.BODY:  # the app answers, as to a body that ended too early
            self._final_bytes = b""
            self._end_body_early("expected well-formed chunks of more than a few bytes each")
        else:
            headers = {name.decode(): value.decode() for name, value in self.server_state.default_headers}
            self._final_bytes = error_bytes(self._error or NOT_HTTP, headers | dict(self._listener.headers()))
        if self._is_answered:
            self._send_final_bytes()

    def _end_body_early(self, expected: str) -> None:
        """Let the app know that no more of the body will arrive."""
        self._read_state = ReadState.IDLE
        if not self.cycle.response_complete:
            scope: Any = self.cycle.scope
            scope[INCOMPLETE_BODY] = expected
            self.cycle.more_body = False
            self.cycle.message_event.set()
            self._close_after_answer()

    def _close_after_answer(self) -> None:
        """Close the connection after the answer. Announce it there: not all versions of uvicorn do."""
        if self.cycle.keep_alive and not self._final_bytes:
            self.cycle.keep_alive = False
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def shutdown(self) -> None:
        """Close the connection: after the current answer, or if idle after SHUTDOWN_CALLS calls."""
        self._shutdown_calls_left -= 1
        if not self._is_answered:
            self._close_after_answer()
        elif self._shutdown_calls_left < 0:
            self._close_now()

    def _close_now(self) -> None:
        """Close a connection without pending answers; abort it if a request has only partly arrived."""
        if self._read_state is ReadState.IDLE:
            self.transport.close()
        else:
            self.transport.abort()
