"""The embedded store: one SQLite file, durable at every commit.

Two processes may use the file at the same time, for example during a restart. So each transaction locks the
file for writing before it reads. Between transactions only the label sets are cached, and only until another
connection commits.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from math import inf
from pathlib import Path

from exporter.errors import StoreError, StoreUnavailable, WouldBlock
from exporter.metrics.values import FLEET
from exporter.relay import NONE, STATES
from exporter.store.protocol import RANKS, PreparedCommit, QuarantinedBody, Snapshot, StoreOptions, T
from exporter.store.sqlite.file import FileLock, create_private, is_empty_and_unused, with_advice
from exporter.store.sqlite.open import ATTACHED_BUSY_MS, BUSY_MS, check_tables, connect, migrate
from exporter.store.sqlite.snapshot import read_snapshot
from exporter.store.sqlite.transaction import LabelSetRows, SqliteTransaction, insert_label_set
from exporter.store.transaction import Transaction

#: About as much as a batch writes. On a full disk a few bytes may still fit.
PROBE_BYTES = 65536


class SqliteStore:
    """A store in one SQLite file. The methods are documented in `exporter.store.protocol`.

    Args:
        path: the file; if it does not exist, it is created for its owner only.
        clock: returns the time, seconds.

    Raises:
        StoreError: the file is not a store, is damaged, is newer than this program, or has other options.
    """

    def __init__(self, path: Path, options: StoreOptions, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._options = options
        self._clock = clock
        # Several threads read, on one connection.
        self._reader_lock = threading.Lock()
        self._label_sets: LabelSetRows = {}
        self._data_version = -1
        self._damage = ""
        is_new = False
        with ExitStack() as opened:
            try:
                is_new = not path.exists()
                self._open(opened)
            except (sqlite3.Error, OSError) as exc:
                # Delete the empty file: at the next start it would look like a store that lost its content.
                if is_new and path.exists() and not path.stat().st_size:
                    path.unlink()
                raise StoreError(f"store {path}: {with_advice(exc)}") from exc
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack) -> None:
        path = self._path
        if self._options.attach_only and not path.exists():
            raise StoreError(f"there is no store {path}; set --store.url to the store of the exporter")
        # A new store would hide the loss: counters that start at 0 look healthy.
        if is_empty_and_unused(path):
            raise StoreError(
                f"store {path} has lost all its data; delete the file, then restore a backup or start anew"
            )
        opened.callback(FileLock(path, exclusive=False).release)
        create_private(path)
        self._inode = path.stat().st_ino
        self._writer = opened.enter_context(closing(connect(path, self._busy_ms)))
        migrate(self._writer, path)
        check_tables(self._writer)
        self._create_or_check_meta()
        self._reader = opened.enter_context(closing(connect(path, self._busy_ms)))

    @property
    def _busy_ms(self) -> int:
        return ATTACHED_BUSY_MS if self._options.attach_only else BUSY_MS

    @property
    def secret(self) -> bytes:
        return self._secret

    def begin(self, work: Callable[[Transaction], T], *, wait: bool) -> PreparedCommit[T]:
        with self._using(self._writer):
            self._writer.execute(f"PRAGMA busy_timeout = {self._busy_ms if wait else 0}")
            try:
                self._writer.execute("BEGIN IMMEDIATE")  # locks the file before anything is read
            except sqlite3.OperationalError as exc:
                if wait or exc.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                raise WouldBlock(str(exc)) from exc
            # Label sets that were read before another connection committed may be outdated.
            version = self._writer.execute("PRAGMA data_version").fetchone()[0]
            if version != self._data_version:
                self._label_sets.clear()
                self._data_version = version
            transaction = SqliteTransaction(
                self._writer, options=self._options, cached=self._label_sets, clock=self._clock
            )
            result = work(transaction)
            label_sets = transaction.write()

        def commit() -> tuple[T, dict[str, int]]:
            # If the commit fails, it is unknown whether it took place: the label sets are then read again.
            self._data_version = -1
            with self._using(self._writer):
                self._writer.execute("COMMIT")
            self._data_version = version
            self._label_sets |= label_sets
            return result, dict(transaction.overflow)

        return PreparedCommit(commit)

    def transact(self, work: Callable[[Transaction], T]) -> tuple[T, dict[str, int]]:
        return self.begin(work, wait=True).commit()

    def due_keys(self, now: float, limit: int) -> list[str]:
        with self._using(self._writer):
            rows = self._writer.execute(
                "SELECT key FROM tasks WHERE due <= ? ORDER BY due LIMIT ?", (now, limit)
            )
            return [key for (key,) in rows]

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        with self._read_transaction() as reader:
            return read_snapshot(reader, self._created, max_tasks, states)

    def list_tasks(self, *, state: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        low, high = (RANKS[state],) * 2 if state else (0, RANKS[NONE] - 1)
        with self._read_transaction() as reader:
            return reader.execute(
                "SELECT id, record FROM tasks WHERE state BETWEEN ? AND ? AND id > ? ORDER BY id LIMIT ?",
                (low, high, after, limit),
            ).fetchall()

    def find_task(self, key: str) -> str | None:
        with self._read_transaction() as reader:
            query = "SELECT record FROM tasks WHERE key = ? AND state < ?"
            row = reader.execute(query, (key, RANKS[NONE])).fetchone()
            return row[0] if row else None

    def bodies(
        self, *, limit: int, reason: str | None = None, prefix: str = "", after: QuarantinedBody | None = None
    ) -> list[QuarantinedBody]:
        first, digest = (after.first, after.digest) if after else (-inf, "")
        with self._read_transaction() as reader:
            rows = reader.execute(
                "SELECT lower(hex(digest)) AS name, reason, body, source, count, first, last FROM quarantine "
                "WHERE (first, name) > (?, ?) AND (? IS NULL OR reason = ?) AND substr(name, 1, ?) = ? "
                "ORDER BY first, name LIMIT ?",
                (first, digest, reason, reason, len(prefix), prefix, limit),
            )
            return [QuarantinedBody(*row) for row in rows]

    def probe(self) -> None:
        query = "INSERT OR REPLACE INTO meta VALUES ('probed', zeroblob(?))"
        self.transact(lambda _: self._writer.execute(query, (PROBE_BYTES,)))

    def close(self) -> None:
        self._opened.close()

    @contextmanager
    def _read_transaction(self) -> Iterator[sqlite3.Connection]:
        with self._reader_lock, self._using(self._reader):
            self._reader.execute("BEGIN")
            yield self._reader
            self._reader.execute("COMMIT")

    @contextmanager
    def _using(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Check the file. Roll back if an error is raised; raise StoreUnavailable if it is of the file."""
        try:
            try:
                self._check_file()
                yield
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as exc:
            # After the first sign of damage nothing is read or written: a callback that is answered 200 must
            # not be in a damaged file, and writing could spread the damage.
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._damage = str(exc)
            raise StoreUnavailable(f"store {self._path}: {with_advice(exc)}") from exc

    def _check_file(self) -> None:
        """Raise an error if the file is damaged or was replaced: what is written to it would be lost."""
        if self._damage:
            raise sqlite3.DatabaseError(self._damage)
        if self._path.stat().st_ino != self._inode:
            raise OSError("the file was replaced while the exporter ran; restart the exporter")

    def _create_or_check_meta(self) -> None:
        """Create the meta of the store, or check the options against it.

        If the check fails, `__init__` closes the file, which rolls back the transaction.
        """
        self._writer.execute("BEGIN IMMEDIATE")
        meta = dict(self._writer.execute("SELECT key, value FROM meta"))
        if "created" not in meta:
            labels = ",".join(self._options.labels)
            meta |= {"created": repr(self._clock()), "secret": os.urandom(16).hex(), "labels": labels}
            self._writer.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
            insert_label_set(self._writer, FLEET, float(meta["created"]))
        if not self._options.check_meta(meta, self._path, "another file"):
            # Other settings may give a task another state: a sweep must check every one.
            self._writer.execute("UPDATE tasks SET due = 0")
            row = "judged_by", self._options.fold_settings_fingerprint
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)
        self._writer.execute("COMMIT")
        self._created = float(meta["created"])
        self._secret = bytes.fromhex(meta["secret"])
