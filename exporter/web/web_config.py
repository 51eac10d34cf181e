"""Parses the web configuration file, `--web.config.file`: TLS, users and headers of the web listener.

The format is the commonly used part of the Prometheus exporter toolkit's. Unsupported fields are refused, so
that nobody relies on them. Certificates and keys are only named here; they are read elsewhere.
"""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from exporter.errors import SettingsError
from exporter.server.tls import PemFile, TlsConfig

BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
#: The toolkit's types that accept certificates without verifying them, and what to use instead.
UNVERIFIED = {
    "RequestClientCert": "VerifyClientCertIfGiven",
    "RequireAnyClientCert": "RequireAndVerifyClientCert",
    "RequireClientCert": "RequireAndVerifyClientCert",
}
#: Headers that can be set, with their possible values; empty for any value.
HEADERS = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
#: The toolkit's other fields, and what to do instead.
UNSUPPORTED = {
    "rate_limit": "only password checks are limited; set a rate limit in a proxy in front",
    "tls_server_config.cert": "use cert_file",
    "tls_server_config.key": "use key_file",
    "tls_server_config.client_ca": "use client_ca_file",
    "tls_server_config.client_allowed_sans": (
        "every certificate signed by client_ca_file is accepted; use a CA that signs only the allowed clients"
    ),
    "tls_server_config.cipher_suites": "OpenSSL's defaults are used; min_version: TLS13 allows fewer",
    "tls_server_config.curve_preferences": "OpenSSL's defaults are used",
    "tls_server_config.prefer_server_cipher_suites": "the server's order is always preferred",
}


class WebConfig(Struct, frozen=True, kw_only=True):
    """The settings of the web listener: TLS, bcrypt hashes by user name, and headers of every answer."""

    tls: TlsConfig | None = None
    users: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}


class TlsSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`tls_server_config`."""

    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: str = ""
    min_version: str = ""
    max_version: str = ""


class HttpSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`http_server_config`."""

    http2: str = ""
    headers: dict[str, str] = {}


class WebFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file; fields that it does not set are empty."""

    tls_server_config: TlsSection = TlsSection()
    http_server_config: HttpSection = HttpSection()
    basic_auth_users: dict[str, str] = {}


def read_web_config(text: bytes, folder: Path) -> WebConfig:
    """Return the settings in the text of a web configuration file; relative paths start from `folder`.

    Raises:
        SettingsError: a field is unknown, malformed or not supported. The text names the field, and quotes no
            value, since values may be secrets.
    """
    file = _parse(text)
    if file.http_server_config.http2.lower() not in ("", "false", "no", "off", "n"):
        raise SettingsError("http_server_config.http2: expected false, since only HTTP/1.1 is supported")
    return WebConfig(
        tls=None if file.tls_server_config == TlsSection() else _tls(file.tls_server_config, folder),
        users=_users(file.basic_auth_users),
        headers=_headers(file.http_server_config.headers),
    )


def _tls(section: TlsSection, folder: Path) -> TlsConfig:
    for field in ("cert_file", "key_file"):
        if not getattr(section, field):
            raise _error(field, "is missing: TLS needs a certificate and a key")
    auth = section.client_auth_type or "NoClientCert"
    if auth in UNVERIFIED:
        problem = f"{auth} does not verify client certificates; use {UNVERIFIED[auth]}"
        raise _error("client_auth_type", problem)
    if auth not in CLIENT_AUTH:
        raise _error("client_auth_type", "expected one of " + ", ".join(CLIENT_AUTH))
    # A CA without client_auth_type would verify nobody: probably a mistake, and a dangerous one.
    if section.client_ca_file and not CLIENT_AUTH[auth]:
        raise _error("client_auth_type", "expected RequireAndVerifyClientCert, since client_ca_file is set")
    if CLIENT_AUTH[auth] and not section.client_ca_file:
        raise _error("client_ca_file", "required with this client_auth_type")
    versions = section.min_version or "TLS12", section.max_version or "TLS13"
    for field, version in zip(("min_version", "max_version"), versions, strict=True):
        if version not in VERSIONS:
            raise _error(field, "expected TLS12 or TLS13; older versions are not secure")
    if versions[0] > versions[1]:
        raise _error("max_version", f"expected at least {versions[0]}")
    cert, key, client_ca = (
        PemFile(f"tls_server_config.{field}", str(folder / getattr(section, field)))
        for field in ("cert_file", "key_file", "client_ca_file")
    )
    return TlsConfig(
        cert=cert,
        key=key,
        client_ca=client_ca if section.client_ca_file else None,
        client_auth=CLIENT_AUTH[auth],
        min_version=VERSIONS[versions[0]],
        max_version=VERSIONS[versions[1]],
    )


def _error(field: str, problem: str) -> SettingsError:
    return SettingsError(f"tls_server_config.{field}: {problem}")


def _users(users: dict[str, str]) -> dict[str, str]:
    for name, hashed in users.items():
        if ":" in name:  # basic authentication sends name:password
            raise SettingsError(f"basic_auth_users.{name}: expected a name without a colon")
        if not BCRYPT.fullmatch(hashed):
            problem = "expected a bcrypt hash; make one with htpasswd -nB"
            raise SettingsError(f"basic_auth_users.{name}: {problem}")
    return users


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        field = f"http_server_config.headers.{name}"
        if name not in HEADERS:
            raise SettingsError(f"{field}: expected one of " + ", ".join(HEADERS))
        if value and HEADERS[name] and value not in HEADERS[name]:
            raise SettingsError(f"{field}: expected " + " or ".join(HEADERS[name]))
        # A line break would let the value add headers of its own.
        if not (value.isascii() and value.isprintable()):
            raise SettingsError(f"{field}: expected one line of ASCII")
    return {name: value for name, value in headers.items() if value}


class _Loader(yaml.SafeLoader):
    """Loads every scalar as a string, since a user name may look like a number or a date."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; refuse a key that occurs twice."""
        # YAML forbids a key twice, but PyYAML would silently use the last one. Merge keys ("<<") may repeat.
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE]
        for name in names:
            if names.count(name) > 1:
                line = node.start_mark.line + 1
                raise SettingsError(f"{name}: is set twice in the section at line {line}; remove one")
        return super().construct_mapping(node, deep)


NULL, MERGE, *TEXTS = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "merge", "str", "seq", "map"))
# A tag must not change the type, either: `!!int x` is refused like any unknown tag.
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in (NULL, *TEXTS, None)
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (NULL, MERGE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parse(text: bytes) -> WebFile:
    try:
        document = _without_nulls(yaml.load(text, _Loader))  # noqa: S506 - a SafeLoader
        return msgspec.convert({} if document is None else document, WebFile)
    except msgspec.ValidationError as exc:
        raise SettingsError(_field_first(" ".join(str(exc).split()))) from None
    except (yaml.YAMLError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as exc:
        # Only the line number: the text of the exception may quote the file, which holds secrets.
        mark = getattr(exc, "problem_mark", None)
        raise SettingsError(f"line {mark.line + 1 if mark else 1}: expected YAML") from None


def _without_nulls(value: Any, field: str = "") -> Any:
    """Return `value` without null fields, as if they were not set.

    A user with a null password stays, so that it is refused: without users anybody would have access.
    """
    if not isinstance(value, dict):
        return value
    kept = {name: _without_nulls(each, str(name)) for name, each in value.items()}
    return {name: each for name, each in kept.items() if each is not None or field == "basic_auth_users"}


def _field_first(problem: str) -> str:
    """Return a message of msgspec's with the field at its beginning, and advice for unsupported fields."""
    what, _, place = problem.partition(" - at ")
    field = place.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown is None:
        return f"{field or 'the file'}: {what[:1].lower()}{what[1:]}"
    field = f"{field}.{unknown[1]}".removeprefix(".")
    if field in UNSUPPORTED:
        return f"{field}: is not supported: {UNSUPPORTED[field]}"
    return f"{field}: is not a field of this file; check its spelling"
