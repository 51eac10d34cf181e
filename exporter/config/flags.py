"""Flags: how they are declared, parsed and shown.

A flag is a row: a field of a frozen Struct, annotated with its parser, name and help. The rows are in
`config.settings` and `simulator.options`. Command line, help, environment, documentation and tests are made
from them.
"""

import re
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, TypeVar, get_type_hints

from msgspec import Struct

from exporter.errors import SettingsError

S = TypeVar("S", bound=Struct)

VARIABLE_PREFIX = "CSS_RELAY_"
#: Kubernetes sets variables for every Service of a namespace, such as CSS_RELAY_EXPORTER_SERVICE_HOST for the
#: Service css-relay-exporter. They are not settings, and must not be refused as unknown ones.
SERVICE_LINK_PREFIX = "CSS_RELAY_EXPORTER_"
DAY = 86400.0
MAX_DURATION_SECONDS = 3650 * DAY
UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}


class Address(Struct, frozen=True):
    """A host and a port to listen on. Port 0 means any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach the address."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            # Any other name may resolve to any address.
            return self.host != "localhost"


class Flag(Struct, frozen=True):
    """One flag: the annotations of its field, in their order.

    Args:
        parse: returns the value of a text; raises ValueError if the text is malformed.
        name: without the leading dashes.
        help: the meaning, with the unit, and what 0 or an empty value means.
        is_secret: whether the value may contain a password. Error messages never quote such a value.
    """

    parse: Callable[[str], Any]
    name: str
    help: str
    is_secret: bool = False

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return VARIABLE_PREFIX + re.sub(r"[.-]", "_", self.name).upper()


def parse_address(text: str) -> Address:
    """Return the address in `text`: HOST:PORT, [HOST]:PORT or :PORT."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "0.0.0.0"  # noqa: S104 - as in other exporters
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected HOST:PORT, [HOST]:PORT or :PORT")
    return Address(host, int(port))


def parse_duration(text: str) -> float:
    """Return the seconds in `text`, such as 90s, 3m, 1h30m or 31d."""
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h|d|w))+", text):
        raise ValueError("expected a duration such as 90s, 3m, 1h30m or 31d")
    seconds = sum(float(n) * UNIT_SECONDS[u] for n, u in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", text))
    if seconds > MAX_DURATION_SECONDS:
        raise ValueError("expected at most ten years")
    return seconds


def parse_count(text: str) -> int:
    """Return the whole number above 0 in `text`."""
    # `isdigit` alone accepts the digits of every script.
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1_000_000_000:
        raise ValueError("expected a whole number from 1 to 1000000000")
    return int(text)


def parse_limit(text: str) -> float:
    """Return the number above 0 in `text`, or 0 for `off`."""
    try:
        return 0.0 if text == "off" else float(parse_count(text))
    except ValueError:
        raise ValueError("expected off, or a whole number from 1 to 1000000000") from None


def parse_rate(text: str) -> float:
    """Return the share in `text`, from 0 to 1."""
    if not re.fullmatch(r"[01](\.\d+)?|\.\d+", text) or float(text) > 1:
        raise ValueError("expected a share from 0 to 1, such as 0.05")
    return float(text)


def parse_list(text: str) -> tuple[str, ...]:
    """Return the items of a comma-separated list, without empty ones."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the networks in `text`: CIDR notation, comma-separated."""
    try:
        return tuple(ip_network(item) for item in parse_list(text))
    except ValueError as exc:
        raise ValueError("expected networks such as 10.0.0.0/8,2001:db8::/32") from exc


def parse_path(text: str) -> str:
    """Return `text` if it can be a path on the web listener."""
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]", text):
        raise ValueError("expected a path such as /metrics")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that accepts only one of `choices`."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("expected " + " or ".join(choices))
        return text

    return parse


def parse_bool(text: str) -> bool:
    """Return whether `text` is `true`."""
    return one_of("true", "false")(text) == "true"


