"""Renders scrapes off the event loop, one at a time, and lets those that wait share the next one.

A render that a request waits for always begins after the request came, so that it shows every commit
made before; however many ask at once, there are never more than two renders' worth of work.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

from exporter.errors import StoreUnavailable
from exporter.exposition import Exposition
from exporter.relay import Windows
from exporter.store import Store
from exporter.telemetry import Telemetry

log = logging.getLogger(__name__)

Form = tuple[bool, bool]


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
        self, *, store: Store, labels: tuple[str, ...], windows: Windows, max_tasks: int, telemetry: Telemetry
    ) -> None:
        self._store = store
        self._max_tasks = max_tasks
        self._telemetry = telemetry
        self._expositions = {
            openmetrics: Exposition(
                openmetrics=openmetrics, labels=labels, windows=windows, telemetry=telemetry
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
            self._telemetry.store_answered("read", well=True)
            self._telemetry.overflowed.labels("tasks").inc(snapshot.left_out)
        except StoreUnavailable as exc:
            log.warning("a scrape without the store: %s", exc)
            self._telemetry.store_answered("read", well=False)
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
