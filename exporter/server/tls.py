"""TLS of a listener: contexts from certificate files, and the handshakes of new connections."""

import logging
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from exporter.config.reload import FileReader
from exporter.errors import SettingsError
from exporter.server.listener import Listener, WorkerState

log = logging.getLogger(__name__)


class PemFile(Struct, frozen=True):
    """A PEM file. `field` is the flag or the field of the web configuration that names it, for errors."""

    field: str
    path: str


class TlsConfig(Struct, frozen=True, kw_only=True):
    """The TLS settings of a listener.

    Args:
        cert, key: the certificate of the listener with its intermediate certificates, and the private key.
        client_ca: certificates of the authorities that may sign client certificates.
        client_auth: whether clients must, may or need not send a certificate. Each one sent is verified.
    """

    cert: PemFile
    key: PemFile
    client_ca: PemFile | None = None
    client_auth: ssl.VerifyMode = ssl.CERT_NONE
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3


def server_context(config: TlsConfig, files: FileReader) -> ssl.SSLContext:
    """Return the TLS context for `config`.

    Raises:
        SettingsError: a file can't be read or used; the text names its flag or field.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _LoggedHandshake
    # A client could force expensive handshakes over one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Clients that also offer HTTP/2 must not choose it.
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = config.min_version
    context.maximum_version = config.max_version
    _load_certificate(context, config.cert, config.key, files)
    context.verify_mode = config.client_auth
    # As in Go, and so in the exporter toolkit: a trusted certificate need not be a root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if config.client_ca is not None:
        _trust(context, config.client_ca, _read(config.client_ca, files))
    files.warn_if_world_readable(config.key.path)
    return context


class _LoggedHandshake(ssl.SSLObject):
    """A connection that logs why its handshake failed, at debug level: anybody can cause failures."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLError as exc:
            if not isinstance(exc, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                log.debug("TLS handshake failed", extra={"reason": exc.reason or exc.strerror})
            raise


def _load_certificate(context: ssl.SSLContext, cert: PemFile, key: PemFile, files: FileReader) -> None:
    cert_text, key_text = _read(cert, files), _read(key, files)
    # Load the certificate alone first. `load_cert_chain` loads both, and its error does not say which is bad.
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, cert_text)
    with _in_memory_file(cert_text) as cert_path, _in_memory_file(key_text) as key_path:
        try:
            # With an encrypted key and no password, OpenSSL would ask on the terminal and block.
            context.load_cert_chain(cert_path, key_path, password="")
        except (ssl.SSLError, ValueError) as exc:
            is_mismatch = getattr(exc, "reason", "") == "KEY_VALUES_MISMATCH"
            problem = "does not match the certificate" if is_mismatch else "expected an unencrypted PEM key"
            raise SettingsError(f"{key.field}: {problem}") from None


def _read(pem: PemFile, files: FileReader) -> bytes:
    try:
        return files.read(pem.path)
    except OSError as exc:
        raise SettingsError(f"{pem.field}={pem.path}: can't be read: {exc.strerror}") from None
    except ValueError:
        raise SettingsError(f"{pem.field}: expected a valid path") from None


def _trust(context: ssl.SSLContext, pem: PemFile, text: bytes) -> None:
    try:
        context.load_verify_locations(cadata=text.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise SettingsError(f"{pem.field}: expected certificates in PEM format") from None


@contextmanager
def _in_memory_file(text: bytes) -> Iterator[str]:
    """Yield the path of a file in memory with `text`: Python's ssl reads keys from files only."""
    with open(os.memfd_create("pem"), "wb", buffering=0) as file:
        file.write(text)
        yield f"/proc/self/fd/{file.fileno()}"


class HandshakeContext(ssl.SSLContext):
    """A TLS context that starts each handshake with the newest certificates, and counts handshakes.

    During its handshake a connection is open, but uvicorn does not know it yet. Without the count a listener
    could have any number of such connections, and a worker would stop in the middle of handshakes.

    Args:
        protocol: the argument of `SSLContext`, which takes it in `__new__`.
        current: returns the context with the newest certificates.
    """

    def __init__(
        self, protocol: int, current: Callable[[], ssl.SSLContext], listener: Listener, state: WorkerState
    ) -> None:
        self._current, self._listener, self._state = current, listener, state

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Start a handshake, unless the listener is full: the event loop then closes the connection."""
        if self._state.is_full(self._listener):
            raise ssl.SSLError(1, "too many connections")
        handshake = self._current().wrap_bio(*arguments, **named)
        self._state.handshakes.add(handshake)
        return handshake
