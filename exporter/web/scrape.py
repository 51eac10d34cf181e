"""Renders scrapes: the store's snapshot and this process's own families, as Prometheus text or OpenMetrics.

A scrape is rendered in a separate thread. Its snapshot is taken after the request arrived, so that it shows
every commit made before. Concurrent requests for one format share a render: one runs at a time, and at most
one waits for each format. Rendered lines are cached by record, since few records change between two scrapes.
A test compares the output with prometheus_client's, byte by byte.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from gzip import GzipFile
from io import BytesIO
from typing import cast

from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from exporter.errors import StoreUnavailable
from exporter.metrics.catalogue import Scope, in_scope
from exporter.metrics.process import Telemetry, WithoutCreated
from exporter.relay import STATES, FoldSettings
from exporter.store.protocol import Snapshot, Store
from exporter.web import text_format
from exporter.web.text_format import LineWriter, RecordLines

log = logging.getLogger(__name__)

# A cast, since prometheus_client annotates the function only in part.
_openmetrics_text = cast("Callable[[Collector], bytes]", openmetrics_exposition.generate_latest)


class Exposition:
    """Writes expositions in one format, see `LineWriter`, and caches the lines of records."""

    def __init__(
        self, *, openmetrics: bool, labels: tuple[str, ...], fold_settings: FoldSettings, telemetry: Telemetry
    ) -> None:
        self._openmetrics = openmetrics
        self._telemetry = telemetry
        self._lines = LineWriter(openmetrics=openmetrics, labels=labels, fold_settings=fold_settings)
        scopes = (Scope.STORE, Scope.LABELLED, Scope.FLEET, Scope.TASK)
        self._headers = {f.name: self._lines.header(f) for scope in scopes for f in in_scope(scope)}
        self._label_sets: dict[tuple[str, tuple[int, ...]], RecordLines] = {}
        self._tasks: dict[str, RecordLines] = {}

    def write(self, snapshot: Snapshot | None, *, compress: bool = False) -> bytes:
        """Return the exposition, as gzip if `compress`; without a snapshot, only this process's families."""
        parts = self._parts(snapshot)
        # Unlike b"".join, a buffer frees each part once it is copied: no scrape is in memory twice.
        buffer = BytesIO()
        if compress:
            # The fastest level: a scrape is so repetitive that higher levels save little.
            with GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as file:
                file.writelines(parts)
        else:
            buffer.writelines(parts)
        return buffer.getvalue()

    def _parts(self, snapshot: Snapshot | None) -> Iterator[bytes]:
        if snapshot is not None:
            lines = self._lines_by_family(snapshot)
            for name, header in self._headers.items():
                yield header
                yield b"".join(lines[name])
        registry = self._telemetry.registry
        yield _openmetrics_text(registry) if self._openmetrics else generate_latest(WithoutCreated(registry))

    def _lines_by_family(self, snapshot: Snapshot) -> dict[str, list[bytes]]:
        lines, label_sets, tasks = self._lines, self._label_sets, self._tasks
        # The numbers of tasks belong to the key of a label set, since they change without its record.
        numbers = {(labels, state): number for labels, state, number in snapshot.counts}
        keys = [
            (record, tuple(numbers.get((labels, state), 0) for state in STATES))
            for labels, record in snapshot.label_sets
        ]
        # New dicts, not updates of the old ones: this drops records that the store does not have any more.
        self._label_sets = {key: label_sets.get(key) or lines.label_set(*key) for key in keys}
        self._tasks = {
            record: tasks[record] if record in tasks else lines.task(record) for record in snapshot.tasks
        }
        by_family = {}
        for families, records in (
            (text_format.STORE_FAMILIES, [lines.store(snapshot.created, snapshot.quarantined)]),
            (text_format.LABEL_SET_FAMILIES, list(self._label_sets.values())),
            (text_format.FLEET_FAMILIES, [lines.fleet(snapshot.fleet)]),
            (text_format.TASK_FAMILIES, list(self._tasks.values())),
        ):
            for index, family in enumerate(families):
                by_family[family.name] = [record[index] for record in records]
        return by_family


class Scraper:
    """Renders scrapes of the store and of this process, in a thread of its own.

    At most `max_tasks` have series of their own. `telemetry` receives the store's state and the render times.
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
        #: Renders that have not begun, by format and compression: requests that arrive now may share them.
        self._pending: dict[tuple[bool, bool], asyncio.Task[bytes]] = {}
        self._render_lock = asyncio.Lock()

    async def scrape(self, *, openmetrics: bool, compress: bool) -> bytes:
        """Return a scrape that shows every commit made before this call."""
        form = openmetrics, compress
        if form not in self._pending:
            self._pending[form] = asyncio.get_running_loop().create_task(self._render_next(form))
        # Shielded: a client that disconnects must not cancel the render that others share.
        return await asyncio.shield(self._pending[form])

    def close(self) -> None:
        """Wait for the render in progress, then stop the thread."""
        self._thread.shutdown()

    async def _render_next(self, form: tuple[bool, bool]) -> bytes:
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
        scrape = self._expositions[openmetrics].write(snapshot, compress=compress)
        self._telemetry.render.observe(time.perf_counter() - begun)
        return scrape
