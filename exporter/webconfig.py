"""What a web configuration file asks for: TLS, passwords, headers, a rate; nothing else is read or opened."""

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from exporter.errors import SettingsError
from exporter.webfile import HttpSection, RateSection, read_form, read_switch
from exporter.webtls import TlsConfig, read_tls

NANOSECOND = 1e-9
UNITS = {"ns": NANOSECOND, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
MAX_BURST = 1_000_000

#: Headers that can be set, and the values of those that have no others.
HEADERS = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}


class Rate(Struct, frozen=True):
    """How many requests are answered.

    Args:
        interval: time between two of them, seconds; 0 for any number.
        burst: how many may come at once.
    """

    interval: float = 0.0
    burst: int = 0


class WebConfig(Struct, frozen=True, kw_only=True):
    """Who may look, and how.

    Args:
        tls: None for plain HTTP.
        users: bcrypt hashes of passwords, by user; empty if anybody may look.
        headers: of every answer.
        rate: a limit on requests.
        notes: what is not done as the file asks, for the log.
    """

    tls: TlsConfig | None = None
    users: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    rate: Rate = Rate()
    notes: tuple[str, ...] = ()


def read_web_config(text: bytes, folder: Path) -> WebConfig:
    """Return what the text of a web configuration file asks for.

    Args:
        folder: what paths in it are relative to.

    Raises:
        SettingsError: a field is unknown or malformed, or asks for what can't be; it is named.
    """
    form = read_form(text)
    notes: list[str] = []
    return WebConfig(
        tls=read_tls(form.tls_server_config, folder, notes),
        users=_users(form.basic_auth_users),
        headers=_headers(form.http_server_config, notes),
        rate=_rate(form.rate_limit),
        notes=tuple(notes),
    )


def _users(users: dict[str, str]) -> dict[str, str]:
    for name, text in users.items():
        if ":" in name:
            raise SettingsError(f"basic_auth_users.{name}: expected a name without a colon")
        if not BCRYPT.fullmatch(text):
            raise SettingsError(
                f"basic_auth_users.{name}: expected a bcrypt hash, such as htpasswd -nB gives"
            )
    return users


def _headers(section: HttpSection, notes: list[str]) -> dict[str, str]:
    if read_switch("http_server_config.http2", section.http2, False):
        notes.append("http_server_config.http2: HTTP/1.1 alone is spoken")
    for name, value in section.headers.items():
        _check_header(f"http_server_config.headers.{name}", name, value)
    return {name: value for name, value in section.headers.items() if value}


def _check_header(field: str, name: str, value: str) -> None:
    if name not in HEADERS:
        raise SettingsError(f"{field}: expected one of " + ", ".join(HEADERS))
    choices = HEADERS[name]
    if value and choices and value not in choices:
        raise SettingsError(f"{field}: expected " + " or ".join(choices))
    if not (value.isascii() and value.isprintable()):
        raise SettingsError(f"{field}: expected one line of ASCII")


def _rate(section: RateSection) -> Rate:
    interval = _duration("rate_limit.interval", section.interval)
    burst = section.burst or "0"
    if not re.fullmatch(r"\d{1,7}", burst, re.ASCII) or int(burst) > MAX_BURST:
        raise SettingsError(f"rate_limit.burst: expected a whole number up to {MAX_BURST}")
    if interval and not int(burst):
        raise SettingsError("rate_limit.burst: expected at least 1; with 0 nobody could look")
    return Rate(interval, int(burst))


def _duration(field: str, text: str) -> float:
    """Return the seconds in a duration as Go writes it; a number alone is of nanoseconds."""
    if re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return int(text) * NANOSECOND
    unit = "|".join(UNITS)
    if not re.fullmatch(rf"(\d{{1,9}}(\.\d{{1,9}})?({unit}))*", text, re.ASCII):
        raise SettingsError(f"{field}: expected a duration such as 1s or 100ms")
    return sum(float(n) * UNITS[u] for n, u in re.findall(rf"([\d.]+)({unit})", text))
