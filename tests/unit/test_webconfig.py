"""The web configuration file: every field of the toolkit's format, written well and badly."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.errors import SettingsError
from exporter.webconfig import HEADERS, Rate, WebConfig, read_web_config
from exporter.webfile import HttpSection, RateSection, TlsSection, WebFile
from exporter.webtls import Pem, TlsConfig
from tests.unit.histories import tried

FOLDER = Path("/etc/exporter")
#: Of the password "pw"; made for this test.
HASH = "$2y$04$K3ZRL3pIcxAUh0FPxUvpjOT3q3ECrqS/1n.c92FSRJzV6zhaeVUzK"
FILES = "tls_server_config:\n  cert_file: server.crt\n  key_file: tls/server.key\n"


NAMES = [
    *(field for form in (WebFile, TlsSection, HttpSection, RateSection) for field in form.__struct_fields__),
    *HEADERS,
]


def read(text: str) -> WebConfig:
    """Read a file in FOLDER."""
    return read_web_config(text.encode(), FOLDER)


def tls(more: str = "") -> TlsConfig:
    """Read a TLS section with certificate, key and more."""
    config = read(FILES + more).tls
    assert config is not None
    return config


@pytest.mark.parametrize(
    "text", ["", "\n", "---\n", "# nothing\n", "tls_server_config:\nbasic_auth_users:\n"]
)
def test_what_gives_nothing_asks_for_nothing(text: str) -> None:
    """An empty file is plain HTTP for everybody, as in the toolkit."""
    assert read(text) == WebConfig()


def test_files_are_found_from_where_the_configuration_is() -> None:
    """Unless they say where they are."""
    assert tls().cert == Pem("tls_server_config.cert_file", path="/etc/exporter/server.crt")
    assert tls().key.path == "/etc/exporter/tls/server.key"
    there = tls("  client_ca_file: /ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n").client_ca
    assert there == Pem("tls_server_config.client_ca_file", path="/ca.pem")


def test_certificates_and_keys_may_stand_in_it() -> None:
    """A file comes before a text, as in the toolkit."""
    config = read(
        "tls_server_config:\n  cert: |\n    CERT\n  key: KEY\n  client_ca: CA\n"
        "  client_auth_type: VerifyClientCertIfGiven\n"
    ).tls
    assert config is not None
    assert config.cert == Pem("tls_server_config.cert", text="CERT\n")
    assert config.key == Pem("tls_server_config.key", text="KEY")
    assert config.client_ca == Pem("tls_server_config.client_ca", text="CA")
    assert tls("  cert: TEXT\n").cert.path == "/etc/exporter/server.crt"


@pytest.mark.parametrize(
    ("given", "auth", "notes"),
    [
        ("", "none", 0),
        ("client_auth_type: NoClientCert", "none", 0),
        ("client_auth_type: ~", "none", 0),
        ("client_auth_type: RequestClientCert", "none", 1),
        ("client_auth_type: VerifyClientCertIfGiven", "optional", 0),
        ("client_auth_type: RequireAndVerifyClientCert", "required", 0),
        ("client_auth_type: RequireAnyClientCert\n  client_ca_file: ca", "required", 1),
        ("client_auth_type: RequireClientCert\n  client_ca: CA", "required", 1),
    ],
)
def test_clients_are_asked_as_go_would_ask_them(given: str, auth: str, notes: int) -> None:
    """Or more is asked of them, and a note says so."""
    config = read(FILES + f"  {given}\n")
    assert config.tls is not None
    assert config.tls.client_auth == auth
    assert len(config.notes) == notes


def test_versions_suites_and_curves_are_those_asked_for() -> None:
    """Under OpenSSL's names."""
    assert (tls().min_version, tls().max_version, tls().ciphers, tls().curve) == ("TLS12", "TLS13", (), "")
    assert tls("  min_version: TLS13\n").min_version == "TLS13"
    assert tls("  max_version: TLS12\n").max_version == "TLS12"
    suites = (
        "  cipher_suites:\n  - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n  - TLS_RSA_WITH_AES_256_CBC_SHA\n"
        "  - TLS_AES_128_GCM_SHA256\n"
    )
    assert tls(suites).ciphers == ("ECDHE-RSA-AES128-GCM-SHA256", "AES256-SHA")
    assert tls(suites).min_version == "TLS12"
    assert tls("  curve_preferences: [CurveP384]\n").curve == "secp384r1"
    assert tls("  curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]\n").curve == ""
    assert tls(
        "  client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [a, 10.0.0.1]\n"
    ).client_names == {
        "a",
        "10.0.0.1",
    }