#: Types of fields, with their parsers.
Text = Annotated[str, str]
TextList = Annotated[tuple[str, ...], parse_list]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], parse_networks]
Duration = Annotated[float, parse_duration]
Count = Annotated[int, parse_count]
Share = Annotated[float, parse_rate]
Switch = Annotated[bool, parse_bool]
#: The last annotation of a flag whose value may contain a password.
IS_SECRET = True


def flags_of(rows: type[Struct]) -> dict[str, Flag]:
    """Return the flags of `rows`, by the names of their fields."""
    hints = get_type_hints(rows, include_extras=True)
    flags = {field: Flag(*hint.__metadata__) for field, hint in hints.items()}
    for field, flag in flags.items():
        # The annotations have no types that mypy could check.
        if not callable(flag.parse) or not re.fullmatch(r"[a-z]+([.-][a-z]+)*", flag.name):
            raise TypeError(f"{rows.__name__}.{field}: expected a parser, a name and a help text")
    return flags


def text_of(flag: Flag, value: Any) -> str:
    """Return `value` as an operator would write it for `flag`."""
    # By the parser, not by the type: durations and limits are both floats.
    if flag.parse is parse_duration:
        # The largest unit that divides it without a remainder: 3600.0 is 1h, not 60m.
        unit = next((unit for unit in "dhm" if value and value % UNIT_SECONDS[unit] == 0), "s")
        return f"{value / UNIT_SECONDS[unit]:g}{unit}"
    if flag.parse is parse_bool:
        return str(value).lower()
    if flag.parse is parse_limit and not value:
        return "off"
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def default_text(rows: type[Struct], field: str) -> str:
    """Return the default of a flag as an operator would write it."""
    return text_of(flags_of(rows)[field], getattr(rows(), field))


def flag_parser(rows: type[Struct], *, has_variables: bool) -> ArgumentParser:
    """Return a parent parser for argparse. It stores the text of each given flag under its field's name."""
    parser = ArgumentParser(add_help=False)
    groups: dict[str, Any] = {}
    for field, flag in flags_of(rows).items():
        # The first word of a name is its group in the help: `callback flags`, `web flags`.
        word, dot, _ = flag.name.partition(".")
        title = f"{word} flags" if dot else "flags"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        default = f"default {default_text(rows, field) or 'none'}"
        notes = f"{flag.variable}, {default}" if has_variables else default
        form: dict[str, Any] = {"metavar": "VALUE"}
        if flag.parse is parse_bool:
            form = {"metavar": "true|false", "nargs": "?", "const": "true"}
        # argparse expands % in help texts.
        text = f"{flag.help} ({notes})".replace("%", "%%")
        # SUPPRESS: a flag that is not given leaves no value, so that its environment variable is used.
        groups[title].add_argument(f"--{flag.name}", dest=field, default=SUPPRESS, help=text, **form)
    return parser


def read_flags(rows: type[S], given: Mapping[str, Any], environment: Mapping[str, str]) -> S:
    """Return the settings. A flag has priority over its environment variable, and that over the default.

    Args:
        given: texts of the flags on the command line, by the names of their fields. Other names are ignored.

    Raises:
        SettingsError: a flag or variable is unknown or malformed; the text names it.
    """
    flags = flags_of(rows)
    fields = {flag.variable: field for field, flag in flags.items()}
    # Other variables belong to other programs; an unknown one of ours is a typing error.
    ours = {name for name in environment if name.startswith(VARIABLE_PREFIX)}
    unknown = {name for name in ours - fields.keys() if not name.startswith(SERVICE_LINK_PREFIX)}
    if unknown:
        raise SettingsError(f"unknown environment variable {min(unknown)}; correct its name or unset it")
    # For each field: the name to show in an error message, and the text.
    texts = {fields[name]: (name, environment[name]) for name in ours & fields.keys()}
    texts |= {field: (f"--{flag.name}", given[field]) for field, flag in flags.items() if field in given}
    values = {}
    for field, (name, text) in texts.items():
        try:
            values[field] = flags[field].parse(text)
        except ValueError as exc:
            if flags[field].is_secret:
                # `from None`: the cause may quote the text in a traceback.
                raise SettingsError(f"{name}: {exc}") from None
            raise SettingsError(f"{name}={text!r}: {exc}") from exc
    return rows(**values)
