"""The command `simulate`: sends the callbacks of a random fleet, and verifies the totals of the exporter."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from exporter.errors import SettingsError
from exporter.metrics.catalogue import LABEL_CHOICES
from exporter.simulator.body import CallbackWriter
from exporter.simulator.fleet import FleetSettings
from exporter.simulator.options import SimulatorSettings
from exporter.simulator.sender import Sender, make_tls_context
from exporter.simulator.totals import Key, Totals
from exporter.simulator.verify import STABLE_SCRAPES, Comparison, sample_text, scrape, sum_over, until_stable
from exporter.simulator.wire import MAX_OVERTAKEN, Delivery, Faults, fleet_deliveries

#: With --fast the histories end this long before the start. Every callback then arrives more than 5 s after
#: its event time, so that the exporter computes durations from event times.
FAST_OFFSET_SECONDS = 10.0
#: Time to wait after the reorder window: a sweep settles within a second of its end.
SETTLE_SECONDS = 2.0
#: The exporter has finished when its values have not changed for this long: it sweeps twice a second.
STABLE_SECONDS = 5.0
#: Interval between two reads of the clock while waiting.
CLOCK_POLL_SECONDS = 0.2
#: The service repeats a callback after a minute: as documented for its other callbacks.
MAX_REDELIVERY_SECONDS = 60.0
#: The default of `--metrics.labels`.
DEFAULT_LABELS = ("appid", "to_host")


def simulate(options: SimulatorSettings) -> int:
    """Run a simulation; return the exit status, 1 if an answer or a total is not as expected.

    Raises:
        ExporterError: the target or the URL of the metrics does not answer.
    """
    tls_context = make_tls_context(options.ca_file)
    before = scrape(options.verify, tls_context) if options.verify else {}
    now = time.time()
    begin = now - options.duration - FAST_OFFSET_SECONDS if options.fast else now
    totals = Totals()
    sender = Sender(
        target=options.target,
        connections=options.connections,
        begin=None if options.fast else begin,
        tls_context=tls_context,
    )
    sender.send(_with_progress(_deliveries(options, begin, totals), options.duration))
    expected = sum_over(totals.counts, set(LABEL_CHOICES) - set(DEFAULT_LABELS))
    for key in sorted(expected, key=sample_text):
        print(f"{sample_text(key)} {expected[key]:g}")
    _print_answers(sender)
    if not options.verify:
        return 1 if sender.unexpected else 0
    return _verify(options, totals, before, sender)


def _deliveries(options: SimulatorSettings, begin: float, totals: Totals) -> Iterator[Delivery]:
    settings = FleetSettings(
        tasks=options.tasks,
        batch=int(begin) % 100_000,  # the time, so that every simulation has new task IDs
        duration=options.duration,
        failure_every=options.failure_every,
        downtime=options.downtime,
        speed=options.speed,
        untimed=options.untimed,
    )
    writer = CallbackWriter(begin, _read_key(options.sign_key_file))
    return fleet_deliveries(settings, _faults(options), writer, totals, options.seed)


def _faults(options: SimulatorSettings) -> Faults:
    """Return the faults of the delivery; in real time only pairs of callbacks change their order."""
    return Faults(
        duplicate=options.duplicate,
        reorder=options.reorder,
        lose=options.lose,
        nameless=options.nameless,
        unsigned=options.unsigned,
        malformed=options.malformed,
        unknown=options.unknown,
        max_group_size=MAX_OVERTAKEN if options.fast else 2,
        max_group_seconds=options.duration if options.fast else options.reorder_window / 2,
        redelivery_seconds=min(MAX_REDELIVERY_SECONDS, options.duration / 10),
    )


def _read_key(path: str) -> str:
    if not path:
        return ""
    try:
        lines = Path(path).read_text().split()
    except (OSError, ValueError) as exc:
        raise SettingsError(f"--sign-key-file: can't read {path}: {type(exc).__name__}") from exc
    if not lines:
        raise SettingsError(f"--sign-key-file: expected a key in {path}")
    return lines[0]


def _with_progress(deliveries: Iterable[Delivery], duration: float) -> Iterator[Delivery]:
    """Yield `deliveries`, with a progress bar if standard error is a terminal."""
    form = "{percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s of histories{postfix}"
    with tqdm(total=duration, bar_format=form, disable=None, file=sys.stderr) as bar:
        for number, delivery in enumerate(deliveries, 1):
            yield delivery
            bar.set_postfix_str(f" {number} callbacks", refresh=False)
            bar.update(min(max(delivery.at - bar.n, 0.0), duration - bar.n))
        bar.update(duration - bar.n)


def _print_answers(sender: Sender) -> None:
    answers = ", ".join(f"{count} of {status}" for status, count in sorted(sender.statuses.items()))
    print(f"answers: {answers or 'none'}", file=sys.stderr)
    if sender.unexpected:
        print(f"{sender.unexpected} callbacks had an unexpected answer", file=sys.stderr)
    if sender.unanswered:
        print(f"{sender.unanswered} requests had no answer and were sent again", file=sys.stderr)


def _verify(options: SimulatorSettings, totals: Totals, before: Mapping[Key, float], sender: Sender) -> int:
    window = options.reorder_window + SETTLE_SECONDS
    settled_at = time.time() + window
    print(
        f"waiting {window:g} s for the exporter to settle, "
        f"then until nothing differs or its values have not changed for {STABLE_SECONDS:g} s",
        file=sys.stderr,
    )
    _sleep_until(settled_at)
    tls_context = make_tls_context(options.ca_file)

    def compare() -> Comparison:
        return Comparison(
            expected=totals.counts,
            before=before,
            after=scrape(options.verify, tls_context),
            lossy=options.lose > 0,
            unanswered=sender.unanswered,
        )

    comparison = until_stable(compare, lambda: time.sleep(STABLE_SECONDS / STABLE_SCRAPES))
    differences = comparison.differences()
    for line in differences:
        print(line, file=sys.stderr)
    print(f"{comparison.compared} samples compared, {len(differences)} differ", file=sys.stderr)
    return 1 if differences or sender.unexpected else 0


def _sleep_until(end: float) -> None:
    """Wait until a UNIX time, by the clock that the exporter uses; it may be set while this waits."""
    while (left := end - time.time()) > 0:
        time.sleep(min(left, CLOCK_POLL_SECONDS))
