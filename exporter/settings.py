"""The flags: one row each, with their environment variables, defaults and meanings.

A row is a field of Settings. Command line, environment, documentation and tests are made from the rows.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Struct

from exporter.catalogue import LABEL_CHOICES
from exporter.errors import SettingsError
from exporter.relay import Windows

VARIABLE_PREFIX = "CSS_RELAY_"
#: Kubernetes tells every pod of its services in variables; one named for this program is no flag.
SERVICE_LINK_PREFIX = "CSS_RELAY_EXPORTER_"
MAX_DURATION_SECONDS = 3650 * 86400.0


class Address(Struct, frozen=True):
    """A host and a port to listen on; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_public(self) -> bool:
        """Whether others than this machine can reach it."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"


class Flag(Struct, frozen=True):
    """A row: how a flag is called, how its text is read, and what it means."""

    name: str
    parse: Callable[[str], Any]
    help: str

    @property
    def variable(self) -> str:
        """The environment variable of the flag."""
        return VARIABLE_PREFIX + re.sub(r"[.-]", "_", self.name).upper()


def parse_address(text: str) -> Address:
    """Return the address in `text`, HOST:PORT, [HOST]:PORT or :PORT."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "0.0.0.0"  # noqa: S104 - as other exporters read it
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected HOST:PORT")
    return Address(host, int(port))


def parse_duration(text: str) -> float:
    """Return the seconds in `text`, such as 90s, 3m, 1h30m or 31d."""
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h|d|w))+", text):
        raise ValueError("expected a duration such as 90s, 3m, 1h30m or 31d")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
    seconds = sum(float(n) * units[u] for n, u in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", text))
    if seconds > MAX_DURATION_SECONDS:
        raise ValueError("expected at most ten years")
    return seconds


def parse_count(text: str) -> int:
    """Return the whole number above 0 in `text`."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 10_000_000:
        raise ValueError("expected a whole number from 1 to 10000000")
    return int(text)


def parse_list(text: str) -> tuple[str, ...]:
    """Return what stands between the commas of `text`."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def parse_labels(text: str) -> tuple[str, ...]:
    """Return the label names in `text`."""
    names = parse_list(text)
    if not names or len(set(names)) < len(names) or not set(names) <= set(LABEL_CHOICES):
        raise ValueError("expected some of " + ", ".join(LABEL_CHOICES))
    return tuple(name for name in LABEL_CHOICES if name in names)


def parse_store(text: str) -> str:
    """Return the path of an embedded store, from sqlite:PATH."""
    scheme, colon, path = text.partition(":")
    if scheme != "sqlite" or not colon or not path:
        raise ValueError("expected sqlite:PATH")
    return path


def parse_path(text: str) -> str:
    """Return a path on the web listener."""
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]", text):
        raise ValueError("expected a path such as /metrics")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a reader of one of `choices`."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("expected " + " or ".join(choices))
        return text

    return parse


