"""The simulator and the exporter's core in one process, without waiting, so that many seeds are fast."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from exporter.errors import CallbackError
from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.metrics.process import Telemetry
from exporter.protocol.callback import Callback, Ignored
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.simulator.command import STABLE_SCRAPES, until_stable
from exporter.simulator.options import SimulatorSettings
from exporter.simulator.totals import Comparison, Key, Totals, compared_samples
from exporter.simulator.wire import CallbackWriter, Delivery, fleet_deliveries
from exporter.store.protocol import StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.store.transaction import QuarantineEntry
from exporter.web.scrape import Exposition
from tests.unit.histories import SETTINGS, T0

LABELS = ("appid", "to_host")
FLEET = SimulatorSettings(tasks=30, duration=1200, failure_every=120, downtime=20, speed=30)
FAULTS = replace(
    FLEET, untimed=0.3, duplicate=0.3, reorder=0.4, nameless=0.3, unsigned=0.3, malformed=0.05, unknown=0.05
)
#: Callbacks sent as fast as possible, and callbacks sent at their event times.
FAST, PACED = replace(FAULTS, fast=True), replace(FAULTS, reorder_window=SETTINGS.reorder)
#: Callbacks of a batch, tasks of a sweep, and sweeps until no task must be due any more.
BATCH, SWEPT, ROUNDS = 100, 100, 100


def drawn(seed: int, settings: SimulatorSettings) -> tuple[list[Delivery], Totals]:
    """Return the deliveries of a seed, and the expected totals."""
    totals, writer = Totals(), CallbackWriter(float(T0), "key")
    return list(fleet_deliveries(replace(settings, seed=seed), writer, totals)), totals


class Core:
    """The exporter without servers: parser, fold, store and exposition.

    Args:
        path: path of its store.
    """

    def __init__(self, path: Path) -> None:
        self._store = SqliteStore(path, StoreOptions(labels=LABELS))
        self._parser = Parser(schemas=Schemas(), redactor=Redactor(key=b"k", plain_hosts=("*.myqcloud.com",)))
        self._applier = BatchApplier(SETTINGS, LABELS)

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def receive(self, deliveries: list[Delivery], arrival: Callable[[Delivery], float]) -> None:
        """Apply deliveries in batches; sweep after each batch, and once past all windows."""
        for begin in range(0, len(deliveries), BATCH):
            batch = [self._arrived(each.body, arrival(each)) for each in deliveries[begin : begin + BATCH]]
            self._store.transact(lambda transaction, batch=batch: self._applier.apply(batch, transaction))  # type: ignore[misc]
            self._sweep(batch[-1].arrival)
        self._sweep(batch[-1].arrival + SETTINGS.reorder + 2)

    def _arrived(self, body: bytes, at: float) -> BatchItem:
        try:
            callback: Callback | Ignored = self._parser.parse(body)
        except CallbackError as rejected:
            return BatchItem(at, quarantine_entry=QuarantineEntry(rejected.reason, body, "::1", at))
        is_kept = isinstance(callback, Ignored)
        return BatchItem(at, callback, QuarantineEntry("unknown_event", body, "::1", at) if is_kept else None)

    def _sweep(self, now: float) -> None:
        for _ in range(ROUNDS):
            keys = self._store.due_keys(now, SWEPT)
            if not keys:
                return
            self._store.transact(lambda transaction, keys=keys: self._applier.sweep(keys, now, transaction))  # type: ignore[misc]
        raise AssertionError("swept tasks are still due")

    def shown(self) -> dict[Key, float]:
        """Return the samples of a scrape that are compared."""
        telemetry = Telemetry(version="", revision="")
        exposition = Exposition(openmetrics=False, labels=LABELS, fold_settings=SETTINGS, telemetry=telemetry)
        return compared_samples(exposition.write(self._store.snapshot(1)).decode())


def after_the_run() -> Callable[[Delivery], float]:
    """Return a function that gives deliveries arrivals after the run, a millisecond apart."""
    begin, number = T0 + FLEET.duration + 10, count()
    return lambda _: round(begin + next(number) / 1000, 3)


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    """A core with a store of its own."""
    with closing(Core(tmp_path / "relay.db")) as core:
        yield core


def compared(totals: Totals, core: Core, *, lossy: bool = False) -> Comparison:
    """Return the comparison of the scrape with the expected totals."""
    return Comparison(expected=totals.counts, before={}, after=core.shown(), lossy=lossy, unanswered=0)


def sums(totals: Totals) -> dict[str, int]:
    """Return the totals by name, and by name and label value."""
    found: dict[str, int] = {}
    for (name, labels), number in totals.counts.items():
        for part in (name, *(f"{name} {value}" for _, value in labels)):
            found[part] = found.get(part, 0) + number
    return found


@pytest.mark.parametrize("seed", range(1, 8))
def test_totals_are_exact_for_callbacks_sent_as_fast_as_possible_with_every_fault(
    core: Core, seed: int
) -> None:
    """All arrive after the run, a millisecond apart; every fault occurs, and the totals are exact."""
    deliveries, totals = drawn(seed, FAST)
    core.receive(deliveries, arrival=after_the_run())
    assert_exact(totals, core)
    assert_every_fault(deliveries, totals, seed)


@pytest.mark.parametrize("seed", range(1, 4))
def test_totals_are_exact_for_callbacks_sent_at_their_event_times_with_every_fault(
    core: Core, seed: int
) -> None:
    """Each callback arrives at its event time, or a little later if it is reordered."""
    deliveries, totals = drawn(seed, PACED)
    core.receive(deliveries, arrival=lambda delivery: T0 + delivery.at)
    assert_exact(totals, core)


def assert_exact(totals: Totals, core: Core) -> None:
    """Assert that the scrape has exactly the expected totals."""
    comparison = compared(totals, core)
    assert comparison.differences == []
    assert comparison.compared > 200


def assert_every_fault(deliveries: list[Delivery], totals: Totals, seed: int) -> None:
    """Assert that every fault occurs, so that none of them passes untested."""
    found = sums(totals)
    applied = found["callbacks_total applied"]
    assert found["callbacks_total duplicate"] > 100
    assert found["callbacks_total ignored"] > 10
    assert found["quarantined_bodies_total schema"] > 10
    assert found["anomalies_total unattributed_exit"] > 0
    assert 0 < found["callback_delay_seconds_count"] < applied, "some tasks state times, others do not"
    unsigned = [delivery for delivery in deliveries if b'"sign"' not in delivery.body]
    assert 0 < len(unsigned) < len(deliveries)
    in_order, _ = drawn(seed, replace(FAST, reorder=0.0))
    assert [d.body for d in in_order] != [d.body for d in deliveries]


def test_lost_callbacks_are_counted_as_anomalies_and_the_others_exactly(core: Core) -> None:
    """Each callback that arrives is counted; the missing ones show as anomalies."""
    # None without event times: after a loss, they may look like redeliveries.
    deliveries, totals = drawn(1, replace(FLEET, fast=True, lose=0.2, duplicate=0.3, reorder=0.3))
    core.receive(deliveries, arrival=after_the_run())
    assert compared(totals, core, lossy=True).differences == []
    kinds = {dict(labels)["kind"] for name, labels in core.shown() if name == "anomalies_total"}
    assert kinds >= {"missed_start", "missed_finish", "missed_exit"}


class Scrapes:
    """An exporter that shows one number after the other, then repeats the last one."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)
        self.pauses = 0

    def compare(self) -> Comparison:
        """Compare the next number with the expected 3."""
        number = self._numbers.pop(0) if len(self._numbers) > 1 else self._numbers[0]
        key: Key = ("files_played_total", frozenset({("appid", "1")}))
        shown: dict[Key, float] = {
            ("tasks", frozenset({("appid", "1"), ("state", "active")})): 0.0,
            key: number,
        }
        return Comparison(expected={key: 3}, before={}, after=shown, lossy=False, unanswered=0)

    def pause(self) -> None:
        """Count a pause."""
        self.pauses += 1


def test_a_slow_exporter_is_scraped_until_the_numbers_agree() -> None:
    """It is scraped as long as its numbers change. There is no pause without a difference."""
    slow = Scrapes(*(number / 100 for number in range(300)), 3.0)
    assert until_stable(slow.compare, slow.pause).differences == []
    quick = Scrapes(3.0)
    assert until_stable(quick.compare, quick.pause).differences == []
    assert quick.pauses == 0


def test_a_difference_is_reported_when_the_numbers_do_not_change_any_more() -> None:
    """Every change restarts the wait."""
    wrong = Scrapes(1.0, 1.0, 1.0, 2.0)
    assert until_stable(wrong.compare, wrong.pause).differences == [
        'css_relay_files_played_total{appid="1"}: expected 3, grew by 2'
    ]
    assert wrong.pauses == 3 + STABLE_SCRAPES
