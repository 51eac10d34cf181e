"""An embedded store that is moved: away from its file, or to one."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from exporter.errors import StoreError
from exporter.relay import NONE
from exporter.store import Held, key_of
from exporter.store.copies import verify
from exporter.store.file import connect, migrate
from exporter.store.lock import FileLock
from exporter.store.mark import Mark, read_mark
from exporter.store.moving import BODIES, LEDGERS, TASKS, Head, Kept, Numbered, Page
from exporter.store.records import RANKS, decode_ledger, decode_task, encode
from exporter.store.step import number_of
from exporter.store.whole import (
    IN_PLACE,
    explained,
    finished,
    look_over,
    make_way,
    make_whole,
    refuse_existing,
    uri,
)


class FileDeparture:
    """A store that leaves its file; nobody else can open it meanwhile.

    Args:
        path: the file.

    Raises:
        StoreError: it is not there, damaged, newer than this program, or in use.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"sqlite:{path}"
        self._path = path
        if not path.exists():
            raise StoreError(f"there is no store {path}: give --store.url of the one that is to be moved")
        with explained(path), ExitStack() as opened:
            opened.callback(FileLock(path, alone=True).release)
            verify(path)  # before anything is written to it
            self._connection = opened.enter_context(closing(connect(path)))
            migrate(self._connection, path)
            self._opened = opened.pop_all()

    def mark(self) -> Mark | None:
        with explained(self._path):
            text = _meta(self._connection).get("moved")
        return read_mark(text) if text else None

    def change(self, before: Mark | None, after: Mark | None) -> None:
        with explained(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("DELETE FROM meta WHERE key = 'moved'")
            if after is not None:
                self._connection.execute("INSERT INTO meta VALUES ('moved', ?)", (str(after),))
            self._connection.execute("COMMIT")

    def head(self) -> Head:
        with explained(self._path):
            meta = _meta(self._connection)
            last = self._connection.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0]
        return Head(
            float(meta["created"]), meta["secret"], meta["labels"], meta.get("judged_by", ""), last or 0
        )

    def pages(self) -> Iterator[Page]:
        with explained(self._path):
            yield from _pages(self._connection)

    def close(self) -> None:
        self._opened.close()


class FileArrival:
    """A file that a store is moved to.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"sqlite:{path}"
        self._path = path

    def origin(self) -> str:
        path = self._path
        if not path.exists():
            return ""
        with explained(path), closing(sqlite3.connect(uri(path, IN_PLACE), uri=True)) as connection:
            return _meta(connection).get("origin", "")

    @contextmanager
    def arriving(self, move: str, head: Head, *, replace: bool) -> Iterator["_StagedFile"]:
        refuse_existing(self._path, replace=replace)
        with explained(self._path), ExitStack() as held:
            held.callback(FileLock(self._path, alone=True).release)
            with finished(self._path) as unfinished:
                with closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
                    yield _StagedFile(connection, unfinished, move, head)
                    look_over(connection)
                    make_whole(connection)
                make_way(self._path)

    def close(self) -> None:
        """There is nothing to let go of."""


class _StagedFile:
    """A file without its name; it is dropped if anything fails, so that nothing can be rolled back."""

    def __init__(self, connection: sqlite3.Connection, path: Path, move: str, head: Head) -> None:
        self._connection = connection
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        migrate(connection, path)
        meta = {
            "created": repr(head.created),
            "secret": head.secret,
            "labels": head.labels,
            "judged_by": head.judged_by,
            "origin": move,
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.execute("INSERT INTO sqlite_sequence VALUES ('tasks', ?)", (head.last,))

    def take(self, page: Page) -> None:
        self._connection.execute("BEGIN")
        for item in page:
            self._connection.execute(*_insert(item))
        self._connection.execute("COMMIT")

    def pages(self) -> Iterator[Page]:
        return _pages(self._connection)


def _meta(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT key, value FROM meta"))


def _insert(item: Numbered | Kept | Held) -> tuple[str, Sequence[object]]:
    if isinstance(item, Numbered):
        labels = json.dumps(item.ledger.labels)
        return "INSERT INTO ledgers (id, labels, record) VALUES (?, ?, ?)", (
            item.number + 1,
            labels,
            encode(item.ledger),
        )
    if isinstance(item, Kept):
        task = decode_task(item.record)
        ledger = None if item.rank == RANKS[NONE] else item.ledger + 1
        return (
            "INSERT INTO tasks (id, key, sources, state, ledger, due, record) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (item.number, key_of(task), number_of(task.sources), item.rank, ledger, item.due, item.record),
        )
    return (
        "INSERT INTO quarantine (digest, reason, body, source, count, first, last, size) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            bytes.fromhex(item.digest),
            item.reason,
            item.body,
            item.source,
            item.count,
            item.first,
            item.last,
            len(item.body),
        ),
    )


def _pages(connection: sqlite3.Connection) -> Iterator[Page]:
    ledgers = connection.execute("SELECT id - 1, record FROM ledgers")
    while rows := ledgers.fetchmany(LEDGERS):
        yield [Numbered(number, decode_ledger(record)) for number, record in rows]
    tasks = connection.execute("SELECT id, state, coalesce(ledger - 1, 0), due, record FROM tasks")
    while rows := tasks.fetchmany(TASKS):
        yield [Kept(*row) for row in rows]
    bodies = connection.execute(
        "SELECT lower(hex(digest)), reason, body, source, count, first, last FROM quarantine"
    )
    while rows := bodies.fetchmany(BODIES):
        yield [Held(*row) for row in rows]
