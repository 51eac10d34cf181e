"""Load on a callback listener: wrk, one thread, 64 connections, a TaskStart of another task each time."""

import json
import shutil
import subprocess
from itertools import count
from pathlib import Path

from msgspec import Struct, convert

SCRIPT = Path(__file__).with_name("callbacks.lua")
CONNECTIONS = 64
LONGEST_SECONDS = 120

#: Tasks of one run of wrk never meet those of another; all numbers have the same length.
_first_tasks = count(10**9, 10**7)


class Outcome(Struct, frozen=True):
    """What became of a run of wrk.

    Args:
        answered: answers that came.
        refused: those of them that were no 200.
        broken: connections that failed, and answers that never came.
        seconds: how long it took.
        p50_ms, p99_ms, max_ms: time to an answer.
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


def send(url: str, seconds: int, destinations: int) -> Outcome:
    """Send callbacks as fast as they are answered, for `seconds`."""
    return _wrk(url, seconds, 0, destinations)


def send_exactly(url: str, number: int, destinations: int) -> Outcome:
    """Send `number` callbacks as fast as they are answered."""
    return _wrk(url, LONGEST_SECONDS, number, destinations)


def _wrk(url: str, seconds: int, number: int, destinations: int) -> Outcome:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("wrk is not installed (`make bench` installs it where it may)")
    shape = ["--threads=1", f"--connections={CONNECTIONS}", f"--duration={seconds}s", "--latency"]
    arguments = [str(next(_first_tasks)), str(number), str(destinations)]
    command = [wrk, *shape, f"--script={SCRIPT}", url, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    return convert(json.loads(line), Outcome)
