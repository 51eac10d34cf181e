"""`simulate`: draws a fleet, sends what happens to it, says what must be counted, and looks whether it is."""

import heapq
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random

from tqdm import tqdm

from exporter.errors import SettingsError
from exporter.metrics.catalogue import LABEL_CHOICES
from exporter.simulator.body import Writer
from exporter.simulator.fleet import Plan, fleet
from exporter.simulator.options import Options
from exporter.simulator.sender import Sender, believed_by
from exporter.simulator.totals import Key, Totals
from exporter.simulator.verify import STILL_SCRAPES, Comparison, scrape, settled, without, written
from exporter.simulator.wire import MAX_OVERTAKEN, Delivery, Faults, Lane

#: What came more than five seconds late is timed by what it states; this is well beyond.
PAST_SECONDS = 10.0
#: The sweep settles what is missing within a second of the reorder window's end.
SETTLE_SECONDS = 2.0
#: Numbers that stand still for so long are all that comes: an exporter sweeps twice a second.
STILL_SECONDS = 5.0
#: How often the clock is looked at while it is waited for.
LOOK_SECONDS = 0.2
#: The service sends siblings of these callbacks again a minute apart.
MAX_AGAIN_SECONDS = 60.0
#: The default of `--metrics.labels`.
SHOWN = ("appid", "to_host")


def simulate(options: Options) -> int:
    """Run a simulation; return 1 if its totals are not shown.

    Raises:
        ExporterError: the target or the metrics do not answer.
    """
    believed = believed_by(options.ca_file)
    before = scrape(options.verify, believed) if options.verify else {}
    now = time.time()
    begin = now - options.duration - PAST_SECONDS if options.fast else now
    totals = Totals()
    sender = Sender(
        target=options.target,
        connections=options.connections,
        begin=None if options.fast else begin,
        believed=believed,
    )
    sender.send(_watched(_deliveries(options, begin, totals), options.duration))
    shown = without(totals.counts, set(LABEL_CHOICES) - set(SHOWN))
    for key in sorted(shown, key=written):
        print(f"{written(key)} {shown[key]:g}")
    _tell(sender)
    if not options.verify:
        return 1 if sender.unexpected else 0
    return _verify(options, totals, before, sender)


def _deliveries(options: Options, begin: float, totals: Totals) -> Iterator[Delivery]:
    plan = Plan(
        tasks=options.tasks,
        batch=int(begin) % 100_000,
        duration=options.duration,
        failure_every=options.failure_every,
        downtime=options.downtime,
        speed=options.speed,
        untimed=options.untimed,
    )
    lanes = [
        Lane(
            number,
            relays,
            plan=plan,
            faults=_faults(options),
            writer=Writer(begin, _key(options.sign_key_file)),
            totals=totals,
            seed=options.seed,
        )
        for number, relays in enumerate(fleet(plan, Random(options.seed)))  # noqa: S311 - histories, no keys
    ]
    return heapq.merge(*(lane.deliveries() for lane in lanes), key=lambda delivery: delivery.at)


def _faults(options: Options) -> Faults:
    """Return what goes wrong; in their own time callbacks change places in pairs alone."""
    return Faults(
        duplicate=options.duplicate,
        reorder=options.reorder,
        lose=options.lose,
        nameless=options.nameless,
        unsigned=options.unsigned,
        malformed=options.malformed,
        unknown=options.unknown,
        crowd=MAX_OVERTAKEN if options.fast else 2,
        patience=options.duration if options.fast else options.reorder_window / 2,
        again=min(MAX_AGAIN_SECONDS, options.duration / 10),
    )


def _key(path: str) -> str:
    if not path:
        return ""
    try:
        lines = Path(path).read_text().split()
    except (OSError, ValueError) as exc:
        raise SettingsError(f"--sign-key-file: {path} can't be read: {type(exc).__name__}") from exc
    if not lines:
        raise SettingsError(f"--sign-key-file: expected a key in {path}")
    return lines[0]


def _watched(deliveries: Iterable[Delivery], duration: float) -> Iterator[Delivery]:
    """Pass deliveries on; on a terminal show how far they are."""
    form = "{percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s of histories{postfix}"
    with tqdm(total=duration, bar_format=form, disable=None, file=sys.stderr) as bar:
        for number, delivery in enumerate(deliveries, 1):
            yield delivery
            bar.set_postfix_str(f" {number} callbacks", refresh=False)
            bar.update(min(max(delivery.at - bar.n, 0.0), duration - bar.n))
        bar.update(duration - bar.n)


def _tell(sender: Sender) -> None:
    answers = ", ".join(f"{count} of {status}" for status, count in sorted(sender.statuses.items()))
    print(f"answers: {answers or 'none'}", file=sys.stderr)
    if sender.unexpected:
        print(f"{sender.unexpected} callbacks were refused, or kept against all expectation", file=sys.stderr)
    if sender.unanswered:
        print(f"{sender.unanswered} requests had no answer and were sent again", file=sys.stderr)


def _verify(options: Options, totals: Totals, before: Mapping[Key, float], sender: Sender) -> int:
    window = options.reorder_window + SETTLE_SECONDS
    over = time.time() + window
    print(
        f"waiting {window:g} s for the exporter to settle, "
        f"then until nothing differs or its numbers stand still for {STILL_SECONDS:g} s",
        file=sys.stderr,
    )
    _sleep_until(over)
    believed = believed_by(options.ca_file)

    def look() -> Comparison:
        return Comparison(
            expected=totals.counts,
            before=before,
            after=scrape(options.verify, believed),
            lossy=options.lose > 0,
            unanswered=sender.unanswered,
        )

    comparison = settled(look, lambda: time.sleep(STILL_SECONDS / STILL_SCRAPES))
    differences = comparison.differences()
    for line in differences:
        print(line, file=sys.stderr)
    print(f"{comparison.compared} samples compared, {len(differences)} differ", file=sys.stderr)
    return 1 if differences or sender.unexpected else 0


def _sleep_until(over: float) -> None:
    """Wait by the clock that the exporter's windows go by: UNIX time, which can be set."""
    while (left := over - time.time()) > 0:
        time.sleep(min(left, LOOK_SECONDS))
