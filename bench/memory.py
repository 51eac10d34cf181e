"""How much memory the worker holds, and how long it takes to start, with many tasks known."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.fleet import fill
from bench.process import EXPORTER, Process
from bench.report import Figure, Target
from bench.scrapes import Changes

TASKS = 100_000
CALLBACKS = 1_000
LIMIT_MIB = 200


def measure(folder: Path, flags: Sequence[str]) -> Iterator[Figure]:
    """Start on a full store, scrape twice, take callbacks, scrape again."""
    path = folder / "store.db"
    begun = time.perf_counter()
    fill(path, TASKS)
    yield Figure("memory tasks", TASKS)
    yield Figure("memory time to fill the store", time.perf_counter() - begun, "s")
    yield Figure("memory store on disk", path.stat().st_size / 1024 / 1024, "MiB")
    with Process(EXPORTER, folder, flags) as exporter:
        yield Figure("memory start to first answer", exporter.start_seconds, "s")
        yield Figure("memory at the start", exporter.worker_mib(), "MiB")
        yield Figure("memory time until ready", _timed(exporter, "/-/ready"), "ms")
        yield Figure("memory first scrape", _timed(exporter, "/metrics"), "ms")
        yield Figure("memory second scrape", _timed(exporter, "/metrics"), "ms")
        yield Figure("memory after two scrapes", exporter.worker_mib(), "MiB")
        Changes(exporter.connect("callbacks"), TASKS).post(CALLBACKS)
        yield Figure("memory third scrape", _timed(exporter, "/metrics"), "ms")
        yield Figure(f"memory after {CALLBACKS} callbacks", exporter.worker_mib(), "MiB", Target(LIMIT_MIB))
        yield Figure("memory at its highest", exporter.worker_mib(peak=True), "MiB", Target(LIMIT_MIB))


def _timed(exporter: Process, path: str) -> float:
    """Return how long a request to the web listener takes, ms."""
    web = exporter.connect("web")
    begun = time.perf_counter()
    web.request("GET", path)
    web.getresponse().read()
    return (time.perf_counter() - begun) * 1000
