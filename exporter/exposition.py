"""A scrape: the store's snapshot, written as Prometheus text or OpenMetrics.

The lines of a label set or a task are kept as long as its record is the same: most of them are as the last
scrape wrote them. A test compares a scrape's bytes with prometheus_client's.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from exporter.catalogue import Family, Scope, in_scope
from exporter.lines import FLEET, LEDGER, STORE, TASK, Lines, Row
from exporter.relay import STATES, Windows
from exporter.store import Snapshot
from exporter.telemetry import Telemetry, WithoutCreated

# prometheus_client types it only in part.
_openmetrics_text = cast("Callable[[Collector], bytes]", openmetrics_exposition.generate_latest)

_SHOWN = [f for scope in (Scope.STORE, Scope.LABELLED, Scope.FLEET, Scope.TASK) for f in in_scope(scope)]


class Exposition:
    """Writes scrapes in one format.

    Args:
        openmetrics: OpenMetrics, with units, creation times and exemplars; else the text format.
        labels: names of the labels of the fleet's families.
        windows: what makes a task failed or stopped.
        telemetry: the families of this process.
    """

    def __init__(
        self, *, openmetrics: bool, labels: tuple[str, ...], windows: Windows, telemetry: Telemetry
    ) -> None:
        self._openmetrics = openmetrics
        self._telemetry = telemetry
        self._lines = Lines(openmetrics=openmetrics, labels=labels, windows=windows)
        self._headers = {family.name: self._lines.header(family) for family in _SHOWN}
        self._ledgers: dict[tuple[str, tuple[int, ...]], Row] = {}
        self._tasks: dict[str, Row] = {}

    def write(self, snapshot: Snapshot | None) -> bytes:
        """Return a scrape; without a snapshot, of this process's own families alone."""
        return b"".join(self.parts(snapshot))

    def parts(self, snapshot: Snapshot | None) -> Iterator[bytes]:
        """Yield a scrape part by part."""
        if snapshot is not None:
            columns = self._columns(snapshot)
            for name, header in self._headers.items():
                yield header
                yield b"".join(columns[name])
        registry = self._telemetry.registry
        yield _openmetrics_text(registry) if self._openmetrics else generate_latest(WithoutCreated(registry))

    def _columns(self, snapshot: Snapshot) -> dict[str, Sequence[bytes]]:
        """Return the lines of each family."""
        self._ledgers = self._ledger_rows(snapshot)
        known, lines = self._tasks, self._lines
        self._tasks = {
            record: known[record] if record in known else lines.task(record) for record in snapshot.tasks
        }
        return {
            **_columns_of(STORE, [lines.store(snapshot.created, snapshot.quarantined)]),
            **_columns_of(LEDGER, list(self._ledgers.values())),
            **_columns_of(FLEET, [lines.fleet(snapshot.fleet)]),
            **_columns_of(TASK, list(self._tasks.values())),
        }

    def _ledger_rows(self, snapshot: Snapshot) -> dict[tuple[str, tuple[int, ...]], Row]:
        """Return the lines of each label set, by its record and the number of its tasks in each state."""
        numbers = {(labels, state): number for labels, state, number in snapshot.counts}
        keys = [
            (record, tuple(numbers.get((labels, state), 0) for state in STATES))
            for labels, record in snapshot.ledgers
        ]
        return {key: self._ledgers.get(key) or self._lines.ledger(*key) for key in keys}


def _columns_of(families: Sequence[Family], rows: Sequence[Row]) -> dict[str, Sequence[bytes]]:
    return {family.name: [row[index] for row in rows] for index, family in enumerate(families)}
