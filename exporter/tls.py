"""TLS of a listener: from a description to what its connections are encrypted with."""

import ipaddress
import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from exporter.errors import SettingsError
from exporter.reread import Files
from exporter.webtls import SECTION, Pem, TlsConfig

log = logging.getLogger(__name__)

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
DEMANDS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def server_context(config: TlsConfig, files: Files) -> ssl.SSLContext:
    """Return a context that does as `config` says.

    Args:
        files: what certificates and keys are read with.

    Raises:
        SettingsError: one of them can't be read or used; its field is named.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _agree(context, config)
    _show_certificate(context, config, files)
    _ask_clients(context, config, files)
    return context


def _agree(context: ssl.SSLContext, config: TlsConfig) -> None:
    """Set what there is to agree about with a client."""
    context.minimum_version = VERSIONS[config.min_version]
    context.maximum_version = VERSIONS[config.max_version]
    if not config.own_order:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        if config.ciphers:
            context.set_ciphers(":".join(config.ciphers))
        if config.curve:
            context.set_ecdh_curve(config.curve)
    except (ssl.SSLError, ValueError) as exc:
        what = "cipher_suites" if isinstance(exc, ssl.SSLError) else "curve_preferences"
        raise SettingsError(f"{SECTION}.{what}: this machine's OpenSSL has none of them") from None


def _show_certificate(context: ssl.SSLContext, config: TlsConfig, files: Files) -> None:
    cert, key = _read(config.cert, files), _read(config.key, files)
    _believe(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config.cert, cert)
    with _as_file(cert) as cert_path, _as_file(key) as key_path:
        try:
            # An encrypted key would have it ask on the terminal.
            context.load_cert_chain(cert_path, key_path, password="")
        except (ssl.SSLError, ValueError) as exc:
            is_other = getattr(exc, "reason", "") == "KEY_VALUES_MISMATCH"
            problem = "is of another certificate" if is_other else "expected a PEM key without a passphrase"
            raise SettingsError(f"{config.key.field}: {problem}") from None


def _ask_clients(context: ssl.SSLContext, config: TlsConfig, files: Files) -> None:
    context.verify_mode = DEMANDS[config.client_auth]
    # As in Go, whoever is believed need not be the root of all.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if config.client_ca is not None:
        _believe(context, config.client_ca, _read(config.client_ca, files))
    elif config.client_auth != "none":
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    context.sslobject_class = _kind(config.client_names)


def _kind(names: frozenset[str]) -> type[ssl.SSLObject]:
    """Return a kind of connection: refused to clients with other names, if there are any to have.

    Who is refused is told at debug alone: anybody can be, as often as he likes.
    """
    expected = {_name(name) for name in names}

    class Kind(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
                if expected and expected.isdisjoint(_names(self.getpeercert() or {})):
                    raise ssl.SSLCertVerificationError(1, "no name of the certificate is allowed")
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as exc:
                log.debug("a handshake failed", extra={"reason": exc.reason or exc.strerror})
                raise

    return Kind


def _names(certificate: Any) -> Iterator[str]:
    return (_name(value) for _, value in certificate.get("subjectAltName", ()) if isinstance(value, str))


def _name(text: str) -> str:
    """Return a name in a form to compare: addresses can be written in many ways."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text


def _read(pem: Pem, files: Files) -> bytes:
    try:
        return files.read(pem.path) if pem.path else pem.text.encode()
    except OSError as exc:
        raise SettingsError(f"{pem.field}: {pem.path} can't be read: {exc.strerror}") from None
    except ValueError:
        raise SettingsError(f"{pem.field}: expected text without odd characters") from None


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
