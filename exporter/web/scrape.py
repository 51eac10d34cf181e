"""A scrape: the store's snapshot, written as Prometheus text or OpenMetrics, and this process's own families.

A scrape is rendered in a thread of its own. Each begins after the request came, so that it shows every commit
made before; however many ask at once, there are never more than two renders' worth of work. The lines of a
label set or a task are kept as long as its record is the same: most of them are as the last scrape wrote
them. A test compares a scrape's bytes with prometheus_client's.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import cast

from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from exporter.errors import StoreUnavailable
from exporter.metrics.catalogue import Family, Scope, in_scope
from exporter.metrics.process import Telemetry, WithoutCreated
from exporter.relay import STATES, FoldSettings
from exporter.store.protocol import Snapshot, Store
from exporter.web.text_format import FLEET, LEDGER, STORE, TASK, Lines, Row

log = logging.getLogger(__name__)

Form = tuple[bool, bool]

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
        self, *, openmetrics: bool, labels: tuple[str, ...], fold_settings: FoldSettings, telemetry: Telemetry
    ) -> None:
        self._openmetrics = openmetrics
        self._telemetry = telemetry
        self._lines = Lines(openmetrics=openmetrics, labels=labels, fold_settings=fold_settings)
        self._headers = {family.name: self._lines.header(family) for family in _SHOWN}
        self._label_sets: dict[tuple[str, tuple[int, ...]], Row] = {}
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
        self._label_sets = self._ledger_rows(snapshot)
        known, lines = self._tasks, self._lines
        self._tasks = {
            record: known[record] if record in known else lines.task(record) for record in snapshot.tasks
        }
        return {
            **_columns_of(STORE, [lines.store(snapshot.created, snapshot.quarantined)]),
            **_columns_of(LEDGER, list(self._label_sets.values())),
            **_columns_of(FLEET, [lines.fleet(snapshot.fleet)]),
            **_columns_of(TASK, list(self._tasks.values())),
        }

    def _ledger_rows(self, snapshot: Snapshot) -> dict[tuple[str, tuple[int, ...]], Row]:
        """Return the lines of each label set, by its record and the number of its tasks in each state."""
        numbers = {(labels, state): number for labels, state, number in snapshot.counts}
        keys = [
            (record, tuple(numbers.get((labels, state), 0) for state in STATES))
            for labels, record in snapshot.label_sets
        ]
        return {key: self._label_sets.get(key) or self._lines.label_set(*key) for key in keys}


def _columns_of(families: Sequence[Family], rows: Sequence[Row]) -> dict[str, Sequence[bytes]]:
    return {family.name: [row[index] for row in rows] for index, family in enumerate(families)}


class Scraper:
    """Renders the store and this process for a scrape.

    Args:
        store: whose snapshot is shown.
        labels: names of the labels of the fleet's families.
        windows: what makes a task failed or stopped.
        max_tasks: tasks with series of their own.
        telemetry: the families of this process.
    """

    def __init__(
        self,
        *,
        store: Store,
        labels: tuple[str, ...],
        fold_settings: FoldSettings,
        max_tasks: int,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._max_tasks = max_tasks
        self._telemetry = telemetry
        self._expositions = {
            openmetrics: Exposition(
                openmetrics=openmetrics, labels=labels, fold_settings=fold_settings, telemetry=telemetry
            )
            for openmetrics in (False, True)
        }
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scrape")
        self._waiting: dict[Form, asyncio.Task[bytes]] = {}
        self._turn = asyncio.Lock()

    async def scrape(self, *, openmetrics: bool, compress: bool) -> bytes:
        """Return a scrape that shows every commit made before this call; gzip if `compress`."""
        form = openmetrics, compress
        if form not in self._waiting:
            self._waiting[form] = asyncio.get_running_loop().create_task(self._next(form))
        return await asyncio.shield(self._waiting[form])

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown()

    async def _next(self, form: Form) -> bytes:
        async with self._turn:
            del self._waiting[form]
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._render, *form)

    def _render(self, openmetrics: bool, compress: bool) -> bytes:
        begun = time.perf_counter()
        try:
            snapshot = self._store.snapshot(self._max_tasks)
            self._telemetry.record_store_access("read", succeeded=True)
            self._telemetry.overflowed.labels("tasks").inc(snapshot.left_out)
        except StoreUnavailable as exc:
            log.warning("a scrape without the store: %s", exc)
            self._telemetry.record_store_access("read", succeeded=False)
            snapshot = None
        parts = self._expositions[openmetrics].parts(snapshot)
        scrape = _joined(_gzip(parts) if compress else parts)
        self._telemetry.render.observe(time.perf_counter() - begun)
        return scrape


def _joined(parts: Iterable[bytes]) -> bytes:
    # Unlike a join this never holds all parts and the whole at the same time.
    whole = BytesIO()
    whole.writelines(parts)
    return whole.getvalue()


def _gzip(parts: Iterable[bytes]) -> Iterator[bytes]:
    # The fastest level: a scrape repeats itself so much that more effort saves little.
    compressor = zlib.compressobj(level=1, wbits=31)
    yield from map(compressor.compress, parts)
    yield compressor.flush()
