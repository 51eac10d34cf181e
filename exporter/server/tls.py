"""TLS of a listener: from the files that are set to the handshakes of its connections."""

import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from exporter.config.reload import Files
from exporter.errors import SettingsError
from exporter.server.listener import Listener, State

log = logging.getLogger(__name__)


class Pem(Struct, frozen=True):
    """A file with certificates or a key.

    Args:
        field: the flag or field that names it.
        path: where it is.
    """

    field: str
    path: str


class TlsConfig(Struct, frozen=True, kw_only=True):
    """How a listener encrypts.

    Args:
        cert, key: its own certificate, and those that lead to its authority.
        client_ca: who must have signed the certificates of clients.
        client_auth: whether clients show certificates; those shown are verified.
        min_version, max_version: the oldest and the newest version that is spoken.
    """

    cert: Pem
    key: Pem
    client_ca: Pem | None = None
    client_auth: ssl.VerifyMode = ssl.CERT_NONE
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3


def server_context(config: TlsConfig, files: Files) -> ssl.SSLContext:
    """Return a context that does as `config` says.

    Args:
        files: what certificates and keys are read with.

    Raises:
        SettingsError: one of them can't be read or used; its field is named.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _LoggedHandshake
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = config.min_version
    context.maximum_version = config.max_version
    _show_certificate(context, config.cert, config.key, files)
    context.verify_mode = config.client_auth
    # As in Go, whoever is believed need not be the root of all.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if config.client_ca is not None:
        _believe(context, config.client_ca, _read(config.client_ca, files))
    files.warn_if_open_to_others(config.key.path)
    return context


class _LoggedHandshake(ssl.SSLObject):
    """A connection. Why its handshake failed is logged at debug alone: anybody can make any number fail."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as exc:
            log.debug("a handshake failed", extra={"reason": exc.reason or exc.strerror})
            raise


def _show_certificate(context: ssl.SSLContext, cert: Pem, key: Pem, files: Files) -> None:
    cert_text, key_text = _read(cert, files), _read(key, files)
    # Alone, so that the error names it: a certificate and a key are loaded together.
    _believe(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, cert_text)
    with _as_file(cert_text) as cert_path, _as_file(key_text) as key_path:
        try:
            # An encrypted key would have it ask on the terminal.
            context.load_cert_chain(cert_path, key_path, password="")
        except (ssl.SSLError, ValueError) as exc:
            is_other = getattr(exc, "reason", "") == "KEY_VALUES_MISMATCH"
            problem = "is of another certificate" if is_other else "expected a PEM key without a passphrase"
            raise SettingsError(f"{key.field}: {problem}") from None


def _read(pem: Pem, files: Files) -> bytes:
    try:
        return files.read(pem.path)
    except OSError as exc:
        raise SettingsError(f"{pem.field}: {pem.path} can't be read: {exc.strerror}") from None
    except ValueError:
        raise SettingsError(f"{pem.field}: expected a path without odd characters") from None


def _believe(context: ssl.SSLContext, pem: Pem, text: bytes) -> None:
    try:
        context.load_verify_locations(cadata=text.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise SettingsError(f"{pem.field}: expected certificates in PEM form") from None


@contextmanager
def _as_file(text: bytes) -> Iterator[str]:
    """Give a text a path, in memory: Python's ssl reads keys from files alone."""
    with open(os.memfd_create("pem"), "wb") as file:
        file.write(text)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


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
