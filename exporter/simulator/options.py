"""The flags of `simulate`, one row for each."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Struct

from exporter.config.flags import IS_SECRET, Count, Duration, Share, Switch, Text, read_flags
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

    target: Annotated[str, parse_url, "target", "URL to send the callbacks to.", IS_SECRET] = ""
    seed: Annotated[Count, "seed", "The same seed gives the same histories and the same faults."] = 1
    tasks: Annotated[Count, "tasks", "Number of tasks in the fleet."] = 30
    duration: Annotated[Duration, "duration", "Length of the histories."] = 600.0
    speed: Annotated[
        float, parse_speed, "speed", "Factor by which files are shorter than about 10 minutes."
    ] = 10.0
    failure_every: Annotated[Duration, "failure-every", "Mean time until a run fails or ends as planned."] = (
        300.0
    )
    downtime: Annotated[Duration, "downtime", "Mean time until a failed task starts again."] = 20.0
    fast: Annotated[Switch, "fast", "Send as fast as possible; the histories are in the past."] = False
    connections: Annotated[
        Count, "connections", "Number of connections; the callbacks of a task share one."
    ] = 8
    duplicate: Annotated[Share, "fault.duplicate", "Share of callbacks that are sent again."] = 0.0
    reorder: Annotated[Share, "fault.reorder", "Share of callbacks whose order is changed."] = 0.0
    lose: Annotated[Share, "fault.lose", "Share of callbacks that are not sent."] = 0.0
    nameless: Annotated[Share, "fault.nameless", "Share of exits without task, stream and destination."] = 0.0
    untimed: Annotated[Share, "fault.untimed", "Share of tasks whose callbacks have no event time."] = 0.0
    unsigned: Annotated[
        Share, "fault.unsigned", "Share of callbacks without a signature, if there is a sign key."
    ] = 0.0
    malformed: Annotated[Share, "fault.malformed", "Additional invalid callbacks, for each valid one."] = 0.0
    unknown: Annotated[Share, "fault.unknown", "Additional unknown events, for each known one."] = 0.0
    sign_key_file: Annotated[
        Text, "sign-key-file", "File with the sign key in its first line; empty: no signatures."
    ] = ""
    ca_file: Annotated[
        Text, "ca-file", "PEM file of trusted certificate authorities; empty: the system's."
    ] = ""
    reorder_window: Annotated[Duration, "reorder-window", "The `--relay.reorder-window` of the exporter."] = (
        180.0
    )
    verify: Annotated[
        str,
        parse_url,
        "verify",
        "URL of the exporter's metrics. Compare them with the expected totals after the reorder window, "
        "and exit with status 1 if they differ. Empty does not compare.",
        IS_SECRET,
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
