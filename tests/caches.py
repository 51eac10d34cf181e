"""What takes long to make and seldom changes is made once on a machine and kept: npm's packages, the image.

Workers of one run, and runs beside each other, may want it at the same time: one makes it, the others wait.
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
FOUND = "taken from the cache"

#: What this process needed of it, and how it came by that; told at the end of a run.
said: dict[str, str] = {}


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock file, which no other process of this machine then holds."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kept(place: Path, make: Callable[[Path], object], what: str) -> Path:
    """Return a file or folder of the cache, made now if it is not there; it is never there half made.

    Args:
        place: where it is.
        make: makes it in the path it is given, where nothing is.
        what: what it is, for the end of the run.
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
    """Return what several processes say; what one of them has made, the others found."""
    both: dict[str, str] = {}
    for what, how in (pair for each in told for pair in each.items()):
        if how != FOUND or what not in both:
            both[what] = how
    return both
