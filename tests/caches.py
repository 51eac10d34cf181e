"""A cache on this machine for files that are slow to create and seldom change: npm's packages, the image.

Several workers and several runs may need a file at the same time: one creates it, the others wait.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "css-relay-exporter"
FOUND = "from the cache"

#: What this process needed from the cache, and whether it was there; printed at the end of a run.
said: dict[str, str] = {}


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock file, so that no other process of this machine holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kept(place: Path, make: Callable[[Path], object], what: str) -> Path:
    """Return a file or folder of the cache; create it if it does not exist.

    Args:
        place: its path in the cache.
        make: creates it at the path it gets; the result is renamed to `place` when it is complete.
        what: its name for the end of the run.
    """
    with alone(place.with_name(f"{place.name}.lock")):
        if place.exists():
            said.setdefault(what, FOUND)
            return place
        unfinished = place.with_name(f"{place.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.unlink(missing_ok=True)
        begun = time.monotonic()
        make(unfinished)
        unfinished.rename(place)
        said[what] = f"made in {time.monotonic() - begun:.0f} s"
        return place


def of_this_run(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of this run share."""
    folder = factory.getbasetemp()
    return folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder


def merged(*told: Mapping[str, str]) -> dict[str, str]:
    """Return the reports of several processes as one: "made" in one process wins over "found" in others."""
    both: dict[str, str] = {}
    for what, how in (pair for each in told for pair in each.items()):
        if how != FOUND or what not in both:
            both[what] = how
    return both
