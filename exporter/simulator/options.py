"""The flags of `simulate`, one row for each."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Struct

from exporter.config.flags import Flag, parse_bool, parse_count, parse_duration, parse_rate, read_flags
from exporter.errors import SettingsError

#: With --fast the histories are in the past. They must be shorter than the exporter's retry window (default
#: 1 h), because older callbacks may be counted as stale.
MAX_FAST_SECONDS = 2700.0


def parse_url(text: str) -> str:
    """Return the HTTP or HTTPS URL in `text`."""
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


class SimulatorSettings(Struct, frozen=True, kw_only=True):
    """The settings of a simulation."""

    target: Annotated[str, Flag("target", parse_url, "URL to send the callbacks to.", is_secret=True)] = ""
    seed: Annotated[
        int, Flag("seed", parse_count, "The same seed gives the same histories and the same faults.")
    ] = 1
    tasks: Annotated[int, Flag("tasks", parse_count, "Number of tasks in the fleet.")] = 30
    duration: Annotated[float, Flag("duration", parse_duration, "Length of the histories.")] = 600.0
    speed: Annotated[
        float, Flag("speed", parse_speed, "Factor by which files are shorter than about 10 minutes.")
    ] = 10.0
    failure_every: Annotated[
        float, Flag("failure-every", parse_duration, "Mean time until a run fails or ends as planned.")
    ] = 300.0
    downtime: Annotated[
        float, Flag("downtime", parse_duration, "Mean time until a failed task starts again.")
    ] = 20.0
    fast: Annotated[
        bool, Flag("fast", parse_bool, "Send as fast as possible; the histories are in the past.")
    ] = False
    connections: Annotated[
        int, Flag("connections", parse_count, "Number of connections; the callbacks of a task share one.")
    ] = 8
    duplicate: Annotated[
        float, Flag("fault.duplicate", parse_rate, "Share of callbacks that are sent again.")
    ] = 0.0
    reorder: Annotated[
        float, Flag("fault.reorder", parse_rate, "Share of callbacks whose order is changed.")
    ] = 0.0
    lose: Annotated[float, Flag("fault.lose", parse_rate, "Share of callbacks that are not sent.")] = 0.0
    nameless: Annotated[
        float, Flag("fault.nameless", parse_rate, "Share of exits without task, stream and destination.")
    ] = 0.0
    untimed: Annotated[
        float, Flag("fault.untimed", parse_rate, "Share of tasks whose callbacks have no event time.")
    ] = 0.0
    unsigned: Annotated[
        float,
        Flag("fault.unsigned", parse_rate, "Share of callbacks without a signature, if there is a sign key."),
    ] = 0.0
    malformed: Annotated[
        float, Flag("fault.malformed", parse_rate, "Additional invalid callbacks, for each valid one.")
    ] = 0.0
    unknown: Annotated[
        float, Flag("fault.unknown", parse_rate, "Additional unknown events, for each known one.")
    ] = 0.0
    sign_key_file: Annotated[
        str, Flag("sign-key-file", str, "File with the sign key in its first line; empty: no signatures.")
    ] = ""
    ca_file: Annotated[
        str, Flag("ca-file", str, "PEM file of trusted certificate authorities; empty: the system's.")
    ] = ""
    reorder_window: Annotated[
        float, Flag("reorder-window", parse_duration, "The `--relay.reorder-window` of the exporter.")
    ] = 180.0
    verify: Annotated[
        str,
        Flag(
            "verify",
            parse_url,
            "URL of the exporter's metrics. Compare them with the expected totals after the reorder window, "
            "and exit with status 1 if they differ. Empty does not compare.",
            is_secret=True,
        ),
    ] = ""


def read_options(given: Mapping[str, Any]) -> SimulatorSettings:
    """Return the settings; `given` has the texts of the flags, by field.

    Raises:
        SettingsError: a flag is malformed or missing, or contradicts another; the text names it.
    """
    options = read_flags(SimulatorSettings, given, {})
    if not options.target:
        raise SettingsError("--target: expected the URL to send the callbacks to")
    if options.fast and options.duration > MAX_FAST_SECONDS:
        raise SettingsError(f"--duration: expected at most {MAX_FAST_SECONDS / 60:g}m with --fast")
    if options.unsigned and not options.sign_key_file:
        raise SettingsError("--fault.unsigned: expected a --sign-key-file")
    if options.verify and options.lose and options.untimed:
        # Without event times, the exporter can't distinguish a repeated callback from one after a lost one.
        raise SettingsError("--verify: can't be used with both --fault.lose and --fault.untimed")
    return options
