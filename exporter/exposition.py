"""A scrape: the store's snapshot, written as Prometheus text or OpenMetrics.

The lines of each ledger and each task are kept as long as its record is the same, so that a scrape costs
what has changed since the last one, and some joining. A test compares its bytes with prometheus_client's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from exporter.catalogue import STATE_NAMES, Family, Scope, in_scope
from exporter.lines import FLEET, LEDGER, STORE, TASK, Lines
from exporter.relay import Windows
from exporter.shelf import Row, Shelf
from exporter.store import Bookmark, Snapshot
from exporter.store.places import number_at
from exporter.telemetry import Telemetry, WithoutCreated

# prometheus_client types it only in part.
_openmetrics_text = cast("Callable[[Collector], bytes]", openmetrics_exposition.generate_latest)

_SHOWN = [f for scope in (Scope.STORE, Scope.LABELLED, Scope.FLEET, Scope.TASK) for f in in_scope(scope)]

#: How many tasks are taken in at once: their lines take more room before they stand on the shelf.
BATCH = 4096

Labels = tuple[str, ...]


class Exposition:
    """Writes scrapes in one format.

    Args:
        openmetrics: OpenMetrics, with units, creation times and exemplars; else the text format.
        labels: names of the labels of the fleet's families.
        windows: what makes a task failed or stopped.
        telemetry: the families of this process.
    """

    def __init__(self, *, openmetrics: bool, labels: Labels, windows: Windows, telemetry: Telemetry) -> None:
        self._openmetrics = openmetrics
        self._telemetry = telemetry
        self._lines = Lines(openmetrics=openmetrics, labels=labels, windows=windows)
        self._headers = {family.name: self._lines.header(family) for family in _SHOWN}
        self._ledgers: dict[Labels, tuple[str, Sequence[int], Row]] = {}
        self._tasks = Tasks(self._lines)

    @property
    def bookmark(self) -> Bookmark | None:
        """What the store's next snapshot need not read again."""
        return self._tasks.bookmark

    def write(self, snapshot: Snapshot | None) -> bytes:
        """Return a scrape; without a snapshot, of this process's own families alone."""
        return b"".join(self.parts(snapshot))

    def parts(self, snapshot: Snapshot | None) -> Iterator[bytes]:
        """Yield a scrape part by part."""
        if snapshot is not None:
            self._tasks.take(snapshot)
            self._take_ledgers(snapshot)
            columns = self._columns(snapshot)
            for name, header in self._headers.items():
                yield header
                yield from columns[name]
        yield self._own()

    def _columns(self, snapshot: Snapshot) -> dict[str, Iterable[bytes]]:
        """Return the lines of each family."""
        store = self._lines.store(snapshot.created, snapshot.quarantined)
        ledgers = [row for _, _, row in self._ledgers.values()]
        return {
            **_columns_of(STORE, [store]),
            **_columns_of(LEDGER, ledgers),
            **_columns_of(FLEET, [self._lines.fleet(snapshot.fleet)]),
            **{family.name: self._tasks.column(index) for index, family in enumerate(TASK)},
        }

    def _take_ledgers(self, snapshot: Snapshot) -> None:
        known, self._ledgers = self._ledgers, {}
        numbers: dict[Labels, dict[str, int]] = {}
        for labels, state, number in snapshot.counts:
            numbers.setdefault(labels, {})[state] = number
        for labels, record in snapshot.ledgers:
            counts = [numbers.get(labels, {}).get(state, 0) for state in STATE_NAMES]
            row = known.get(labels)
            if row is None or row[:2] != (record, counts):
                row = record, counts, self._lines.ledger(record, counts)
            self._ledgers[labels] = row

    def _own(self) -> bytes:
        registry = self._telemetry.registry
        return _openmetrics_text(registry) if self._openmetrics else generate_latest(WithoutCreated(registry))


class Tasks:
    """The lines of the tasks that have series of their own, as of the last snapshot.

    Args:
        lines: writes them.
    """

    def __init__(self, lines: Lines) -> None:
        self.bookmark: Bookmark | None = None
        self._lines = lines
        self._shelf = Shelf()
        self._places: dict[int, int] = {}

    def take(self, snapshot: Snapshot) -> None:
        """Take in what has changed; if that fails, the next snapshot has to be a whole one."""
        last, self.bookmark = self.bookmark, None
        if snapshot.is_whole:
            self._shelf, self._places = Shelf(), {}
        elif last is not None and snapshot.bookmark.end < last.end:
            self._shelf.change({}, self._leave(self._past(snapshot.bookmark.end)))
        self._shelf.change({}, self._leave(snapshot.gone))
        for first in range(0, len(snapshot.places), BATCH):
            self._put(snapshot.places[first : first + BATCH], snapshot.tasks[first : first + BATCH])
        self.bookmark = snapshot.bookmark

    def column(self, index: int) -> Iterator[bytes]:
        """Yield the lines of a family."""
        return self._shelf.column(index)

    def _put(self, places: Sequence[int], records: Sequence[str]) -> None:
        rows = dict(zip(places, map(self._lines.task, records), strict=True))
        left = self._leave(map(number_at, places))
        self._places |= {number_at(place): place for place in places}
        self._shelf.change(rows, [place for place in left if place not in rows])

    def _leave(self, numbers: Iterable[int]) -> list[int]:
        """Forget where these tasks stood, and return it."""
        return [self._places.pop(number) for number in numbers if number in self._places]

    def _past(self, end: int) -> list[int]:
        return [number for number, place in self._places.items() if place > end]


def _columns_of(families: Sequence[Family], rows: Sequence[Row]) -> dict[str, Iterable[bytes]]:
    return {family.name: [row[index] for row in rows] for index, family in enumerate(families)}
