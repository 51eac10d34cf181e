"""Files of the embedded store that are whole before they get their name, and leave nothing behind if not."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from exporter.errors import StoreError
from exporter.store.file import advice, linked, make_private
from exporter.store.lock import FileLock, lock_file

#: Nothing is written, but one who may not write leaves files behind that SQLite puts beside the store.
IN_PLACE = "mode=rw"


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
    files = {store, lock_file(store), *beside(store)}
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
def finished(path: Path) -> Iterator[Path]:
    """Yield a file to write, for its owner alone, which gets the name `path` when all went well."""
    path = linked(path)
    unfinished = unfinished_file(path)
    unfinished.unlink(missing_ok=True)
    try:
        make_private(unfinished)
        yield unfinished
        _sync(unfinished)
        unfinished.rename(path)
        _sync(path.parent)
    finally:
        for file in (unfinished, *beside(unfinished)):
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
        path = linked(path)
        lock = FileLock(path, alone=True)
    try:
        with explained(path), finished(path) as unfinished:
            yield unfinished
            make_way(path)
    finally:
        lock.release()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def beside(path: Path) -> list[Path]:
    """Return the files that SQLite may put beside a file."""
    return [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]


def uri(path: Path, how: str) -> str:
    """Return how SQLite is told to open a file."""
    return f"file:{quote(str(path.resolve()))}?{how}"


def look_over(connection: sqlite3.Connection) -> None:
    """Read all of a store.

    Raises:
        sqlite3.DatabaseError: it is damaged, or none.
    """
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"malformed ({verdict})")
    if not connection.execute("SELECT count(*) FROM meta WHERE key = 'labels'").fetchone()[0]:
        raise sqlite3.DatabaseError("not a database of this program")


def make_whole(connection: sqlite3.Connection) -> None:
    """Leave everything in the one file."""
    (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    if mode != "delete":
        raise sqlite3.OperationalError("database is locked")


def make_way(store: Path) -> None:
    """Leave nothing beside the store's name that SQLite would take for a part of the new one."""
    if store.exists():
        with closing(sqlite3.connect(store)) as connection:
            make_whole(connection)
    rest = [file.name for file in beside(store) if file.exists()]
    if rest:
        raise StoreError(f"{store}: {', '.join(rest)} beside it is of another store; move it away too")
