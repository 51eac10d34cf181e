"""The flags of the exporter: their forms, their defaults, and the values that they refuse."""

import re

import pytest

from exporter import cli
from exporter.config.flags import Address, default_text, flags_of, parse_address, parse_duration, parse_path
from exporter.config.settings import Settings, parse_labels
from exporter.config.settings import read as read_settings
from exporter.config.store_url import StoreUrl, parse_store
from exporter.errors import SettingsError
from exporter.relay import FoldSettings

FLAGS = flags_of(Settings)


def read(flags: list[str], environment: dict[str, str]) -> Settings:
    """Return the settings of a command with these flags."""
    return read_settings(vars(cli.parse(["serve", *flags])), environment)


def test_the_defaults_are_as_documented() -> None:
    """They are compared in the form in which a user would write them."""
    assert {f"--{flag.name}": default_text(Settings, field) for field, flag in FLAGS.items()} == {
        "--callback.listen-address": "0.0.0.0:8314",
        "--callback.max-body-bytes": "65536",
        "--callback.token-file": "",
        "--callback.sign-key-file": "",
        "--callback.require-sign": "false",
        "--callback.sign-leeway": "1m",
        "--callback.allow-from": "",
        "--callback.trusted-proxies": "",
        "--callback.rate-limit": "off",
        "--callback.tls-cert-file": "",
        "--callback.tls-key-file": "",
        "--http.idle-timeout": "75s",
        "--web.listen-address": "127.0.0.1:10314",
        "--web.config.file": "",
        "--web.telemetry-path": "/metrics",
        "--store.url": "sqlite:data/css-relay.db",
        "--store.password-file": "",
        "--metrics.labels": "appid,to_host",
        "--metrics.max-label-sets": "1000",
        "--metrics.max-tasks": "2000",
        "--relay.retry-window": "1h",
        "--relay.reorder-window": "3m",
        "--relay.ok-exit-codes": "0",
        "--relay.lost-after": "31d",
        "--relay.forget-after": "7d",
        "--relay.forget-stopped-after": "1h",
        "--quarantine.max-bodies": "1000",
        "--quarantine.max-bytes": "16777216",
        "--quarantine.max-age": "30d",
        "--redact.plain-hosts": "*.myqcloud.com",
        "--log.level": "info",
        "--log.format": "logfmt",
    }


@pytest.mark.parametrize("field", FLAGS)
def test_every_default_is_read_as_itself(field: str) -> None:
    """A flag with its default changes nothing."""
    assert read([f"--{FLAGS[field].name}", default_text(Settings, field)], {}) == Settings()
    assert read([], {FLAGS[field].variable: default_text(Settings, field)}) == Settings()


def test_a_flag_overrides_its_environment_variable() -> None:
    """The variable overrides the default. `--flag value` and `--flag=value` are the same."""
    environment = {"CSS_RELAY_RELAY_RETRY_WINDOW": "2h", "PATH": "/bin"}
    assert read([], environment).relay_retry_window == 7200
    assert read(["--relay.retry-window", "3h"], environment).relay_retry_window == 10800


def test_every_flag_of_the_fold_is_used() -> None:
    """No fold setting keeps its default."""
    flags = ["retry-window=2h", "reorder-window=4m", "lost-after=5d", "forget-after=6d"]
    flags += ["forget-stopped-after=7h", "ok-exit-codes=-22,0"]
    assert read([f"--relay.{flag}" for flag in flags], {}).fold_settings == FoldSettings(
        retry=2 * 3600.0,
        reorder=4 * 60.0,
        lost_after=5 * 86400.0,
        forget_after=6 * 86400.0,
        forget_stopped_after=7 * 3600.0,
        ok_codes=frozenset({"-22", "0"}),
    )


