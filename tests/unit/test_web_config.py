"""The web configuration file: every field of the toolkit's format, with valid and invalid values."""

import contextlib
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.errors import SettingsError
from exporter.protocol.redact import redact_text
from exporter.server.tls import PemFile, TlsConfig
from exporter.web.web_config import (
    HEADERS,
    UNSUPPORTED,
    HttpSection,
    TlsSection,
    WebConfig,
    WebFile,
    read_web_config,
)
from tests.unit.histories import max_examples

FOLDER = Path("/etc/exporter")
#: A hash of the password "pw", made for this test.
HASH = "$2y$04$K3ZRL3pIcxAUh0FPxUvpjOT3q3ECrqS/1n.c92FSRJzV6zhaeVUzK"
FILES = "tls_server_config:\n  cert_file: server.crt\n  key_file: tls/server.key\n"
CA = "  client_ca_file: ca\n"
NAMES = [
    *(field for form in (WebFile, TlsSection, HttpSection) for field in form.__struct_fields__),
    *(field.rpartition(".")[2] for field in UNSUPPORTED),
    *HEADERS,
]


def read(text: str) -> WebConfig:
    """Read a file in FOLDER."""
    return read_web_config(text.encode(), FOLDER)


def tls(more: str = "") -> TlsConfig:
    """Read a TLS section with certificate, key and more fields."""
    config = read(FILES + more).tls
    assert config is not None
    return config


@pytest.mark.parametrize(
    "text", ["", "\n", "---\n", "# nothing\n", "tls_server_config:\nbasic_auth_users:\n"]
)
def test_an_empty_file_configures_nothing(text: str) -> None:
    """That is plain HTTP without authentication, as in the toolkit."""
    assert read(text) == WebConfig()


def test_relative_paths_start_at_the_folder_of_the_file() -> None:
    """Absolute paths are used as they are."""
    assert tls().cert == PemFile("tls_server_config.cert_file", path="/etc/exporter/server.crt")
    assert tls().key.path == "/etc/exporter/tls/server.key"
    client_ca = tls("  client_ca_file: /ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n").client_ca
    assert client_ca == PemFile("tls_server_config.client_ca_file", path="/ca.pem")


@pytest.mark.parametrize(
    ("given", "auth"),
    [
        ("", ssl.CERT_NONE),
        ("  client_auth_type: NoClientCert\n", ssl.CERT_NONE),
        ("  client_auth_type: ~\n", ssl.CERT_NONE),
        ("  client_auth_type: VerifyClientCertIfGiven\n" + CA, ssl.CERT_OPTIONAL),
        ("  client_auth_type: RequireAndVerifyClientCert\n" + CA, ssl.CERT_REQUIRED),
    ],
)
def test_client_certificates_are_requested_as_in_go(given: str, auth: ssl.VerifyMode) -> None:
    """Each certificate that a client shows is verified."""
    assert tls(given).client_auth == auth


@pytest.mark.parametrize(
    ("given", "lowest", "highest"),
    [
        ("", "TLSv1_2", "TLSv1_3"),
        ("  min_version: TLS13\n", "TLSv1_3", "TLSv1_3"),
        ("  max_version: TLS12\n", "TLSv1_2", "TLSv1_2"),
        ("  min_version: TLS12\n  max_version: TLS13\n", "TLSv1_2", "TLSv1_3"),
    ],
)
def test_the_tls_versions_can_be_limited(given: str, lowest: str, highest: str) -> None:
    """TLS 1.2 and 1.3 by default."""
    assert (tls(given).min_version.name, tls(given).max_version.name) == (lowest, highest)


@pytest.mark.parametrize("text", ["false", "no", "off", '"false"', "~"])
def test_http2_may_be_off(text: str) -> None:
    """It is always off."""
    assert read(f"http_server_config: {{http2: {text}}}") == WebConfig()


#: The fields of the toolkit's format that this program does not support.
UNSUPPORTED_FIELDS = (
    "rate_limit",
    "tls_server_config.cert",
    "tls_server_config.key",
    "tls_server_config.client_ca",
    "tls_server_config.client_allowed_sans",
    "tls_server_config.cipher_suites",
    "tls_server_config.curve_preferences",
    "tls_server_config.prefer_server_cipher_suites",
)


