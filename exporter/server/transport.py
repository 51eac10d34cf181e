"""The transport of a connection: it closes without losing an answer, and stops reading on demand."""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class LingeringTransport:
    """A transport with a lingering close: it continues to read while the client still sends.

    If a socket is closed while bytes arrive, TCP resets the connection, and the client may lose the answer
    (RFC 9112, 9.6).
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.abort = transport.abort
        #: Whether the client is still sending a request.
        self.is_receiving = False
        self._is_closing = False

    def write(self, data: bytes) -> None:
        """Send bytes, unless the transport is closing."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Send everything written, then close. Wait for a client that is still sending to close its side."""
        if self._is_closing:
            return
        self._is_closing = True
        # TLS connections can't close one direction only.
        if self.is_receiving and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            # Bytes that stay unread would cause the reset.
            self._transport.resume_reading()
        else:
            self._transport.close()

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait to be sent because the client does not read."""
        return self._transport.get_write_buffer_size() > 0

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self._is_closing or self._transport.is_closing()


class ConnectionFlowControl(FlowControl):
    """uvicorn's flow control, which does not resume reading while received bytes wait to be parsed."""

    has_unparsed = False

    def resume_reading(self) -> None:
        """Resume reading, unless received bytes wait to be parsed."""
        if not self.has_unparsed:
            super().resume_reading()
