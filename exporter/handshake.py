"""TLS handshakes: each with the newest certificate, and counted as the connections that they become."""

import ssl
from collections.abc import Callable
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
        newest: returns that context.
        listener: where the connections come in.
        state: what all connections of the worker share.
    """

    _newest: Callable[[], ssl.SSLContext]
    _listener: Listener
    _state: State
    _refusing: ssl.SSLContext

    def __new__(
        cls, newest: Callable[[], ssl.SSLContext], listener: Listener, state: State
    ) -> "HandshakeContext":
        """Return one; its own settings are never used."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._newest, self._listener, self._state = newest, listener, state
        self._refusing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._refusing.sslobject_class = _Refused
        return self

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begin a handshake."""
        if self._state.is_full(self._listener):
            return self._refusing.wrap_bio(*arguments, **named)
        begun = self._newest().wrap_bio(*arguments, **named)
        self._state.handshakes.add(begun)
        return begun