@pytest.mark.parametrize("value", ["canary", "[canary]", "{canary: canary}", "", "''"])
@pytest.mark.parametrize("field", UNSUPPORTED_FIELDS)
def test_an_unsupported_field_is_refused_with_an_alternative(field: str, value: str) -> None:
    """It is refused with any value, which is not repeated. An empty value is accepted."""
    section, _, name = field.rpartition(".")
    text = f"{name}: {value}\n"
    text = FILES + f"  {text}" if section else text
    if not value:
        read(text)
        return
    with pytest.raises(SettingsError) as caught:
        read(text)
    error = str(caught.value)
    assert redact_text(error) == error == f"{field}: is not supported: {UNSUPPORTED[field]}"
    assert "canary" not in error
    assert "\n" not in error


def test_scalars_are_read_as_texts() -> None:
    """A user may be called 123 or no; the value of a header may look like a number."""
    config = read(
        f"basic_auth_users:\n  123: {HASH}\n  no: {HASH}\n  0x1f: {HASH}\n  2001-01-01: {HASH}\n"
        "http_server_config:\n  headers:\n    X-XSS-Protection: 1\n"
        "    Strict-Transport-Security: max-age=31536000\n"
        "    X-Frame-Options: ''\n"
    )
    assert set(config.users) == {"123", "no", "0x1f", "2001-01-01"}
    assert config.headers == {"X-XSS-Protection": "1", "Strict-Transport-Security": "max-age=31536000"}


def test_anchors_and_aliases_are_read() -> None:
    """They are part of YAML."""
    config = read(f"basic_auth_users: &all\n  a: &hash {HASH}\n  b: *hash\n")
    assert dict(config.users) == {"a": HASH, "b": HASH}


@pytest.mark.parametrize(("kind", "cost"), [("2a", "04"), ("2b", "10"), ("2x", "31"), ("2y", "12")])
def test_every_kind_of_bcrypt_hash_is_accepted(kind: str, cost: str) -> None:
    """The hash may be from any tool."""
    text = f"${kind}${cost}${HASH[7:]}"
    assert read(f"basic_auth_users: {{alice: {text}}}").users == {"alice": text}


