"""How long a scrape takes and how large it is, by tasks, format and encoding."""

import http.client
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.fleet import file_start, fill
from bench.process import EXPORTER, Process
from bench.report import Figure, Target

FLEETS = (1_000, 10_000)
TIMES = 10
CHANGES = 50
CHECKED_TASKS, LIMIT_MS = 10_000, 100
ALL_TASKS = "--metrics.max-tasks=20000"
FORMATS = {"text": "text/plain;version=0.0.4", "openmetrics": "application/openmetrics-text;version=1.0.0"}


def measure(folder: Path, flags: Sequence[str]) -> Iterator[Figure]:
    """Measure fleets of each size: with the default bound on tasks with series, and with room for all."""
    for tasks in FLEETS:
        home = folder / str(tasks)
        fill(home / "store.db", tasks)
        for shown, more in (("default max-tasks", ()), ("max-tasks 20000", (ALL_TASKS,))):
            with Process(EXPORTER, home, (*flags, *more)) as exporter:
                yield from _of_fleet(exporter, f"scrape {tasks} tasks, {shown}", tasks, checked=not more)


def _of_fleet(exporter: Process, name: str, tasks: int, *, checked: bool) -> Iterator[Figure]:
    web = exporter.connect("web")
    callbacks = Changes(exporter.connect("callbacks"), tasks)
    target = Target(LIMIT_MS) if checked and tasks == CHECKED_TASKS else None
    for form, accept in FORMATS.items():
        yield Figure(f"{name}, {form}, the first of all", _scrape(web, accept, "identity")[0], "ms")
        for encoding in ("identity", "gzip"):
            label = f"{name}, {form}, {encoding}"
            changed, repeated, sizes = [], [], []
            for _ in range(TIMES):
                callbacks.post()
                changed.append(_scrape(web, accept, encoding)[0])
                took, size = _scrape(web, accept, encoding)
                repeated.append(took)
                sizes.append(size)
            yield Figure(f"{label}, size", median(sizes) / 1024, "KiB")
            yield Figure(f"{label}, after {CHANGES} callbacks", median(changed), "ms", target)
            yield Figure(f"{label}, again", median(repeated), "ms", target)


class Changes:
    """Callbacks that change some tasks of a fleet, others each time.

    Args:
        connection: to the callback listener.
        tasks: how many there are.
    """

    def __init__(self, connection: http.client.HTTPConnection, tasks: int) -> None:
        self._connection = connection
        self._tasks = tasks
        self._sent = 0

    def post(self, number: int = CHANGES) -> None:
        """Send that many callbacks, one after the other; each begins a file of another task."""
        for _ in range(number):
            self._sent += 1
            body = file_start(self._sent % self._tasks, time.time(), self._sent)
            self._connection.request("POST", "/callbacks", body)
            answer = self._connection.getresponse()
            answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise RuntimeError(f"a callback was answered {answer.status}")


def _scrape(web: http.client.HTTPConnection, accept: str, encoding: str) -> tuple[float, int]:
    """Return how long a scrape took, in ms, and its size as it was sent."""
    begun = time.perf_counter()
    web.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": encoding})
    size = len(web.getresponse().read())
    return (time.perf_counter() - begun) * 1000, size
