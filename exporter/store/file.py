"""The file of the embedded store: making it, opening it, bringing it up to date, what to do when it fails."""

import os
import sqlite3
from functools import lru_cache
from pathlib import Path

from exporter.errors import StoreError
from exporter.store.migrations import MIGRATIONS

BUSY_MILLISECONDS = 5000
#: A command has nobody waiting for it; under load a process that serves leaves few gaps.
GUEST_BUSY_MILLISECONDS = 60_000
MAX_ROWS_AT_ONCE = 256


def linked(path: Path) -> Path:
    """Return where a link leads; what is no link as it is."""
    return path.resolve() if path.is_symlink() else path


def make_private(path: Path) -> None:
    """Make the file, and its folder, for its owner alone: it holds bodies with push keys."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def connect(path: Path, busy_milliseconds: int = BUSY_MILLISECONDS) -> sqlite3.Connection:
    """Open the file: durable at every commit, readers beside a writer, waiting so long for others."""
    connection = sqlite3.connect(
        path, timeout=busy_milliseconds / 1000, isolation_level=None, check_same_thread=False
    )
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "journal_size_limit = 67108864",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to this program's version in one step.

    Raises:
        StoreError: it is of a newer version.
    """
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[known_version(connection, path) :]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


def known_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the file.

    Raises:
        StoreError: it is newer than this program.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreError(
            f"store {path} is of version {version}, this program knows up to {len(MIGRATIONS)}: "
            "use the program that wrote it, or a newer one"
        )
    return version


def look_at(connection: sqlite3.Connection) -> None:
    """Read a little of every table: what a log beside the file makes good again is not all of a store."""
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    for (table,) in tables:
        connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()  # noqa: S608 - its own tables


def put_many(
    connection: sqlite3.Connection, head: str, rows: list[tuple[object, ...]], tail: str = ""
) -> None:
    """Run `head VALUES (...), (...) tail` for all rows, in few statements.

    Each statement lets go of the interpreter's lock once, whatever it writes; one a row would hand it back
    and forth with the thread that serves requests.
    """
    while rows:
        size = min(1 << (len(rows).bit_length() - 1), MAX_ROWS_AT_ONCE)
        values = [value for row in rows[:size] for value in row]
        connection.execute(_statement(head, size, len(rows[0]), tail), values)
        rows = rows[size:]


@lru_cache(maxsize=64)
def _statement(head: str, rows: int, columns: int, tail: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{head} VALUES {', '.join([row] * rows)} {tail}"


def advice(exc: Exception) -> str:
    """Return what happened and what to do about it."""
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return next((f"{text}: {what}" for sign, what in ADVICE.items() if sign in text), text)


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
