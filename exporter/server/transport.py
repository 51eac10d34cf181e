"""How bytes go out and come in: the last of an answer is not lost, and nothing is read before its turn."""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class LingeringTransport:
    """A transport that, told to close, reads on for a while where more is to come.

    Closed at once it would be reset by what comes, and the caller might never see its answer (RFC 9112, 9.6).

    Args:
        transport: the one of the event loop.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.abort = transport.abort
        #: Whether the caller is still sending something.
        self.is_sent_to = False
        self._is_closing = False

    def write(self, data: bytes) -> None:
        """Send bytes, unless it closes."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Send what was written, then close: when the caller has closed its side, if it is still sending."""
        if self._is_closing:
            return
        self._is_closing = True
        if self.is_sent_to and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    @property
    def has_unsent(self) -> bool:
        """Whether the caller has not read all that was sent."""
        return self._transport.get_write_buffer_size() > 0

    def is_closing(self) -> bool:
        """Whether it closes, or has closed."""
        return self._is_closing or self._transport.is_closing()


class Flow(FlowControl):
    """Reads nothing more while what has come waits for its turn."""

    is_held = False

    def resume_reading(self) -> None:
        """Read on, unless it is held."""
        if not self.is_held:
            super().resume_reading()
