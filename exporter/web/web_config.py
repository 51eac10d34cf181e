"""The web configuration file: who may look at the web listener, and how.

The format is that of the Prometheus exporter toolkit, or the part of it that its users set. Unsupported
fields are refused, so that nobody relies on them. Nothing else is read or opened here.
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
#: Those of the toolkit that take certificates which nobody verifies, and what to take.
UNVERIFIED = {
    "RequestClientCert": "VerifyClientCertIfGiven",
    "RequireAnyClientCert": "RequireAndVerifyClientCert",
    "RequireClientCert": "RequireAndVerifyClientCert",
}
#: Headers that can be set, and the values of those that have no others.
HEADERS = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
#: The toolkit's other fields, and what holds instead.
UNSUPPORTED = {
    "rate_limit": "there is no limit but that of guessed passwords; a proxy in front can set one",
    "tls_server_config.cert": "name a file in cert_file",
    "tls_server_config.key": "name a file in key_file",
    "tls_server_config.client_ca": "name a file in client_ca_file",
    "tls_server_config.client_allowed_sans": (
        "every certificate signed by client_ca_file is let in; have an authority for these clients alone"
    ),
    "tls_server_config.cipher_suites": "OpenSSL's own choice holds, min_version: TLS13 narrows it",
    "tls_server_config.curve_preferences": "OpenSSL's own choice holds",
    "tls_server_config.prefer_server_cipher_suites": "the server's preference always holds",
}


class WebConfig(Struct, frozen=True, kw_only=True):
    """Who may look, and how.

    Args:
        tls: None for plain HTTP.
        users: bcrypt hashes of passwords, by user; empty if anybody may look.
        headers: of every answer.
    """

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
    """The whole file; what it does not give is empty."""

    tls_server_config: TlsSection = TlsSection()
    http_server_config: HttpSection = HttpSection()
    basic_auth_users: dict[str, str] = {}


def read_web_config(text: bytes, folder: Path) -> WebConfig:
    """Return what the text of a web configuration file asks for.

    Args:
        folder: what paths in it are relative to.

    Raises:
        SettingsError: a field is unknown, malformed or not supported; it is named, and no value is quoted.
    """
    form = _read_form(text)
    if form.http_server_config.http2.lower() not in ("", "false", "no", "off", "n"):
        raise SettingsError("http_server_config.http2: expected false, for HTTP/1.1 alone is spoken")
    return WebConfig(
        tls=None if form.tls_server_config == TlsSection() else _tls(form.tls_server_config, folder),
        users=_users(form.basic_auth_users),
        headers=_headers(form.http_server_config.headers),
    )


def _tls(section: TlsSection, folder: Path) -> TlsConfig:
    for field in ("cert_file", "key_file"):
        if not getattr(section, field):
            raise _wrong(field, "required: TLS needs a certificate and a key")
    auth = section.client_auth_type or "NoClientCert"
    if auth in UNVERIFIED:
        raise _wrong(
            "client_auth_type", f"the certificate of a client would not be verified: take {UNVERIFIED[auth]}"
        )
    if auth not in CLIENT_AUTH:
        raise _wrong("client_auth_type", "expected one of " + ", ".join(CLIENT_AUTH))
    if section.client_ca_file and not CLIENT_AUTH[auth]:
        raise _wrong("client_auth_type", "expected RequireAndVerifyClientCert, as there is a client_ca_file")
    if CLIENT_AUTH[auth] and not section.client_ca_file:
        raise _wrong("client_ca_file", "required with this client_auth_type")
    versions = section.min_version or "TLS12", section.max_version or "TLS13"
    for field, version in zip(("min_version", "max_version"), versions, strict=True):
        if version not in VERSIONS:
            raise _wrong(field, "expected TLS12 or TLS13; older ones are not safe")
    if versions[0] > versions[1]:
        raise _wrong("max_version", f"expected at least {versions[0]}")
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


def _wrong(field: str, problem: str) -> SettingsError:
    return SettingsError(f"tls_server_config.{field}: {problem}")


def _users(users: dict[str, str]) -> dict[str, str]:
    for name, text in users.items():
        if ":" in name:
            raise SettingsError(f"basic_auth_users.{name}: expected a name without a colon")
        if not BCRYPT.fullmatch(text):
            raise SettingsError(
                f"basic_auth_users.{name}: expected a bcrypt hash, such as htpasswd -nB gives"
            )
    return users


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        field = f"http_server_config.headers.{name}"
        if name not in HEADERS:
            raise SettingsError(f"{field}: expected one of " + ", ".join(HEADERS))
        if value and HEADERS[name] and value not in HEADERS[name]:
            raise SettingsError(f"{field}: expected " + " or ".join(HEADERS[name]))
        if not (value.isascii() and value.isprintable()):
            raise SettingsError(f"{field}: expected one line of ASCII")
    return {name: value for name, value in headers.items() if value}


class _Loader(yaml.SafeLoader):
    """Reads every scalar as the text that it is written as: a name or a password may look like a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping.

        Raises:
            SettingsError: something stands twice in it.
        """
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SettingsError(f"{twice}: is given twice (line {node.start_mark.line + 1} and after)")
        return super().construct_mapping(node, deep)


NULL, MERGE, *TEXTS = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "merge", "str", "seq", "map"))
# Nor as another kind where a tag asks for that: `!!int x` is refused like any unknown tag.
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in (NULL, *TEXTS, None)
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (NULL, MERGE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_form(text: bytes) -> WebFile:
    try:
        given = _without_nulls(yaml.load(text, _Loader))  # noqa: S506 - a SafeLoader
        return msgspec.convert({} if given is None else given, WebFile)
    except msgspec.ValidationError as exc:
        raise SettingsError(_named(" ".join(str(exc).split()))) from None
    except (yaml.YAMLError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as exc:
        # No more of what it says: it may quote the file, and the file has secrets.
        mark = getattr(exc, "problem_mark", None)
        raise SettingsError(f"line {mark.line + 1 if mark else 1}: expected YAML") from None


def _without_nulls(value: Any, field: str = "") -> Any:
    """Return `value` without what is null in it; but a user without a password stays, to be refused."""
    if not isinstance(value, dict):
        return value
    kept = {name: _without_nulls(each, str(name)) for name, each in value.items()}
    return {name: each for name, each in kept.items() if each is not None or field == "basic_auth_users"}


def _named(problem: str) -> str:
    """Return what msgspec says, the field first."""
    what, _, place = problem.partition(" - at ")
    field = place.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown is None:
        return f"{field or 'the file'}: {what[:1].lower()}{what[1:]}"
    field = f"{field}.{unknown[1]}".removeprefix(".")
    if field in UNSUPPORTED:
        return f"{field}: is not supported: {UNSUPPORTED[field]}"
    return f"{field}: is not a field of this file"