def test_what_cannot_be_done_makes_it_stricter_and_is_noted() -> None:
    """Never laxer."""
    old = read(FILES + "  min_version: TLS10\n")
    assert old.tls is not None
    assert old.tls.min_version == "TLS12"
    only_newest = read(FILES + "  cipher_suites: [TLS_AES_256_GCM_SHA384]\n")
    assert only_newest.tls is not None
    assert (only_newest.tls.min_version, only_newest.tls.ciphers) == ("TLS13", ())
    curves = read(FILES + "  curve_preferences: [X25519, CurveP256]\n")
    assert curves.tls is not None
    assert curves.tls.curve == "X25519"
    http2 = read("http_server_config: {http2: true}")
    for config, said in (
        (old, "min_version"),
        (only_newest, "cipher_suites"),
        (curves, "curve"),
        (http2, "http2"),
    ):
        assert len(config.notes) == 1
        assert said in config.notes[0]
    assert read("http_server_config: {http2: false}").notes == ()


@pytest.mark.parametrize(
    ("text", "on"),
    [("", True), ("true", True), ("Yes", True), ("false", False), ("off", False), ('"no"', False)],
)
def test_a_switch_is_read_as_yaml_has_it(text: str, on: bool) -> None:
    """prefer_server_cipher_suites is on unless it is turned off."""
    assert tls(f"  prefer_server_cipher_suites: {text}\n").own_order is on


def test_scalars_are_read_as_they_are_written() -> None:
    """A user may be called 123, or no; a header's value may look like a number."""
    config = read(
        f"basic_auth_users:\n  123: {HASH}\n  no: {HASH}\n  0x1f: {HASH}\n  2001-01-01: {HASH}\n"
        "http_server_config:\n  headers:\n    X-XSS-Protection: 1\n"
        "    Strict-Transport-Security: max-age=31536000\n"
        "    X-Frame-Options: ''\n"
    )
    assert set(config.users) == {"123", "no", "0x1f", "2001-01-01"}
    assert config.headers == {"X-XSS-Protection": "1", "Strict-Transport-Security": "max-age=31536000"}


def test_anchors_and_merges_are_read() -> None:
    """They are YAML."""
    config = read(f"basic_auth_users: &all\n  a: &hash {HASH}\n  b: *hash\n")
    assert dict(config.users) == {"a": HASH, "b": HASH}


@pytest.mark.parametrize(("kind", "cost"), [("2a", "04"), ("2b", "10"), ("2x", "31"), ("2y", "12")])
def test_every_kind_of_bcrypt_hash_is_taken(kind: str, cost: str) -> None:
    """Whatever tool made it."""
    text = f"${kind}${cost}${HASH[7:]}"
    assert read(f"basic_auth_users: {{alice: {text}}}").users == {"alice": text}


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("{interval: 1s, burst: 10}", Rate(1.0, 10)),
        ("{interval: 1m30s, burst: 1}", Rate(90.0, 1)),
        ("{interval: 100ms, burst: 5}", Rate(0.1, 5)),
        ("{interval: 1.5h, burst: 5}", Rate(5400.0, 5)),
        ("{interval: 1000000000, burst: 2}", Rate(1.0, 2)),
        ("{interval: 0, burst: 2}", Rate(0.0, 2)),
        ("{interval: 0s}", Rate(0.0, 0)),
        ("", Rate()),
    ],
)
def test_a_rate_is_read_as_go_writes_it(text: str, rate: Rate) -> None:
    """A bare number is of nanoseconds."""
    found = read(f"rate_limit: {text}").rate
    assert (found.interval, found.burst) == (pytest.approx(rate.interval), rate.burst)


