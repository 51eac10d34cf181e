"""The load generators: wrk for a closed loop (waits for each answer), k6 for an open loop (a fixed rate)."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, convert

from bench.program import pinned

FOLDER = Path(__file__).parent
CONNECTIONS = 64
#: A limit that only a hang exceeds.
HANG_SECONDS = 600
#: A lower limit of any contender's rate, in requests per second; it determines how long a run may take.
SLOWEST_RATE = 100
T = TypeVar("T")
CALLBACKS, PUSHES, LIFE_CYCLES = "callbacks", "pushes", "life_cycles"

#: The first task number of each run: runs have no tasks in common, and all numbers have ten digits.
_first_tasks = count(10**9, 10**7)


class WrkResult(Struct, frozen=True):
    """The result of a run of wrk.

    Args:
        answered: the number of answers.
        rejected: the number of answers with another status than 200.
        failed: failed connections, and requests without an answer.
        seconds: the duration of the run.
        p50_ms, p99_ms, max_ms: the time to an answer; with several servers, of the slowest.
    """

    answered: int
    rejected: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def accepted(self) -> int:
        """Callbacks answered 200."""
        return self.answered - self.rejected

    @property
    def rate(self) -> float:
        """Callbacks answered 200, per second."""
        return self.accepted / self.seconds


class K6Result(Struct, frozen=True):
    """The result of a run of k6.

    Args:
        answered: the number of answers.
        rejected: the number of answers with another status than 200.
        dropped: requests that were not sent because no connection was free.
        p50_ms, p95_ms, p99_ms, max_ms: the time to an answer.
    """

    answered: int
    rejected: int
    dropped: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Load(Struct, frozen=True):
    """The requests of a run and their URLs.

    Args:
        urls: one URL per server; the connections are divided among them.
        script: CALLBACKS, PUSHES or LIFE_CYCLES.
        destinations: the number of destinations of the tasks.
        fields: additional JSON fields of every body, with a comma at their end.
        tasks: the number of tasks on air at a time, for LIFE_CYCLES.
    """

    urls: tuple[str, ...]
    script: str = CALLBACKS
    destinations: int = 1
    fields: str = ""
    tasks: int = 200


def send(
    load: Load, seconds: int, cores: Sequence[int] = (), *, connections: int = CONNECTIONS, number: int = 0
) -> WrkResult:
    """Send requests in a closed loop for `seconds`.

    Args:
        cores: the cores for wrk; empty: all.
        number: if above 0, send this number of requests to each server instead, without a time limit.
    """
    each = connections // len(load.urls)
    seconds = HANG_SECONDS + number // SLOWEST_RATE if number else seconds
    with ThreadPoolExecutor(len(load.urls)) as pool:
        return _sum(list(pool.map(lambda url: _wrk(url, load, seconds, number, each, cores), load.urls)))


def send_exactly(load: Load, number: int) -> WrkResult:
    """Send `number` requests in a closed loop, over at most as many connections as there are tasks."""
    return send(load, 0, connections=min(CONNECTIONS, load.tasks), number=number)


def send_at_rate(load: Load, rate: int, seconds: int) -> K6Result:
    """Send `rate` requests per second for `seconds`, whether or not they are answered."""
    k6 = shutil.which("k6", path=str(Path(sys.executable).parent))
    if k6 is None:
        raise RuntimeError("k6 is not installed: it is one of the development dependencies")
    variables = {
        "URLS": " ".join(load.urls),
        "SCRIPT": load.script,
        "RATE": str(rate),
        "SECONDS": str(seconds),
        "FIRST": str(next(_first_tasks)),
        "DESTINATIONS": str(load.destinations),
    }
    command = [k6, "run", "--quiet", "--no-usage-report", str(FOLDER / "arrivals.js")]
    environment = os.environ | variables
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return _found(done.stdout, K6Result)


def _wrk(
    url: str, load: Load, seconds: int, number: int, connections: int, cores: Sequence[int]
) -> WrkResult:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("wrk is not installed; `make bench` installs it")
    shape = ["--threads=1", f"--connections={connections}", f"--duration={seconds}s", "--latency"]
    arguments = [str(next(_first_tasks)), str(number), str(load.destinations), load.fields, str(load.tasks)]
    command = [*pinned(cores), wrk, *shape, f"--script={load.script}.lua", url, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=FOLDER)
    return _found(done.stdout, WrkResult)


def _found(printed: str, kind: type[T]) -> T:
    line = next(line for line in printed.splitlines() if line.startswith("{"))
    return convert(json.loads(line), kind)


def _sum(outcomes: Sequence[WrkResult]) -> WrkResult:
    """Return the combined result of runs at the same time."""
    return WrkResult(
        answered=sum(o.answered for o in outcomes),
        rejected=sum(o.rejected for o in outcomes),
        failed=sum(o.failed for o in outcomes),
        seconds=max(o.seconds for o in outcomes),
        p50_ms=max(o.p50_ms for o in outcomes),
        p99_ms=max(o.p99_ms for o in outcomes),
        max_ms=max(o.max_ms for o in outcomes),
    )
