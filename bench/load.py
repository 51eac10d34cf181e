"""Load: wrk sends the next request when one is answered, k6 sends them at a rate, answered or not."""

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
#: Only a hang takes as long.
HANG_SECONDS = 600
#: How many a second are answered at the very least.
SLOWEST_RATE = 100
T = TypeVar("T")
CALLBACKS, PUSHES, LIVES = "callbacks", "pushes", "lives"

#: Tasks of one run never meet those of another; all numbers have the same length.
_first_tasks = count(10**9, 10**7)


class Outcome(Struct, frozen=True):
    """What became of a run of wrk.

    Args:
        answered: answers that came.
        refused: those of them that were no 200.
        broken: connections that failed, and answers that never came.
        seconds: how long it took.
        p50_ms, p99_ms, max_ms: time to an answer; of several servers, the slower one's.
    """

    answered: int
    refused: int
    broken: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def taken(self) -> int:
        """Callbacks answered 200."""
        return self.answered - self.refused

    @property
    def rate(self) -> float:
        """Callbacks answered 200, a second."""
        return self.taken / self.seconds


class Arrivals(Struct, frozen=True):
    """What became of a run of k6.

    Args:
        answered: answers that came.
        refused: those of them that were no 200.
        dropped: requests that were not sent, as none of the connections was free.
        p50_ms, p95_ms, p99_ms, max_ms: time to an answer.
    """

    answered: int
    refused: int
    dropped: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Aim(Struct, frozen=True):
    """Where requests go, and which.

    Args:
        urls: of one server or of several, among which the connections are shared out.
        script: what is sent: CALLBACKS, PUSHES or LIVES.
        destinations: over how many they spread.
        fields: that every body has besides, JSON with a comma at its end.
        tasks: of LIVES, how many are on air at a time.
    """

    urls: tuple[str, ...]
    script: str = CALLBACKS
    destinations: int = 1
    fields: str = ""
    tasks: int = 200


def send(
    aim: Aim, seconds: int, cores: Sequence[int] = (), *, connections: int = CONNECTIONS, number: int = 0
) -> Outcome:
    """Send requests as fast as they are answered, for `seconds`, from these cores if any are given.

    Args:
        number: so many to each server instead, however long that takes.
    """
    each = connections // len(aim.urls)
    seconds = HANG_SECONDS + number // SLOWEST_RATE if number else seconds
    with ThreadPoolExecutor(len(aim.urls)) as together:
        return _sum(list(together.map(lambda url: _wrk(url, aim, seconds, number, each, cores), aim.urls)))


def send_exactly(aim: Aim, number: int) -> Outcome:
    """Send `number` requests as fast as they are answered, over no more connections than there are tasks."""
    return send(aim, 0, connections=min(CONNECTIONS, aim.tasks), number=number)


def arrive(aim: Aim, rate: int, seconds: int) -> Arrivals:
    """Send `rate` requests a second for `seconds`, whether or not they are answered."""
    k6 = shutil.which("k6", path=str(Path(sys.executable).parent))
    if k6 is None:
        raise RuntimeError("k6 is not installed: it is one of the development dependencies")
    variables = {
        "URLS": " ".join(aim.urls),
        "SCRIPT": aim.script,
        "RATE": str(rate),
        "SECONDS": str(seconds),
        "FIRST": str(next(_first_tasks)),
        "DESTINATIONS": str(aim.destinations),
    }
    command = [k6, "run", "--quiet", "--no-usage-report", str(FOLDER / "arrivals.js")]
    environment = os.environ | variables
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return _found(done.stdout, Arrivals)


def _wrk(url: str, aim: Aim, seconds: int, number: int, connections: int, cores: Sequence[int]) -> Outcome:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("wrk is not installed (`make bench` installs it where it may)")
    shape = ["--threads=1", f"--connections={connections}", f"--duration={seconds}s", "--latency"]
    arguments = [str(next(_first_tasks)), str(number), str(aim.destinations), aim.fields, str(aim.tasks)]
    command = [*pinned(cores), wrk, *shape, f"--script={aim.script}.lua", url, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=FOLDER)
    return _found(done.stdout, Outcome)


def _found(printed: str, kind: type[T]) -> T:
    line = next(line for line in printed.splitlines() if line.startswith("{"))
    return convert(json.loads(line), kind)


def _sum(outcomes: Sequence[Outcome]) -> Outcome:
    """Return what became of several runs at the same time."""
    return Outcome(
        answered=sum(o.answered for o in outcomes),
        refused=sum(o.refused for o in outcomes),
        broken=sum(o.broken for o in outcomes),
        seconds=max(o.seconds for o in outcomes),
        p50_ms=max(o.p50_ms for o in outcomes),
        p99_ms=max(o.p99_ms for o in outcomes),
        max_ms=max(o.max_ms for o in outcomes),
    )
