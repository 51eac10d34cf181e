"""The transport of a connection: it closes without losing an answer, and stops reading on demand."""

import asyncio


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
        #: Whether received bytes wait to be parsed. uvicorn's flow control can't resume reading meanwhile.
        self.has_unparsed = False

    def close(self) -> None:
        """Send everything written, then close. Wait for a client that is still sending to close its side."""
        if self.is_closing():
            return
        self._stop_writing()
        # TLS connections can't close one direction only.
        if self.is_receiving and self._transport.can_write_eof():
            self._transport.write_eof()
            # Bytes that stay unread would cause the reset.
            self._transport.resume_reading()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close immediately; drop what is not sent yet."""
        self._stop_writing()
        self._transport.abort()

    def resume_reading(self) -> None:
        """Resume reading, unless received bytes wait to be parsed."""
        if not self.has_unparsed:
            self._transport.resume_reading()

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait to be sent because the client does not read."""
        return self._transport.get_write_buffer_size() > 0

    def _stop_writing(self) -> None:
        self.write, self.is_closing = lambda data: None, lambda: True
