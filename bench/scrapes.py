"""The time and size of a scrape, by store, number of tasks, format and encoding."""

import http.client
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.fleet import file_start, fill
from bench.process import EXPORTER, Process
from bench.report import Figure, Target
from bench.stores import STORES, Stores

FLEETS = (10, 100, 1_000, 10_000, 100_000)
#: The default number of tasks with series of their own.
DEFAULT_SERIES = 2_000
CHANGES = 50
#: Targets in ms, by number of tasks, with series for the default number of tasks.
LIMITS_MS = {10_000: 50, 100_000: 500}
DEFAULT, ALL = "default series", "series for all"
FORMS = {
    "text": ("text/plain;version=0.0.4", "identity"),
    "text gzip": ("text/plain;version=0.0.4", "gzip"),
    "openmetrics gzip": ("application/openmetrics-text;version=1.0.0", "gzip"),
}


def measure(
    folder: Path, flags: Sequence[str], *, fleets: Sequence[int], times: int, stores: Stores = STORES
) -> Iterator[Figure]:
    """Measure fleets of each size on each kind of store, with series for 2,000 tasks and for all tasks."""
    for store, started in stores.items():
        for tasks in fleets:
            home = folder / f"{store}-{tasks}"
            home.mkdir()
            with started(home) as url:
                fill(url, tasks)
                for shown, more in _bounds(tasks).items():
                    with Process(EXPORTER, home, (*flags, *more), store=str(url)) as exporter:
                        yield from _of_fleet(exporter, f"scrape {store} {tasks} tasks, {shown}", tasks, times)


def _bounds(tasks: int) -> dict[str, tuple[str, ...]]:
    """Return the flags for the default number of tasks with series, and for all tasks if there are more."""
    return {DEFAULT: ()} | ({ALL: (f"--metrics.max-tasks={tasks}",)} if tasks > DEFAULT_SERIES else {})


def _of_fleet(exporter: Process, name: str, tasks: int, times: int) -> Iterator[Figure]:
    web = exporter.connect("web")
    callbacks = Changes(exporter.connect("callbacks"), tasks)
    target = Target(LIMITS_MS[tasks]) if tasks in LIMITS_MS and name.endswith(DEFAULT) else None
    yield Figure(f"{name}, first scrape", scrape(web)[0], "ms")
    for form in FORMS:
        scrape(web, form)
        took, sizes = [], []
        for _ in range(times):
            callbacks.post()
            milliseconds, size = scrape(web, form)
            took.append(milliseconds)
            sizes.append(size)
        yield Figure(f"{name}, {form}, size", median(sizes) / 1024, "KiB")
        yield Figure(f"{name}, {form}", median(took), "ms", target)
    yield Figure(f"{name}, peak memory", exporter.memory_mib(peak=True), "MiB")


class Changes:
    """A sender of callbacks that change some tasks of a fleet, different tasks each time.

    Args:
        connection: a connection to the callback listener.
        tasks: the number of tasks in the fleet.
    """

    def __init__(self, connection: http.client.HTTPConnection, tasks: int) -> None:
        self._connection = connection
        self._tasks = tasks
        self._sent = 0

    def post(self, number: int = CHANGES) -> None:
        """Send that many callbacks, one after the other; each starts a file of a different task."""
        for _ in range(number):
            self._sent += 1
            body = file_start(self._sent % self._tasks, time.time(), self._sent)
            self._connection.request("POST", "/callbacks", body)
            answer = self._connection.getresponse()
            answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise RuntimeError(f"a callback was answered {answer.status}")
        self._connection.close()  # a large scrape can take longer than the exporter's idle timeout


def scrape(web: http.client.HTTPConnection, form: str = "text") -> tuple[float, int]:
    """Return the time of a scrape in ms, and the size of its body in bytes as it was sent."""
    accept, encoding = FORMS[form]
    begun = time.perf_counter()
    web.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": encoding})
    answer = web.getresponse()
    size = len(answer.read())
    took_ms = (time.perf_counter() - begun) * 1000
    web.close()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"a scrape was answered {answer.status}")
    return took_ms, size