BAD: list[tuple[str, str]] = [
    ("nonsense", "the file"),
    ("- a\n- b\n", "the file"),
    ("a: [", "line 1"),
    ("a: 1\nb: c: d", "line 2"),
    ("basic_auth_users: {a: !!python/object:os.system x}", "line 1"),
    ("\x00", "line 1"),
    ("&a [*a]", "line 1"),
    ("basic_auth_users: &a {b: *a}", "line 1"),
    ("tls_server_configs: {}", "tls_server_configs: is not a field"),
    (FILES + "  cert_fil: x\n", "tls_server_config.cert_fil: is not a field"),
    ("http_server_config: {http3: true}", "http_server_config.http3: is not a field"),
    ("rate_limit: {rate: 1}", "rate_limit.rate: is not a field"),
    ("basic_auth_users: {a: x}\nbasic_auth_users: {}", "basic_auth_users: is given twice"),
    (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n", "a: is given twice"),
    ("tls_server_config: yes", "tls_server_config: expected `object`"),
    ("tls_server_config: {cert_file: [a]}", "tls_server_config.cert_file"),
    (FILES + "  cipher_suites: TLS_RSA_WITH_AES_128_CBC_SHA\n", "tls_server_config.cipher_suites"),
    ("tls_server_config: {key_file: k}", "tls_server_config.cert_file"),
    ("tls_server_config: {cert_file: '', key_file: k}", "tls_server_config.cert_file"),
    ("tls_server_config: {cert_file: c}", "tls_server_config.key_file"),
    ("tls_server_config: {cert: c, key: ''}", "tls_server_config.key_file"),
    ("tls_server_config: {min_version: TLS12}", "tls_server_config.cert_file"),
    ("tls_server_config: {client_auth_type: RequireAndVerifyClientCert}", "tls_server_config.cert_file"),
    (
        FILES + "  client_auth_type: Sometimes\n",
        "tls_server_config.client_auth_type: 'Sometimes' is not known",
    ),
    (FILES + "  client_auth_type: RequireAnyClientCert\n", "tls_server_config.client_auth_type"),
    (FILES + "  client_ca_file: ca\n", "tls_server_config.client_auth_type"),
    (FILES + "  client_ca: CA\n  client_auth_type: NoClientCert\n", "tls_server_config.client_auth_type"),
    (FILES + "  client_allowed_sans: [a]\n", "tls_server_config.client_allowed_sans"),
    (
        FILES + "  client_auth_type: VerifyClientCertIfGiven\n  client_allowed_sans: [a]\n",
        "tls_server_config.client_allowed_sans",
    ),
    (
        FILES + "  client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: []\n",
        "tls_server_config.client_allowed_sans",
    ),
    (FILES + "  min_version: TLS14\n", "tls_server_config.min_version: 'TLS14' is not known"),
    (FILES + "  max_version: '1.2'\n", "tls_server_config.max_version"),
    (FILES + "  max_version: TLS11\n", "tls_server_config.max_version: expected at least TLS12"),
    (FILES + "  min_version: TLS13\n  max_version: TLS12\n", "tls_server_config.max_version"),
    (
        FILES + "  cipher_suites: [TLS_AES_128_GCM_SHA256]\n  max_version: TLS12\n",
        "tls_server_config.max_version",
    ),
    (FILES + "  cipher_suites: [TLS_OF_MY_OWN]\n", "tls_server_config.cipher_suites: 'TLS_OF_MY_OWN'"),
    (FILES + "  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n", "tls_server_config.cipher_suites"),
    (FILES + "  curve_preferences: [CurveP123]\n", "tls_server_config.curve_preferences: 'CurveP123'"),
    (FILES + "  prefer_server_cipher_suites: perhaps\n", "tls_server_config.prefer_server_cipher_suites"),
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
    ("rate_limit: {interval: soon, burst: 1}", "rate_limit.interval"),
    ("rate_limit: {interval: -1s, burst: 1}", "rate_limit.interval"),
    ("rate_limit: {interval: 1s}", "rate_limit.burst"),
    ("rate_limit: {interval: 1s, burst: many}", "rate_limit.burst"),
    ("rate_limit: {interval: 1s, burst: 9999999}", "rate_limit.burst"),
]


@pytest.mark.parametrize(("text", "named"), BAD)
def test_what_is_wrong_is_named_in_one_line(text: str, named: str) -> None:
    """The field, and never a hash, a password or a key."""
    with pytest.raises(SettingsError) as caught:
        read(text)
    said = str(caught.value)
    assert named in said
    assert "\n" not in said
    assert HASH[8:20] not in said


@given(st.text(max_size=60) | st.binary(max_size=60))
@example('tls_server_config: {cert: "\\ud800", key: k}')
@example('basic_auth_users: {"\\ud800": "\\ud800"}')
@example("? [a]\n: b")
@example("? {a: b}\n: c")
@example("tls_server_config: {1: !!binary YQ==, [a]: !!set {a}}")
@example("[" * 2000)
@tried(50)
def test_no_text_makes_another_error(text: str | bytes) -> None:
    """It is a configuration, or it is refused."""
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
@tried(60)
def test_no_arrangement_of_fields_makes_another_error(arrangement: object) -> None:
    """Whatever stands where something else is expected."""
    with contextlib.suppress(SettingsError):
        read(json.dumps(arrangement))


def test_what_is_malformed_is_not_quoted() -> None:
    """A slip of the pen may have put a password anywhere."""
    secrets: list[Any] = [
        "basic_auth_users: {alice: [canary]}",
        "basic_auth_users: {alice: canary}",
        "basic_auth_users:\n  alice: 'canary\n",
        "basic_auth_users:\n\talice: canary\n",
        "basic_auth_users: {alice: *canary}",
        "tls_server_config: {key: {canary: x}}",
    ]
    for text in secrets:
        with pytest.raises(SettingsError) as caught:
            read(text)
        assert "canary" not in str(caught.value)
