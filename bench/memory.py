"""The start time of the exporter with many tasks in its store, and the memory of the worker."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.fleet import fill
from bench.process import EXPORTER, Process
from bench.report import Figure, Target
from bench.scrapes import Changes, scrape
from bench.stores import STORES, Stores, size_mib

LIMIT_MIB = 200


def measure(
    folder: Path, flags: Sequence[str], *, tasks: int, callbacks: int, stores: Stores = STORES
) -> Iterator[Figure]:
    """Measure each kind of store: start with a full store, scrape twice, send callbacks, scrape again."""
    yield Figure("memory tasks", tasks)
    for store, started in stores.items():
        home = folder / store
        home.mkdir()
        with started(home) as url:
            begun = time.perf_counter()
            fill(url, tasks)
            yield Figure(f"memory {store} time to fill it", time.perf_counter() - begun, "s")
            yield Figure(f"memory {store} size", size_mib(url), "MiB")
            with Process(EXPORTER, home, flags, store=str(url)) as exporter:
                yield from _of_exporter(exporter, f"memory {store}", tasks, callbacks)


def _of_exporter(exporter: Process, name: str, tasks: int, callbacks: int) -> Iterator[Figure]:
    ready_ms = _until_ready(exporter)
    web = exporter.connect("web")
    yield Figure(f"{name} start to first 200", exporter.start_seconds, "s")
    yield Figure(f"{name} start to ready", exporter.start_seconds + ready_ms / 1000, "s")
    yield Figure(f"{name} at the start", exporter.memory_mib(), "MiB")
    yield Figure(f"{name} first scrape", scrape(web)[0], "ms")
    yield Figure(f"{name} second scrape", scrape(web)[0], "ms")
    yield Figure(f"{name} after two scrapes", exporter.memory_mib(), "MiB")
    Changes(exporter.connect("callbacks"), tasks).post(callbacks)
    yield Figure(f"{name} third scrape", scrape(web)[0], "ms")
    yield Figure(f"{name} after callbacks", exporter.memory_mib(), "MiB", Target(LIMIT_MIB))
    yield Figure(f"{name} peak", exporter.memory_mib(peak=True), "MiB", Target(LIMIT_MIB))


def _until_ready(exporter: Process) -> float:
    """Return the milliseconds to the answer of `/-/ready`, which checks the store and renders a scrape."""
    web = exporter.connect("web")
    begun = time.perf_counter()
    web.request("GET", "/-/ready")
    answer = web.getresponse()
    answer.read()
    web.close()
    if answer.status != 200:
        raise RuntimeError(f"the exporter is not ready: status {answer.status}")
    return (time.perf_counter() - begun) * 1000
