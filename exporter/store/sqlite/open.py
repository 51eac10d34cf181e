"""Connections to the file of the embedded store: how it is opened, migrated and checked."""

import sqlite3
from pathlib import Path
from urllib.parse import quote

from exporter.errors import StoreError

BUSY_MS = 5000
#: A command can wait longer, since no callback waits for it. An exporter under load leaves few gaps.
ATTACHED_BUSY_MS = 60_000

#: The versions of the store, in order. Never change an entry: a release may only add one at the end.
#: Stored names of earlier versions: `ledgers` has the label sets, `tasks.ledger` the ID of one.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE ledgers (
            id INTEGER PRIMARY KEY,
            labels TEXT NOT NULL UNIQUE,   -- JSON array of label values
            record TEXT NOT NULL
        )""",
        """CREATE TABLE tasks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            key TEXT NOT NULL UNIQUE,
            sources INTEGER,               -- digest of the sources
            state INTEGER NOT NULL,        -- rank: those shown first have the lowest
            ledger INTEGER,                -- of its label set
            due REAL NOT NULL,             -- when a sweep checks it next, UNIX seconds
            record TEXT NOT NULL
        )""",
        "CREATE INDEX tasks_by_due ON tasks (due)",
        "CREATE INDEX tasks_by_state ON tasks (state, ledger)",
        """CREATE TABLE quarantine (
            digest BLOB PRIMARY KEY,
            reason TEXT NOT NULL,
            body BLOB NOT NULL,
            source TEXT NOT NULL,
            count INTEGER NOT NULL,
            first REAL NOT NULL,           -- UNIX seconds
            last REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX quarantine_by_last ON quarantine (last)",
    ),
    (
        # The index has all columns that an eviction reads, so that it reads no body.
        "ALTER TABLE quarantine ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
        "UPDATE quarantine SET size = length(body)",
        "DROP INDEX quarantine_by_last",
        "CREATE INDEX quarantine_by_last ON quarantine (last, digest, size)",
    ),
    (
        # The number of commits that changed tasks, in the fleet's row: other processes read it to detect
        # changes. Every commit writes that row anyway; a table of its own would be one more page to write.
        "ALTER TABLE ledgers ADD COLUMN changes INTEGER NOT NULL DEFAULT 0",
    ),
    # Not used any more: a scrape reads everything that it shows.
    ("ALTER TABLE ledgers DROP COLUMN changes",),
)


def connect(path: Path, busy_ms: int = BUSY_MS) -> sqlite3.Connection:
    """Open the file; wait up to `busy_ms` (milliseconds) for the locks of other processes."""
    connection = sqlite3.connect(path, timeout=busy_ms / 1000, isolation_level=None, check_same_thread=False)
    # Readers do not wait for a writer, and every commit is synced: an answer of 200 means it is on disk.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # Bytes. After a checkpoint the log file is truncated to this size; else it keeps its largest size.
    connection.execute("PRAGMA journal_size_limit = 67108864")
    return connection


def connect_existing(path: Path, query: str = "mode=rw") -> sqlite3.Connection:
    """Open a file that exists, with a query of SQLite's URIs.

    The default is used although nothing is written: a connection with `mode=ro` may not delete the `-wal` and
    `-shm` files, and would leave them behind.
    """
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?{query}", uri=True)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Update the file to this program's version, in one transaction; errors are as in `check_version`."""
    # Lock before the version is read: another process may migrate at the same time.
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[check_version(connection, path) :]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the file; raise StoreError if the file is newer than this program."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreError(
            f"store {path} has version {version}, this program supports up to {len(MIGRATIONS)}; "
            "use the program version that wrote it, or a newer one"
        )
    return version


def check_tables(connection: sqlite3.Connection) -> None:
    """Read one row of every table: this raises sqlite3.DatabaseError if the file is damaged."""
    # Opening the file alone may not find damage: the pages it needs may be in the write-ahead log.
    for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()  # noqa: S608 - its own tables


def integrity_check(connection: sqlite3.Connection) -> None:
    """Read the whole store; raise sqlite3.DatabaseError if it is damaged or not a store."""
    (result,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if result != "ok":
        raise sqlite3.DatabaseError(f"malformed ({result})")
    if not connection.execute("SELECT count(*) FROM meta WHERE key = 'labels'").fetchone()[0]:
        raise sqlite3.DatabaseError("not a database of this program")


def merge_wal(connection: sqlite3.Connection) -> None:
    """Move everything from the write-ahead log into the store's file, and delete the log."""
    # This fails if another connection is open.
    (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    if mode != "delete":
        raise sqlite3.OperationalError("database is locked")
