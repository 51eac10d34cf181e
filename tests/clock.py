"""A clock for real processes that a test can move, so that no test waits for a time window to pass."""

import os
import time
from pathlib import Path

#: Python imports sitecustomize before any other module, so that the program never sees another clock. Only
#: time.time is replaced: a fake clock for the whole process (libfaketime) breaks Python's sleep and timers.
SHIM = """
import os, time

def moved_by(right):
    def moved():
        with open(os.environ["TEST_CLOCK_OFFSET"]) as file:
            return right() + float(file.read())
    return moved

time.time = moved_by(time.time)
"""


class Clock:
    """The time of day for processes with its environment: the machine's time plus an offset.

    Args:
        folder: the folder for its files.
    """

    def __init__(self, folder: Path) -> None:
        self._place = folder / "clock"
        self._place.mkdir()
        (self._place / "sitecustomize.py").write_text(SHIM)
        self._offset_seconds = 0.0
        self.set(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a process that uses this clock."""
        paths = [str(self._place), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths), "TEST_CLOCK_OFFSET": str(self._place / "offset")}

    def now(self) -> float:
        """Return its time, UNIX seconds."""
        return time.time() + self._offset_seconds

    def set(self, offset_seconds: float) -> None:
        """Set its offset to the machine's time; it takes effect immediately in every process."""
        unfinished = self._place / "unfinished"
        unfinished.write_text(repr(offset_seconds))
        unfinished.rename(self._place / "offset")
        self._offset_seconds = offset_seconds

    def advance(self, seconds: float) -> None:
        """Move it forward."""
        self.set(self._offset_seconds + seconds)