def test_a_variable_of_kubernetes_is_ignored() -> None:
    """A Service named css-relay-exporter sets such variables in every pod."""
    assert read([], {"CSS_RELAY_EXPORTER_SERVICE_HOST": "10.0.0.1"}) == Settings()


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--relay.retry-windov=1h"], {}, "--relay.retry-windov"),
        (["--relay.retry-window"], {}, "--relay.retry-window"),
        (["--relay.retry-window="], {}, "--relay.retry-window"),
        (["--relay.retry-window=1"], {}, "--relay.retry-window"),
        (["--relay.retry-window=99999d"], {}, "--relay.retry-window"),
        (["stray"], {}, "stray"),
        (["--callback.listen-address=8314"], {}, "--callback.listen-address"),
        (["--callback.listen-address=:65536"], {}, "--callback.listen-address"),
        (["--callback.max-body-bytes=0"], {}, "--callback.max-body-bytes"),
        (["--metrics.labels=appid,zone"], {}, "--metrics.labels"),
        (["--metrics.labels="], {}, "--metrics.labels"),
        (["--store.url=postgres://x"], {}, "--store.url"),
        (["--store.password-file=x"], {}, "--store.password-file"),
        (["--store.password-file=x", "--store.url=valkey://:y@db"], {}, "--store.password-file"),
        (["--web.telemetry-path=metrics"], {}, "--web.telemetry-path"),
        (["--log.level=loud"], {}, "--log.level"),
        (["--web.listen-address=:8314"], {}, "--web.listen-address"),
        (["--callback.tls-cert-file=c.pem"], {}, "--callback.tls-key-file"),
        (["--callback.tls-key-file=k.pem"], {}, "--callback.tls-cert-file"),
        ([], {"CSS_RELAY_STORE_URI": "x"}, "CSS_RELAY_STORE_URI"),
        ([], {"CSS_RELAY_LOG_FORMAT": "xml"}, "CSS_RELAY_LOG_FORMAT"),
    ],
)
def test_an_unknown_or_invalid_setting_is_named(
    arguments: list[str], environment: dict[str, str], named: str
) -> None:
    """The error is one line."""
    with pytest.raises(SettingsError, match=re.escape(named)) as caught:
        read(arguments, environment)
    assert "\n" not in str(caught.value)


def test_values_are_parsed() -> None:
    """Addresses, durations, labels, stores, paths."""
    assert parse_address("[::1]:80") == Address("::1", 80)
    assert parse_address(":0") == Address("0.0.0.0", 0)
    assert (str(Address("::1", 80)), str(Address("a", 1))) == ("[::1]:80", "a:1")
    public = [
        Address(h, 1).is_public
        for h in ("0.0.0.0", "::", "192.0.2.1", "host", "127.0.0.1", "::1", "localhost")
    ]
    assert public == [True, True, True, True, False, False, False]
    assert [parse_duration(t) for t in ("1h30m", "500ms", "1.5s", "2w")] == [5400, 0.5, 1.5, 1209600]
    assert parse_labels("to_host, appid") == ("appid", "to_host")
    assert parse_store("sqlite:/a/b.db") == StoreUrl(path="/a/b.db")
    assert parse_path("/a/metrics") == "/a/metrics"


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--relay.ok-exit-codes", "-22,0"], "relay_ok_exit_codes", ("-22", "0")),
        (["--relay.ok-exit-codes=-22"], "relay_ok_exit_codes", ("-22",)),
        (["--callback.token-file", "--x"], "callback_token_file", "--x"),
        (["--callback.token-file", "-"], "callback_token_file", "-"),
        (["--callback.token-file", "a=b"], "callback_token_file", "a=b"),
        (["--callback.token-file=x", "--callback.token-file", ""], "callback_token_file", ""),
        (["--callback.token-file="], "callback_token_file", ""),
        (["--log.level=debug", "--log.level", "error"], "log_level", "error"),
        (["--callback.sign-key-file=x", "--callback.require-sign"], "callback_require_sign", True),
        (["--callback.require-sign", "--callback.sign-key-file=x"], "callback_require_sign", True),
        (["--callback.sign-key-file=x", "--callback.require-sign=true"], "callback_require_sign", True),
        (["--callback.require-sign", "--callback.require-sign=false"], "callback_require_sign", False),
        (["--callback.require-sign", "false"], "callback_require_sign", False),
    ],
)
def test_a_flag_accepts_any_value_that_follows(flags: list[str], field: str, value: object) -> None:
    """The value may be empty or begin with a dash. The last of several is used; a switch alone is true."""
    assert getattr(read(flags, {}), field) == value
