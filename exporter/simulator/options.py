"""The flags of `simulate`, one row each."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Struct

from exporter.config.flags import Flag, parse_count, parse_duration, parse_rate, parse_switch, read_flags
from exporter.errors import SettingsError

#: What is sent as fast as possible lies in the past; beyond this it would look like redeliveries.
MAX_FAST_SECONDS = 2700.0


def parse_url(text: str) -> str:
    """Return an HTTP URL."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL such as http://127.0.0.1:8314/callbacks")
    return text


def parse_speed(text: str) -> float:
    """Return the number above 0 in `text`."""
    speed = float(text)
    if not 0 < speed <= 100_000:
        raise ValueError("expected a number above 0")
    return speed


class Options(Struct, frozen=True, kw_only=True):
    """Everything that can be set of a simulation."""

    target: Annotated[str, Flag("target", parse_url, "Where callbacks are sent.", is_secret=True)] = ""
    seed: Annotated[
        int, Flag("seed", parse_count, "The same seed draws the same histories and the same faults.")
    ] = 1
    tasks: Annotated[int, Flag("tasks", parse_count, "Tasks of the fleet.")] = 30
    duration: Annotated[float, Flag("duration", parse_duration, "How long their histories go on.")] = 600.0
    speed: Annotated[
        float, Flag("speed", parse_speed, "Files are so many times shorter than ten minutes or so.")
    ] = 10.0
    failure_every: Annotated[
        float, Flag("failure-every", parse_duration, "Mean time until a run fails, or ends as planned.")
    ] = 300.0
    downtime: Annotated[
        float, Flag("downtime", parse_duration, "Mean time until a failed task runs again.")
    ] = 20.0
    fast: Annotated[
        bool,
        Flag("fast", parse_switch, "Send as fast as possible; the histories then lie in the past."),
    ] = False
    connections: Annotated[
        int, Flag("connections", parse_count, "Connections; a task's callbacks share one.")
    ] = 8
    duplicate: Annotated[
        float, Flag("fault.duplicate", parse_rate, "Share of callbacks that are delivered again.")
    ] = 0.0
    reorder: Annotated[
        float, Flag("fault.reorder", parse_rate, "Share of callbacks that later ones overtake.")
    ] = 0.0
    lose: Annotated[float, Flag("fault.lose", parse_rate, "Share of callbacks that never come.")] = 0.0
    nameless: Annotated[
        float, Flag("fault.nameless", parse_rate, "Share of exits that name no task and no destination.")
    ] = 0.0
    untimed: Annotated[
        float, Flag("fault.untimed", parse_rate, "Share of tasks whose callbacks state no time.")
    ] = 0.0
    unsigned: Annotated[
        float,
        Flag("fault.unsigned", parse_rate, "Share of callbacks without a signature, where there is a key."),
    ] = 0.0
    malformed: Annotated[
        float, Flag("fault.malformed", parse_rate, "Callbacks that break their schema, to each good one.")
    ] = 0.0
    unknown: Annotated[
        float, Flag("fault.unknown", parse_rate, "Callbacks of an event nobody knows, to each good one.")
    ] = 0.0
    sign_key_file: Annotated[
        str, Flag("sign-key-file", str, "File whose first line is the key that callbacks are signed with.")
    ] = ""
    ca_file: Annotated[
        str, Flag("ca-file", str, "PEM file with the authorities to believe, instead of the system's.")
    ] = ""
    reorder_window: Annotated[
        float, Flag("reorder-window", parse_duration, "The exporter's `--relay.reorder-window`.")
    ] = 180.0
    verify: Annotated[
        str,
        Flag(
            "verify",
            parse_url,
            "URL of the exporter's metrics: after the reorder window hold them against what was sent, "
            "and end with status 1 if anything differs.",
            is_secret=True,
        ),
    ] = ""


def read_options(given: Mapping[str, Any]) -> Options:
    """Return the options as set by the texts of flags, by their fields.

    Raises:
        SettingsError: one is unknown, malformed or missing, or two go ill together; the text names it.
    """
    options = read_flags(Options, given, {})
    if not options.target:
        raise SettingsError("--target: expected the URL that callbacks are sent to")
    if options.fast and options.duration > MAX_FAST_SECONDS:
        raise SettingsError(f"--duration: expected at most {MAX_FAST_SECONDS / 60:g}m with --fast")
    if options.unsigned and not options.sign_key_file:
        raise SettingsError("--fault.unsigned: expected a --sign-key-file")
    if options.verify and options.lose and options.untimed:
        # What is left of callbacks without times can't be told from redeliveries.
        raise SettingsError("--verify: expected no --fault.untimed along with --fault.lose")
    return options
