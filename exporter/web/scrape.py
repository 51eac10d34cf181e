"""Renders scrapes: the store's snapshot and this process's own families, as Prometheus text or OpenMetrics.

A scrape is rendered in a separate thread. Its snapshot is taken after the request arrived, so that it shows
every commit made before. Concurrent requests for one format share a render: one runs at a time, and at most
one waits for each format. Rendered lines are cached by record, since few records change between two scrapes.
A test compares the output with prometheus_client's, byte by byte.
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
from exporter.web import text_format
from exporter.web.text_format import LineWriter, RecordLines

log = logging.getLogger(__name__)

#: Whether a scrape is OpenMetrics, and whether it is compressed.
Format = tuple[bool, bool]

# A cast, since prometheus_client annotates the function only in part.
_openmetrics_text = cast("Callable[[Collector], bytes]", openmetrics_exposition.generate_latest)

#: The families from the store, in the order of a scrape.
_FAMILIES = [f for scope in (Scope.STORE, Scope.LABELLED, Scope.FLEET, Scope.TASK) for f in in_scope(scope)]


class Exposition:
    """Writes the exposition of a snapshot in one format, and caches the lines of its records.

    Args:
        openmetrics: write OpenMetrics, with units, creation times and exemplars; else the text format.
        labels: label names of the families that are counted by label set, `--metrics.labels`.
        fold_settings: decides whether a task is failed or stopped.
        telemetry: the families of this process.
    """

    def __init__(
        self, *, openmetrics: bool, labels: tuple[str, ...], fold_settings: FoldSettings, telemetry: Telemetry
    ) -> None:
        self._openmetrics = openmetrics
        self._telemetry = telemetry
        self._lines = LineWriter(openmetrics=openmetrics, labels=labels, fold_settings=fold_settings)
        self._headers = {family.name: self._lines.header(family) for family in _FAMILIES}
        self._label_sets: dict[tuple[str, tuple[int, ...]], RecordLines] = {}
        self._tasks: dict[str, RecordLines] = {}

    def write(self, snapshot: Snapshot | None) -> bytes:
        """Return the whole exposition; without a snapshot, only this process's own families."""
        return b"".join(self.parts(snapshot))

    def parts(self, snapshot: Snapshot | None) -> Iterator[bytes]:
        """Yield the exposition in parts; without a snapshot, only this process's own families."""
        if snapshot is not None:
            lines = self._lines_by_family(snapshot)
            for name, header in self._headers.items():
                yield header
                yield b"".join(lines[name])
        registry = self._telemetry.registry
        yield _openmetrics_text(registry) if self._openmetrics else generate_latest(WithoutCreated(registry))

    def _lines_by_family(self, snapshot: Snapshot) -> dict[str, Sequence[bytes]]:
        # New dicts, not updates of the old ones: this drops records that the store does not have any more.
        self._label_sets = self._label_set_lines(snapshot)
        cached, lines = self._tasks, self._lines
        self._tasks = {
            record: cached[record] if record in cached else lines.task(record) for record in snapshot.tasks
        }
        return {
            **_transposed(text_format.STORE_FAMILIES, [lines.store(snapshot.created, snapshot.quarantined)]),
            **_transposed(text_format.LABEL_SET_FAMILIES, list(self._label_sets.values())),
            **_transposed(text_format.FLEET_FAMILIES, [lines.fleet(snapshot.fleet)]),
            **_transposed(text_format.TASK_FAMILIES, list(self._tasks.values())),
        }

    def _label_set_lines(self, snapshot: Snapshot) -> dict[tuple[str, tuple[int, ...]], RecordLines]:
        """Return the lines of each label set, by its record and the number of its tasks in each state."""
        # The numbers belong to the key, since they change without the record.
        numbers = {(labels, state): number for labels, state, number in snapshot.counts}
        keys = [
            (record, tuple(numbers.get((labels, state), 0) for state in STATES))
            for labels, record in snapshot.label_sets
        ]
        return {key: self._label_sets.get(key) or self._lines.label_set(*key) for key in keys}


def _transposed(families: Sequence[Family], records: Sequence[RecordLines]) -> dict[str, Sequence[bytes]]:
    return {family.name: [lines[index] for lines in records] for index, family in enumerate(families)}


class Scraper:
    """Renders scrapes of the store and of this process, in a thread of its own.

    Args:
        labels: label names of the families that are counted by label set, `--metrics.labels`.
        fold_settings: decides whether a task is failed or stopped.
        max_tasks: maximum number of tasks with series of their own.
        telemetry: the families of this process; it also receives the store's state and the render times.
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
        #: Renders that have not begun: requests that arrive now may share them.
        self._pending: dict[Format, asyncio.Task[bytes]] = {}
        self._render_lock = asyncio.Lock()

    async def scrape(self, *, openmetrics: bool, compress: bool) -> bytes:
        """Return a scrape that shows every commit made before this call.

        Args:
            openmetrics: as OpenMetrics; else in the text format.
            compress: whether it is compressed with gzip.
        """
        form = openmetrics, compress
        if form not in self._pending:
            self._pending[form] = asyncio.get_running_loop().create_task(self._render_next(form))
        # Shielded: a client that disconnects must not cancel the render that others share.
        return await asyncio.shield(self._pending[form])

    def close(self) -> None:
        """Wait for the render in progress, then stop the thread."""
        self._thread.shutdown()

    async def _render_next(self, form: Format) -> bytes:
        async with self._render_lock:
            # From here on the snapshot may be older than a new request, which must start another render.
            del self._pending[form]
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._render, *form)

    def _render(self, openmetrics: bool, compress: bool) -> bytes:
        begun = time.perf_counter()
        try:
            snapshot = self._store.snapshot(self._max_tasks)
            self._telemetry.is_readable = True
            self._telemetry.overflowed.labels("tasks").inc(snapshot.left_out)
        except StoreUnavailable as exc:
            log.warning("scrape has only the process's own metrics: %s", exc)
            self._telemetry.is_readable = False
            snapshot = None
        parts = self._expositions[openmetrics].parts(snapshot)
        scrape = _joined(_gzip(parts) if compress else parts)
        self._telemetry.render.observe(time.perf_counter() - begun)
        return scrape


def _joined(parts: Iterable[bytes]) -> bytes:
    # Unlike b"".join, this frees each part once it is copied: memory use stays near the size of one scrape.
    buffer = BytesIO()
    buffer.writelines(parts)
    return buffer.getvalue()


def _gzip(parts: Iterable[bytes]) -> Iterator[bytes]:
    # The fastest level: a scrape is so repetitive that higher levels save little. 31 asks zlib for gzip.
    compressor = zlib.compressobj(level=1, wbits=31)
    yield from map(compressor.compress, parts)
    yield compressor.flush()
