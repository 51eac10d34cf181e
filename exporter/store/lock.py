"""Who uses the file of an embedded store: all who opened it, or the one who replaces it."""

import fcntl
import os
from pathlib import Path

from exporter.errors import StoreError
from exporter.store.file import linked, make_private


class FileLock:
    """A lock beside the store's file, held until it is let go or the process ends, however it ends.

    The file of the store itself can't bear it: it is replaced, and closing it would let go of SQLite's locks.

    Args:
        path: the store's file.
        alone: whether nobody else may use it meanwhile.

    Raises:
        StoreError: others use it.
    """

    def __init__(self, path: Path, *, alone: bool) -> None:
        make_private(lock_file(path))
        self._descriptor = os.open(lock_file(path), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            self.release()
            raise StoreError(
                f"store {path} is in use: stop every process that serves it first"
                if alone
                else f"store {path} is being restored, dumped or loaded: start again when that is done"
            ) from exc

    def release(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


def lock_file(path: Path) -> Path:
    """Return the file that bears the lock of the store at `path`."""
    path = linked(path)
    return path.with_name(f"{path.name}-lock")


def is_left_empty(path: Path) -> bool:
    """Whether a file is there without anything in it, and nobody is about to make a store of it."""
    if not path.exists() or path.stat().st_size:
        return False
    try:
        FileLock(path, alone=True).release()
    except StoreError:
        return False
    return True