DAY = 86400.0


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set. Defaults here are what the flags' defaults are read as."""

    callback_listen_address: Annotated[
        Address,
        Flag("callback.listen-address", parse_address, "Where callbacks come in. Port 0 takes a free one."),
    ] = Address("0.0.0.0", 8314)  # noqa: S104 - this listener faces the internet
    callback_max_body_bytes: Annotated[
        int,
        Flag(
            "callback.max-body-bytes",
            parse_count,
            "Longest body of a callback; longer ones are answered 413.",
        ),
    ] = 65536
    web_listen_address: Annotated[
        Address, Flag("web.listen-address", parse_address, "Where Prometheus and operators look.")
    ] = Address("127.0.0.1", 10314)
    web_telemetry_path: Annotated[str, Flag("web.telemetry-path", parse_path, "Path of the metrics.")] = (
        "/metrics"
    )
    store_path: Annotated[str, Flag("store.url", parse_store, "Where everything is kept: `sqlite:PATH`.")] = (
        "data/css-relay.db"
    )
    metrics_labels: Annotated[
        tuple[str, ...],
        Flag(
            "metrics.labels",
            parse_labels,
            "Labels of the fleet's families, of "
            + ", ".join(f"`{name}`" for name in LABEL_CHOICES)
            + ". Fixed when a store is made.",
        ),
    ] = ("appid", "to_host")
    metrics_max_label_sets: Annotated[
        int,
        Flag(
            "metrics.max-label-sets",
            parse_count,
            "Sets of those labels told apart; past it all are `_other`.",
        ),
    ] = 1000
    metrics_max_tasks: Annotated[
        int,
        Flag(
            "metrics.max-tasks",
            parse_count,
            "Tasks with series of their own; past it stopped ones are left out first, then lost and "
            "failed, active last.",
        ),
    ] = 2000
    relay_retry_window: Annotated[
        float, Flag("relay.retry-window", parse_duration, "For how long the sender may repeat a callback.")
    ] = 3600.0
    relay_reorder_window: Annotated[
        float,
        Flag(
            "relay.reorder-window",
            parse_duration,
            "For how long later callbacks may overtake one; what is missing is told after it.",
        ),
    ] = 180.0
    relay_ok_exit_codes: Annotated[
        tuple[str, ...],
        Flag("relay.ok-exit-codes", parse_list, "Exit codes of a planned end; every other one is a failure."),
    ] = ("0",)
    relay_lost_after: Annotated[
        float,
        Flag("relay.lost-after", parse_duration, "An active task without any callback for so long is lost."),
    ] = 31 * DAY
    relay_forget_after: Annotated[
        float, Flag("relay.forget-after", parse_duration, "When a failed or lost task is forgotten.")
    ] = 7 * DAY
    relay_forget_stopped_after: Annotated[
        float,
        Flag(
            "relay.forget-stopped-after",
            parse_duration,
            "When a stopped task is forgotten; never before the retry window is over.",
        ),
    ] = 3600.0
    redact_plain_hosts: Annotated[
        tuple[str, ...],
        Flag(
            "redact.plain-hosts",
            parse_list,
            "Destinations whose last path segment is a stream name; elsewhere it may be a key, "
            "and a digest stands for it.",
        ),
    ] = ("*.myqcloud.com",)
    log_level: Annotated[
        str, Flag("log.level", one_of("debug", "info", "warning", "error"), "Least severity that is logged.")
    ] = "info"
    log_format: Annotated[str, Flag("log.format", one_of("logfmt", "json"), "Form of the log.")] = "logfmt"

    @property
    def windows(self) -> Windows:
        """The settings of the fold."""
        return Windows(
            retry=self.relay_retry_window,
            reorder=self.relay_reorder_window,
            lost_after=self.relay_lost_after,
            forget_after=self.relay_forget_after,
            forget_stopped_after=self.relay_forget_stopped_after,
            ok_codes=frozenset(self.relay_ok_exit_codes),
        )


def flags() -> dict[str, Flag]:
    """Return every flag by the name of its field."""
    hints = get_type_hints(Settings, include_extras=True)
    return {field: hint.__metadata__[0] for field, hint in hints.items()}


def default_text(field: str) -> str:
    """Return a flag's default as it would be written."""
    value = getattr(Settings(), field)
    if field == "store_path":
        return f"sqlite:{value}"
    if flags()[field].parse is parse_duration:
        return _duration_text(value)
    return ",".join(value) if isinstance(value, tuple) else str(value)


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Return the settings: a flag before its environment variable before its default.

    Raises:
        SettingsError: one is unknown or malformed; the text names it.
    """
    given: dict[str, tuple[str, str]] = {}
    for field, flag in flags().items():
        if flag.variable in environment:
            given[field] = flag.variable, environment[flag.variable]
    known = {flag.variable for flag in flags().values()}
    unknown = {name for name in environment if name.startswith(VARIABLE_PREFIX)} - known
    unknown = {name for name in unknown if not name.startswith(SERVICE_LINK_PREFIX)}
    if unknown:
        raise SettingsError(f"unknown environment variable {min(unknown)}")
    given |= _command_line(arguments)
    values = {field: _value(flags()[field], name, text) for field, (name, text) in given.items()}
    settings = msgspec.structs.replace(Settings(), **values)
    _check(settings)
    return settings


def _command_line(arguments: Sequence[str]) -> dict[str, tuple[str, str]]:
    by_name = {f"--{flag.name}": field for field, flag in flags().items()}
    given: dict[str, tuple[str, str]] = {}
    rest = list(arguments)
    while rest:
        name, equals, text = rest.pop(0).partition("=")
        if name not in by_name:
            raise SettingsError(f"unknown flag {name}")
        if not equals:
            if not rest:
                raise SettingsError(f"{name}: expected a value")
            text = rest.pop(0)
        given[by_name[name]] = name, text
    return given


def _value(flag: Flag, name: str, text: str) -> object:
    try:
        return flag.parse(text)
    except ValueError as exc:
        raise SettingsError(f"{name}={text!r}: {exc}") from exc


def _check(settings: Settings) -> None:
    ports = settings.callback_listen_address.port, settings.web_listen_address.port
    if ports[0] and ports[0] == ports[1]:
        raise SettingsError(
            "--web.listen-address: expected another port than that of --callback.listen-address"
        )


def _duration_text(seconds: float) -> str:
    for unit, size in (("d", DAY), ("h", 3600.0), ("m", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
