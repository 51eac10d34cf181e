"""Values that are made from files, and made anew when those change."""

import logging
import os
import stat
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from exporter.errors import SettingsError

log = logging.getLogger(__name__)

T = TypeVar("T")
LOOK_SECONDS = 1.0

Stamp = tuple[int, int, int, int]


class Files:
    """Reads files, and knows whether they are still as they were then."""

    def __init__(self) -> None:
        self._stamps: dict[str, Stamp | None] = {}

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            OSError: it can't be read.
        """
        self._stamps[path] = None
        with open(path, "rb") as file:
            self._stamps[path] = _stamp(os.fstat(file.fileno()))
            return file.read()

    def have_changed(self) -> bool:
        """Whether one of those that were read has become another."""
        return any(_stamp_of(path) != stamp for path, stamp in self._stamps.items())


class Reread(Generic[T]):
    """A value made from files; looks at them at most once a second, when it is asked for.

    Args:
        name: what it is called in the log.
        make: makes it, and reads its files with what it is given.
        basis: what else it is made from: made anew when that is another.
        clock: gives the time, seconds.

    Raises:
        SettingsError: from `make`, the first time; later it is logged, and the last good value stays.
    """

    def __init__(
        self,
        *,
        name: str,
        make: Callable[[Files], T],
        basis: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._make = make
        self._basis = basis
        self._clock = clock
        self._looked = clock()
        self._files = Files()
        self._made_from = basis()
        self._value = make(self._files)

    def current(self) -> T:
        """Return the value, after a look at its files if the last one is a second ago."""
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._value

    def _look(self) -> None:
        basis = self._basis()
        if basis is self._made_from and not self._files.have_changed():
            return
        self._files, self._made_from = Files(), basis
        try:
            self._value = self._make(self._files)
        except SettingsError as exc:
            problem = {"of": self._name, "reason": str(exc)}
            log.error("what changed can't be used; what was read before holds", extra=problem)  # noqa: TRY400
        else:
            log.info("read again", extra={"of": self._name})


def is_open_to_others(path: str) -> bool:
    """Whether any user of this machine may read a file."""
    return bool(os.stat(path).st_mode & stat.S_IROTH)


def _stamp_of(path: str) -> Stamp | None:
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _stamp(found: os.stat_result) -> Stamp | None:
    """Return what changes with a file; a pipe can't be read again, and never changes."""
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