INVALID: list[tuple[str, str]] = [
    ("nonsense", "the file"),
    ("- a\n- b\n", "the file"),
    ("a: [", "line 1"),
    ("a: 1\nb: c: d", "line 2"),
    ("basic_auth_users: {a: !!python/object:os.system x}", "line 1"),
    ("\x00", "line 1"),
    *(
        (f"basic_auth_users: {{a: !!{kind} x}}", "line 1")
        for kind in ("int", "float", "bool", "timestamp", "binary")
    ),
    ("&a [*a]", "the file"),
    ("basic_auth_users: &a {b: *a}", "line 1"),
    ("tls_server_configs: {}", "tls_server_configs: is not a field"),
    (FILES + "  cert_fil: x\n", "tls_server_config.cert_fil: is not a field"),
    ("http_server_config: {http3: true}", "http_server_config.http3: is not a field"),
    ("basic_auth_users: {a: x}\nbasic_auth_users: {}", "basic_auth_users: is set twice"),
    (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n", "a: is set twice"),
    ("tls_server_config: yes", "tls_server_config: expected `object`"),
    ("tls_server_config: {cert_file: [a]}", "tls_server_config.cert_file"),
    ("tls_server_config: {key_file: k}", "tls_server_config.cert_file"),
    ("tls_server_config: {cert_file: '', key_file: k}", "tls_server_config.cert_file"),
    ("tls_server_config: {cert_file: c}", "tls_server_config.key_file"),
    ("tls_server_config: {min_version: TLS12}", "tls_server_config.cert_file"),
    ("tls_server_config: {client_auth_type: RequireAndVerifyClientCert}", "tls_server_config.cert_file"),
    (FILES + "  client_auth_type: Sometimes\n", "client_auth_type: expected one of NoClientCert, "),
    (FILES + "  client_auth_type: RequestClientCert\n", "use VerifyClientCertIfGiven"),
    (FILES + "  client_auth_type: RequireAnyClientCert\n", "use RequireAndVerifyClientCert"),
    (FILES + "  client_auth_type: RequireClientCert\n" + CA, "use RequireAndVerifyClientCert"),
    (FILES + CA, "tls_server_config.client_auth_type: expected RequireAndVerifyClientCert"),
    (FILES + CA + "  client_auth_type: NoClientCert\n", "tls_server_config.client_auth_type"),
    (FILES + "  client_auth_type: VerifyClientCertIfGiven\n", "tls_server_config.client_ca_file"),
    (FILES + "  client_auth_type: RequireAndVerifyClientCert\n", "tls_server_config.client_ca_file"),
    *(
        (FILES + f"  {field}: {version}\n", f"tls_server_config.{field}: expected TLS12 or TLS13")
        for field in ("min_version", "max_version")
        for version in ("TLS10", "TLS11", "TLS14", "'1.2'")
    ),
    (FILES + "  min_version: TLS13\n  max_version: TLS12\n", "max_version: expected at least TLS13"),
    ("http_server_config: {http2: true}", "http_server_config.http2: expected false"),
    ("http_server_config: {http2: perhaps}", "http_server_config.http2"),
    ("http_server_config: {headers: {Server: mine}}", "http_server_config.headers.Server"),
    ("http_server_config: {headers: {x-frame-options: deny}}", "http_server_config.headers.x-frame-options"),
    (
        "http_server_config: {headers: {X-Frame-Options: maybe}}",
        "X-Frame-Options: expected deny or sameorigin",
    ),
    (
        "http_server_config: {headers: {X-Content-Type-Options: sniff}}",
        "X-Content-Type-Options: expected nosniff",
    ),
    (
        'http_server_config: {headers: {X-XSS-Protection: "1\\r\\nSet-Cookie: a=b"}}',
        "headers.X-XSS-Protection",
    ),
    ("http_server_config: {headers: [deny]}", "http_server_config.headers"),
    ("basic_auth_users: {alice: secret}", "basic_auth_users.alice"),
    ("basic_auth_users: {alice: ''}", "basic_auth_users.alice"),
    (f"basic_auth_users: {{alice: {HASH[:-1]}}}", "basic_auth_users.alice"),
    (f"basic_auth_users: {{alice: {HASH.replace('$04$', '$03$')}}}", "basic_auth_users.alice"),
    (f"basic_auth_users: {{'a:b': {HASH}}}", "basic_auth_users.a:b"),
    (f"basic_auth_users: [{HASH}]", "basic_auth_users"),
]


@pytest.mark.parametrize(("text", "named"), INVALID)
def test_an_invalid_field_is_named_in_one_line(text: str, named: str) -> None:
    """The error contains no hash, password or key."""
    with pytest.raises(SettingsError) as caught:
        read(text)
    error = str(caught.value)
    assert named in error
    assert redact_text(error) == error  # the log shows it unchanged
    assert "\n" not in error
    assert HASH[8:20] not in error


@given(st.text(max_size=60) | st.binary(max_size=60))
@example('tls_server_config: {cert_file: "\\ud800", key_file: k}')
@example('basic_auth_users: {"\\ud800": "\\ud800"}')
@example("? [a]\n: b")
@example("? {a: b}\n: c")
@example("tls_server_config: {1: !!binary YQ==, [a]: !!set {a}}")
@example("[" * 2000)
@max_examples(50)
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    """No other exception is raised."""
    with contextlib.suppress(SettingsError):
        read_web_config(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), FOLDER)


@given(
    st.recursive(
        st.sampled_from(["", "~", "true", "1s", "TLS13", "deny", "a b", "RequireAndVerifyClientCert", HASH]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
@max_examples(60)
def test_any_arrangement_of_fields_is_read_or_refused(arrangement: object) -> None:
    """Values may have an unexpected type."""
    with contextlib.suppress(SettingsError):
        read(json.dumps(arrangement))


def test_a_malformed_value_is_not_quoted() -> None:
    """A password may be anywhere by mistake."""
    secrets: list[Any] = [
        "basic_auth_users: {alice: [canary]}",
        "basic_auth_users: {alice: canary}",
        "basic_auth_users:\n  alice: 'canary\n",
        "basic_auth_users:\n\talice: canary\n",
        "basic_auth_users: {alice: *canary}",
        "tls_server_config: {key_file: {canary: x}}",
        "tls_server_config: {client_auth_type: canary, cert_file: a, key_file: b}",
        "tls_server_config: {min_version: canary, cert_file: a, key_file: b}",
        "http_server_config: {http2: canary}",
        "http_server_config: {headers: {X-Frame-Options: canary}}",
    ]
    for text in secrets:
        with pytest.raises(SettingsError) as caught:
            read(text)
        assert "canary" not in str(caught.value)
