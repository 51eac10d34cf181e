"""What `tls_server_config` asks for, as OpenSSL calls it; nothing is read or opened here.

Where it asks for what Python's ssl can't do, more is demanded of clients and a note says so, never less.
"""

from collections.abc import Container
from pathlib import Path
from typing import Literal

from msgspec import Struct

from exporter.errors import SettingsError
from exporter.webfile import TlsSection, read_switch

SECTION = "tls_server_config"
VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
LEAST, NEWEST = "TLS12", "TLS13"

#: Go's names of the suites up to TLS 1.2, and OpenSSL's.
CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
#: Suites of TLS 1.3, all of them good; neither Go nor Python lets them be chosen.
NEWEST_CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}

ClientAuth = Literal["none", "optional", "required"]
CLIENT_AUTH: dict[str, ClientAuth] = {
    "": "none",
    "NoClientCert": "none",
    "RequestClientCert": "none",
    "RequireAnyClientCert": "required",
    "RequireClientCert": "required",
    "VerifyClientCertIfGiven": "optional",
    "RequireAndVerifyClientCert": "required",
}
UNVERIFIED = ("RequireAnyClientCert", "RequireClientCert")


class Pem(Struct, frozen=True):
    """Certificates or a key.

    Args:
        field: what an operator set it with.
        path: the file it is in, or
        text: the thing itself.
    """

    field: str
    path: str = ""
    text: str = ""


class TlsConfig(Struct, frozen=True, kw_only=True):
    """How a listener encrypts.

    Args:
        cert, key: its own certificate, and those that lead to its authority.
        client_ca: whom to believe about clients, None for whom the system believes.
        client_auth: whether clients show certificates; those shown are verified.
        client_names: if there are any, a client's certificate is for one of them.
        min_version, max_version: TLS12 or TLS13.
        ciphers: OpenSSL's names of suites of TLS 1.2, in order of preference; empty for its defaults.
        own_order: it is this side's preference that decides.
        curve: the one to agree on keys with, empty for any.
    """

    cert: Pem
    key: Pem
    client_ca: Pem | None = None
    client_auth: ClientAuth = "none"
    client_names: frozenset[str] = frozenset()
    min_version: str = LEAST
    max_version: str = NEWEST
    ciphers: tuple[str, ...] = ()
    own_order: bool = True
    curve: str = ""


def read_tls(section: TlsSection, folder: Path, notes: list[str]) -> TlsConfig | None:
    """Return what the section asks for, None if it is empty.

    Args:
        folder: what paths are relative to.
        notes: what is not done as asked is added to them.

    Raises:
        SettingsError: a field asks for what can't be; it is named.
    """
    if section == TlsSection():
        return None
    ciphers = _ciphers(section, notes)
    only_newest = bool(section.cipher_suites) and not ciphers
    least, newest = _versions(section, notes, NEWEST if only_newest else LEAST)
    return TlsConfig(
        cert=_needed(section, folder, "cert", "cert_file"),
        key=_needed(section, folder, "key", "key_file"),
        client_ca=_pem(section, folder, "client_ca", "client_ca_file"),
        client_auth=_client_auth(section, notes),
        client_names=_client_names(section),
        min_version=least,
        max_version=newest,
        ciphers=ciphers,
        own_order=read_switch(
            f"{SECTION}.prefer_server_cipher_suites", section.prefer_server_cipher_suites, True
        ),
        curve=_curve(section, notes),
    )


def _wrong(field: str, problem: str) -> SettingsError:
    return SettingsError(f"{SECTION}.{field}: {problem}")


def _known(field: str, text: str, choices: Container[str]) -> str:
    if text not in choices:
        raise _wrong(field, f"{text!r} is not known")
    return text


def _pem(section: TlsSection, folder: Path, text_field: str, file_field: str) -> Pem | None:
    """Return what one of two fields gives; a file comes before a text."""
    path, text = getattr(section, file_field), getattr(section, text_field)
    if path:
        return Pem(f"{SECTION}.{file_field}", path=str(folder / path))
    return Pem(f"{SECTION}.{text_field}", text=text) if text else None


def _needed(section: TlsSection, folder: Path, text_field: str, file_field: str) -> Pem:
    pem = _pem(section, folder, text_field, file_field)
    if pem is None:
        raise _wrong(file_field, f"expected it, or {text_field}; without them there is no TLS")
    return pem


def _client_auth(section: TlsSection, notes: list[str]) -> ClientAuth:
    text = section.client_auth_type
    auth = CLIENT_AUTH[_known("client_auth_type", text, CLIENT_AUTH)]
    has_authority = bool(section.client_ca or section.client_ca_file)
    if has_authority and text in ("", "NoClientCert"):
        raise _wrong("client_auth_type", "expected RequireAndVerifyClientCert, as there is a client_ca_file")
    if text == "RequestClientCert":
        notes.append(f"{SECTION}.client_auth_type: clients are not asked for what would not be verified")
    if text in UNVERIFIED:
        if not has_authority:
            raise _wrong(
                "client_auth_type",
                "a certificate that nobody verifies proves nothing: expected RequireAndVerifyClientCert "
                "and a client_ca_file",
            )
        notes.append(f"{SECTION}.client_auth_type: certificates are not only required but verified")
    return auth


def _client_names(section: TlsSection) -> frozenset[str]:
    names = section.client_allowed_sans
    if names is None:
        return frozenset()
    if not names:
        raise _wrong("client_allowed_sans", "expected names; without any, nobody could look")
    if CLIENT_AUTH[section.client_auth_type] != "required":
        raise _wrong("client_allowed_sans", "expected RequireAndVerifyClientCert as client_auth_type")
    return frozenset(names)


def _versions(section: TlsSection, notes: list[str], least: str) -> tuple[str, str]:
    """Return the oldest and the newest version, none of them older than `least`."""
    asked = _known("min_version", section.min_version or LEAST, VERSIONS)
    newest = _known("max_version", section.max_version or NEWEST, VERSIONS)
    oldest = max(asked, least)
    if asked < LEAST:
        notes.append(f"{SECTION}.min_version: nothing older than {LEAST} is spoken")
    if oldest > newest:
        raise _wrong("max_version", f"expected at least {oldest}")
    return oldest, newest


def _ciphers(section: TlsSection, notes: list[str]) -> tuple[str, ...]:
    asked = section.cipher_suites
    for name in asked:
        _known("cipher_suites", name, {*CIPHERS, *NEWEST_CIPHERS})
    if set(asked) & set(NEWEST_CIPHERS):
        notes.append(f"{SECTION}.cipher_suites: those of TLS13 can't be chosen; all of them are offered")
    return tuple(CIPHERS[name] for name in asked if name in CIPHERS)


def _curve(section: TlsSection, notes: list[str]) -> str:
    """Return the first curve, as no more than one can be chosen, unless all are welcome."""
    asked = [CURVES[_known("curve_preferences", name, CURVES)] for name in section.curve_preferences]
    if not asked or set(asked) == set(CURVES.values()):
        return ""
    if len(asked) > 1:
        notes.append(f"{SECTION}.curve_preferences: {section.curve_preferences[0]} alone is offered")
    return asked[0]
