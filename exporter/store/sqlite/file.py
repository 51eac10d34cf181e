"""The file of the embedded store: private, locked by who uses it, and whole before it gets its name."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from exporter.errors import StoreError
from exporter.store.sqlite.open import make_whole

#: What to do where one of these is in the text of an error.
ADVICE = {
    "malformed": "the file is damaged; move it away and restore a backup, or start with a new one",
    "not a database": "the file is no store, or damaged; point --store.url at another, or move it away",
    "no such table": "the file is no store; point --store.url at another",
    "Read-only file system": "make the file system writable; callbacks are answered 503 until then",
    "disk I/O error": "the disk failed, or turned read-only; look at the system's log. It is tried again",
    "disk is full": "free some space; callbacks are answered 503 and sent again until then",
    "readonly": "make the file and its folder writable for the exporter's user",
    "locked": "another process holds the file; it is tried again",
    "unable to open": "make the folder writable for the exporter's user",
    "Permission denied": "make the file and its folder readable and writable for the exporter's user",
}


def resolve_link(path: Path) -> Path:
    """Return where a link leads; what is no link as it is."""
    return path.resolve() if path.is_symlink() else path


def make_private(path: Path) -> None:
    """Make the file, and its folder, for its owner alone: it holds bodies with push keys."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def advice(exc: Exception) -> str:
    """Return what happened and what to do about it."""
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return next((f"{text}: {what}" for sign, what in ADVICE.items() if sign in text), text)


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
    path = resolve_link(path)
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


def refuse_existing(path: Path, *, replace: bool) -> None:
    """Refuse a path where something is, without `replace`, and with it where something else than a file is.

    Raises:
        StoreError: something is.
    """
    with explained(path):
        if not path.name or (path.exists() and not path.is_file()):
            raise StoreError(f"{path} is no file: give the path of a file")
        if path.exists() and not replace:
            raise StoreError(f"{path} is there already: give another path, or --replace")


def refuse_files_of(store: Path, path: Path) -> None:
    """Refuse to write to `path` where that is the store, or a file that belongs to it.

    Raises:
        StoreError: it is.
    """
    with explained(path):
        store, path = store.resolve(), path.resolve()
    files = {store, lock_file(store), *sidecar_files(store)}
    if path in files or unfinished_file(path) in files:
        raise StoreError(f"{path} belongs to the store itself: give another path")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say what failed with the file, and what to do about it.

    Raises:
        StoreError: something failed.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise StoreError(f"{path}: {advice(exc)}") from exc


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a file to write, for its owner alone, which gets the name `path` when all went well."""
    path = resolve_link(path)
    unfinished = unfinished_file(path)
    unfinished.unlink(missing_ok=True)
    try:
        make_private(unfinished)
        yield unfinished
        _sync(unfinished)
        unfinished.rename(path)
        _sync(path.parent)
    finally:
        for file in (unfinished, *sidecar_files(unfinished)):
            file.unlink(missing_ok=True)


def unfinished_file(path: Path) -> Path:
    """Return the file beside `path` that is written before it gets that name."""
    return path.with_name(f"{path.name}-unfinished")


@contextmanager
def new_store(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a file to write, which becomes the store at `path` when all went well.

    Raises:
        StoreError: a store is in use there, or is there already, without `replace`.
    """
    refuse_existing(path, replace=replace)
    with explained(path):
        path = resolve_link(path)
        lock = FileLock(path, alone=True)
    try:
        with explained(path), atomic_write(path) as unfinished:
            yield unfinished
            refuse_stale_wal(path)
    finally:
        lock.release()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sidecar_files(path: Path) -> list[Path]:
    """Return the files that SQLite may put beside a file."""
    return [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]


def refuse_stale_wal(store: Path) -> None:
    """Leave nothing beside the store's name that SQLite would take for a part of the new one."""
    if store.exists():
        with closing(sqlite3.connect(store)) as connection:
            make_whole(connection)
    rest = [file.name for file in sidecar_files(store) if file.exists()]
    if rest:
        raise StoreError(f"{store}: {', '.join(rest)} beside it is of another store; move it away too")
