"""The file of the embedded store: its permissions, its lock, and how a new file takes its place."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from exporter.errors import StoreError
from exporter.store.sqlite.open import connect_existing, merge_wal

#: What to do about an error, by a part of its text.
ADVICE = {
    "malformed": "the file is damaged; move it away and restore a backup, or start with a new store",
    "not a database": "the file is damaged or not a store; move it away, or set --store.url to another file",
    "user-defined function": "a record of the backup is damaged; use another backup",
    "no such table": "the file is not a store; set --store.url to another file",
    "Read-only file system": "make the file system writable; callbacks are answered 503 until then",
    "disk I/O error": "the disk failed or became read-only; check the system's log. The exporter retries",
    "disk is full": "free some space on the disk; callbacks are answered 503 until then, and are sent again",
    "readonly": "make the file and its folder writable for the exporter's user",
    "locked": "another process has locked the file; stop that process if this lasts. The exporter retries",
    "unable to open": "make the folder writable for the exporter's user",
    "Permission denied": "make the file and its folder readable and writable for the exporter's user",
}


def real_path(path: Path) -> Path:
    """Return the target of a symbolic link, and any other path unchanged."""
    return path.resolve() if path.is_symlink() else path


def create_private(path: Path) -> None:
    """Create the file and its folder if missing, for their owner only: bodies contain push keys."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def with_advice(exc: Exception) -> str:
    """Return the text of an error, and what to do about it."""
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return next((f"{text}: {what}" for part, what in ADVICE.items() if part in text), text)


class FileLock:
    """A lock on a store, held until it is released or the process ends for any reason.

    Args:
        exclusive: whether no other process may use the store at the same time.

    Raises:
        StoreError: another process uses the store.
    """

    def __init__(self, path: Path, *, exclusive: bool) -> None:
        # The lock is a file of its own. The store's file can't be locked: another file may replace it, and
        # when this process closes it, the locks that SQLite holds on it are released, too.
        create_private(lock_file(path))
        self._descriptor = os.open(lock_file(path), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            self.release()
            in_use = "in use; stop every process that uses it, then try again"
            being_copied = "being restored, dumped or loaded; try again when that is done"
            raise StoreError(f"store {path} is {in_use if exclusive else being_copied}") from exc

    def release(self) -> None:
        """Release the lock; call this once."""
        os.close(self._descriptor)


def lock_file(path: Path) -> Path:
    """Return the lock file of the store at `path`."""
    path = real_path(path)
    return path.with_name(f"{path.name}-lock")


def is_empty_and_unused(path: Path) -> bool:
    """Return whether a file exists and is empty, and no process is creating a store in it."""
    if not path.exists() or path.stat().st_size:
        return False
    try:
        # A process that creates a store holds the lock before the file exists.
        FileLock(path, exclusive=True).release()
    except StoreError:
        return False
    return True


def refuse_existing(path: Path, *, replace: bool) -> None:
    """Raise StoreError unless there is nothing at `path`, or a file and `replace`."""
    with store_errors(path):
        if not path.name or (path.exists() and not path.is_file()):
            raise StoreError(f"{path} is not a file; give the path of a file")
        if path.exists() and not replace:
            raise StoreError(f"{path} already exists; give another path, or add --replace")


def refuse_files_of(store: Path, path: Path) -> None:
    """Raise StoreError if `path` is the store or a file that belongs to it."""
    with store_errors(path):
        store, path = store.resolve(), path.resolve()
    if {path, unfinished_file(path)} & {store, lock_file(store), *sidecar_files(store)}:
        raise StoreError(f"{path} belongs to the store itself; give another path")


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Raise an error of SQLite or of the system as a StoreError that says what to do about it."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise StoreError(f"{path}: {with_advice(exc)}") from exc


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a private file to write, which is renamed to `path` if no error is raised."""
    path = real_path(path)
    unfinished = unfinished_file(path)
    # A process that was killed may have left one.
    unfinished.unlink(missing_ok=True)
    try:
        create_private(unfinished)
        yield unfinished
        # Sync the content before the rename, and the folder before success is reported.
        _sync(unfinished)
        unfinished.rename(path)
        _sync(path.parent)
    finally:
        for file in (unfinished, *sidecar_files(unfinished)):
            file.unlink(missing_ok=True)


def unfinished_file(path: Path) -> Path:
    """Return the file next to `path` that is written before it is renamed to `path`."""
    return path.with_name(f"{path.name}-unfinished")


@contextmanager
def new_store(path: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a file to write, which becomes the store at `path` if no error is raised."""
    refuse_existing(path, replace=replace)
    with ExitStack() as opened:
        with store_errors(path):
            path = real_path(path)
            opened.callback(FileLock(path, exclusive=True).release)
        with store_errors(path), atomic_write(path) as unfinished:
            yield unfinished
            # SQLite would apply an old write-ahead log to the new file, and damage it.
            if path.exists():
                with closing(sqlite3.connect(path)) as connection:
                    merge_wal(connection)
            rest = ", ".join(file.name for file in sidecar_files(path) if file.exists())
            if rest:
                raise StoreError(f"{path}: {rest} next to it belong to another store; move them away")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sidecar_files(path: Path) -> list[Path]:
    """Return the files that SQLite may create next to a database file."""
    return [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]


def open_backup(path: Path, query: str) -> sqlite3.Connection:
    """Open a backup to read it; open a store, which may be in use, with `query`."""
    path = real_path(path)  # the files of a store are next to the file itself, not next to a link to it
    # A backup is one file, maybe on a read-only disk: `immutable` creates no files next to it. If there are
    # such files, it is a store; `immutable` would not read its log.
    is_store = any(file.exists() for file in sidecar_files(path))
    return connect_existing(path, query if is_store else "mode=ro&immutable=1")
