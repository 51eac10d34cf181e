"""TLS handshakes: each with the newest certificate, and counted as the connections that they become."""

import ssl
from typing import Any

from exporter.listener import Listener, State


class _Refused(ssl.SSLObject):
    """A connection that ends before it begins."""

    def do_handshake(self) -> None:
        """Refuse; the caller learns no more than that."""
        raise ssl.SSLError(1, "too many connections")


class HandshakeContext(ssl.SSLContext):
    """Encrypts new connections of a listener with the context that is the newest then, unless it is full.

    Until its handshake is over a connection is open and uvicorn does not know of it. A listener would have
    any number of those, and a worker would stop in their midst.

    Args:
        listener: it has TLS.
        state: what all connections of the worker share.
    """

    _listener: Listener
    _state: State
    _refusing: ssl.SSLContext

    def __new__(cls, listener: Listener, state: State) -> "HandshakeContext":
        """Return one; its own settings are never used."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._listener, self._state = listener, state
        self._refusing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._refusing.sslobject_class = _Refused
        return self

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begin a handshake."""
        newest = self._listener.tls
        if newest is None or self._state.is_full(self._listener):
            return self._refusing.wrap_bio(*arguments, **named)
        begun = newest().wrap_bio(*arguments, **named)
        self._state.handshakes.add(begun)
        return begun
