"""Connections to the file of the embedded store: opened, brought up to date, looked over."""

import sqlite3
from pathlib import Path
from urllib.parse import quote

from exporter.errors import StoreError

BUSY_MILLISECONDS = 5000
#: A command has nobody waiting for it; under load a process that serves leaves few gaps.
GUEST_BUSY_MILLISECONDS = 60_000

#: Nothing is written, but one who may not write leaves files behind that SQLite puts beside the store.
IN_PLACE = "mode=rw"

#: The versions of the store, in order; a release only ever adds one at the end.
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
            due REAL NOT NULL,             -- when a sweep looks at it next, UNIX seconds
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
        # How much there is, and what is to go, are told from the index alone, without reading a body.
        "ALTER TABLE quarantine ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
        "UPDATE quarantine SET size = length(body)",
        "DROP INDEX quarantine_by_last",
        "CREATE INDEX quarantine_by_last ON quarantine (last, digest, size)",
    ),
    (
        # The fleet's counts the commits that changed tasks: a process learns whether others have changed any.
        # Every commit writes its row anyway; a place of its own would be a page more each time.
        "ALTER TABLE ledgers ADD COLUMN changes INTEGER NOT NULL DEFAULT 0",
    ),
    # A scrape reads all that it shows: nobody asks what has changed since the last one.
    ("ALTER TABLE ledgers DROP COLUMN changes",),
)


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


def uri(path: Path, how: str) -> str:
    """Return how SQLite is told to open a file."""
    return f"file:{quote(str(path.resolve()))}?{how}"


def integrity_check(connection: sqlite3.Connection) -> None:
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
