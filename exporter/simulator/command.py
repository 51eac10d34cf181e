"""The command `simulate`: sends the callbacks of a random fleet, and verifies the totals of the exporter."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from exporter.errors import SettingsError
from exporter.metrics.catalogue import LABEL_CHOICES
from exporter.simulator.client import Client
from exporter.simulator.options import SimulatorSettings
from exporter.simulator.totals import Comparison, Key, Totals, compared_samples, sample_text, sum_over
from exporter.simulator.wire import CallbackWriter, Delivery, fleet_deliveries

#: With --fast the histories end this long before the start. Every callback then arrives more than 5 s after
#: its event time, so that the exporter computes durations from event times.
FAST_OFFSET_SECONDS = 10.0
#: Time to wait after the reorder window: a sweep settles within a second of its end.
SETTLE_SECONDS = 2.0
#: The exporter has finished when its values have not changed for this long, in as many scrapes: it sweeps
#: twice a second.
STABLE_SECONDS, STABLE_SCRAPES = 5.0, 5
#: Interval between two reads of the clock while waiting.
CLOCK_POLL_SECONDS = 0.2
#: The labels that the default of `--metrics.labels` lacks.
HIDDEN_LABELS = set(LABEL_CHOICES) - {"appid", "to_host"}


def simulate(options: SimulatorSettings) -> int:
    """Run a simulation; return the exit status, 1 if an answer or a total is not as expected.

    Raises:
        SettingsError: the file of the sign key or of the certificate authorities is unusable.
        ExporterError: the target or the URL of the metrics does not answer.
    """
    client = Client(options)
    before = compared_samples(client.scrape()) if options.verify else {}
    now = time.time()
    begin = now - options.duration - FAST_OFFSET_SECONDS if options.fast else now
    totals = Totals()
    writer = CallbackWriter(begin, _read_key(options.sign_key_file))
    deliveries = fleet_deliveries(options, writer, totals)
    client.send(_with_progress(deliveries, options.duration), begin)
    expected = sum_over(totals.counts, HIDDEN_LABELS)
    for key in sorted(expected, key=sample_text):
        print(f"{sample_text(key)} {expected[key]:g}")
    answers = ", ".join(f"{count} of {status}" for status, count in sorted(client.statuses.items()))
    print(f"answers: {answers or 'none'}", file=sys.stderr)
    if client.unexpected:
        print(f"{client.unexpected} callbacks had an unexpected answer", file=sys.stderr)
    if client.unanswered:
        print(f"{client.unanswered} requests had no answer and were sent again", file=sys.stderr)
    is_exact = not options.verify or _verify(options, totals, before, client)
    return 0 if is_exact and not client.unexpected else 1


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


def _verify(options: SimulatorSettings, totals: Totals, before: Mapping[Key, float], client: Client) -> bool:
    """Compare the exporter's values with the totals, once they have settled; return whether none differs."""
    window = options.reorder_window + SETTLE_SECONDS
    settled_at = time.time() + window
    print(
        f"waiting {window:g} s for the exporter to settle, "
        f"then until nothing differs or its values have not changed for {STABLE_SECONDS:g} s",
        file=sys.stderr,
    )
    # By the clock that the exporter uses; it may be set while this waits.
    while (left := settled_at - time.time()) > 0:
        time.sleep(min(left, CLOCK_POLL_SECONDS))

    def compare() -> Comparison:
        return Comparison(
            expected=totals.counts,
            before=before,
            after=compared_samples(client.scrape()),
            lossy=options.lose > 0,
            unanswered=client.unanswered,
        )

    comparison = until_stable(compare, lambda: time.sleep(STABLE_SECONDS / STABLE_SCRAPES))
    for line in comparison.differences:
        print(line, file=sys.stderr)
    print(f"{comparison.compared} samples compared, {len(comparison.differences)} differ", file=sys.stderr)
    return not comparison.differences


def until_stable(compare: Callable[[], Comparison], pause: Callable[[], None]) -> Comparison:
    """Compare, with pauses, until nothing differs or the values are stable; return the last comparison."""
    comparison, unchanged = compare(), 0
    while comparison.differences and unchanged < STABLE_SCRAPES:
        pause()
        latest = compare()
        unchanged = unchanged + 1 if latest.increase == comparison.increase else 0
        comparison = latest
    return comparison
