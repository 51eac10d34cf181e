"""The embedded store: one SQLite file, durable at every commit, shared by processes that overlap on it.

A step is a write transaction, taken at once, so that what it reads is what it changes. Nothing is kept in
memory between steps but the ledgers, and those only as long as no other connection has written.
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
from exporter.store.protocol import PreparedCommit, QuarantinedBody, Snapshot, StoreOptions, T, Transaction
from exporter.store.records import RANKS
from exporter.store.sqlite.file import FileLock, advice, is_left_empty, make_private
from exporter.store.sqlite.open import BUSY_MILLISECONDS, GUEST_BUSY_MILLISECONDS, connect, look_at, migrate
from exporter.store.sqlite.snapshot import read_snapshot
from exporter.store.sqlite.transaction import LabelSetRows, SqliteTransaction, insert_label_set

PROBE_BYTES = 65536


class SqliteStore:
    """A store in one SQLite file.

    Args:
        path: the file; it is made, readable by its owner alone, if it is not there.
        terms: what is agreed with the store.
        clock: gives the time, seconds.

    Raises:
        StoreError: the file is not a store, is damaged, is newer than this program, or has other terms.
    """

    def __init__(self, path: Path, options: StoreOptions, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._options = options
        self._clock = clock
        self._reading = threading.Lock()
        self._label_sets: LabelSetRows = {}
        self._data_version = -1
        self._damage = ""
        is_new = False
        with ExitStack() as opened:
            try:
                is_new = not path.exists()
                self._open(opened)
            except (sqlite3.Error, OSError) as exc:
                if is_new and path.exists() and not path.stat().st_size:
                    path.unlink()  # it must not look as if it had lost what it held
                raise StoreError(f"store {path}: {advice(exc)}") from exc
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack) -> None:
        path = self._path
        if self._options.as_guest and not path.exists():
            raise StoreError(f"there is no store {path}: give --store.url of the one that is served")
        if is_left_empty(path):
            raise StoreError(
                f"store {path} has lost all it held: delete it, then restore a backup or start anew"
            )
        opened.callback(FileLock(path, alone=False).release)
        make_private(path)
        self._inode = path.stat().st_ino
        self._writer = opened.enter_context(closing(connect(path, self._busy_milliseconds)))
        migrate(self._writer, path)
        look_at(self._writer)
        self._agree()
        self._reader = opened.enter_context(closing(connect(path, self._busy_milliseconds)))

    @property
    def _busy_milliseconds(self) -> int:
        return GUEST_BUSY_MILLISECONDS if self._options.as_guest else BUSY_MILLISECONDS

    @property
    def secret(self) -> bytes:
        return self._secret

    def begin(self, work: Callable[[Transaction], T], *, wait: bool) -> PreparedCommit[T]:
        self._begin_transaction(wait=wait)
        with self._or_roll_back():
            self._refresh()
            transaction = SqliteTransaction(
                self._writer, options=self._options, known=self._label_sets, clock=self._clock
            )
            result = work(transaction)
            label_sets, overflow = transaction.write()

        def commit() -> tuple[T, dict[str, int]]:
            self._commit()
            self._label_sets |= label_sets
            return result, overflow

        return PreparedCommit(commit)

    def transact(self, work: Callable[[Transaction], T]) -> tuple[T, dict[str, int]]:
        return self.begin(work, wait=True).commit()

    def due(self, now: float, limit: int) -> list[str]:
        with self._unavailable_on_error():
            rows = self._writer.execute(
                "SELECT key FROM tasks WHERE due <= ? ORDER BY due LIMIT ?", (now, limit)
            )
            return [key for (key,) in rows]

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        with self._consistent_read() as reader:
            return read_snapshot(reader, self._created, max_tasks, states)

    def listing(self, *, state: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        low, high = (RANKS[state],) * 2 if state else (0, RANKS[NONE] - 1)
        with self._consistent_read() as reader:
            return reader.execute(
                "SELECT id, record FROM tasks WHERE state BETWEEN ? AND ? AND id > ? ORDER BY id LIMIT ?",
                (low, high, after, limit),
            ).fetchall()

    def find(self, key: str) -> str | None:
        with self._consistent_read() as reader:
            query = "SELECT record FROM tasks WHERE key = ? AND state < ?"
            row = reader.execute(query, (key, RANKS[NONE])).fetchone()
            return row[0] if row else None

    def bodies(
        self, *, limit: int, reason: str | None = None, prefix: str = "", after: QuarantinedBody | None = None
    ) -> list[QuarantinedBody]:
        first, digest = (after.first, after.digest) if after else (-inf, "")
        with self._consistent_read() as reader:
            rows = reader.execute(
                "SELECT lower(hex(digest)) AS name, reason, body, source, count, first, last FROM quarantine "
                "WHERE (first, name) > (?, ?) AND (? IS NULL OR reason = ?) AND substr(name, 1, ?) = ? "
                "ORDER BY first, name LIMIT ?",
                (first, digest, reason, reason, len(prefix), prefix, limit),
            )
            return [QuarantinedBody(*row) for row in rows]

    def probe(self) -> None:
        self._begin_transaction(wait=True)
        with self._or_roll_back():
            # As much as a batch writes: on a full disk a few bytes may still find a place.
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES ('probed', zeroblob(?))", (PROBE_BYTES,))
        self._commit()

    def close(self) -> None:
        self._opened.close()

    def _begin_transaction(self, *, wait: bool) -> None:
        """Take the write transaction."""
        with self._unavailable_on_error():
            self._check_file()
            self._writer.execute(f"PRAGMA busy_timeout = {self._busy_milliseconds if wait else 0}")
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if not wait and exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                    raise WouldBlock(str(exc)) from exc
                raise

    def _commit(self) -> None:
        with self._or_roll_back():
            self._writer.execute("COMMIT")

    @contextmanager
    def _or_roll_back(self) -> Iterator[None]:
        """Change nothing if anything fails."""
        with self._unavailable_on_error():
            try:
                yield
            except BaseException:
                # Whatever has become of it: the file is asked before anything is taken for known.
                self._data_version = -1
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _consistent_read(self) -> Iterator[sqlite3.Connection]:
        with self._reading, self._unavailable_on_error():
            self._check_file()
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("COMMIT")

    @contextmanager
    def _unavailable_on_error(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            # From the first sign on nothing is written any more: what is answered 200 must be worth it.
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._damage = str(exc)
            raise StoreUnavailable(f"store {self._path}: {advice(exc)}") from exc

    def _check_file(self) -> None:
        """What is written to a file that has lost its name would be lost, and damage would spread."""
        if self._damage:
            raise sqlite3.DatabaseError(self._damage)
        if self._path.stat().st_ino != self._inode:
            raise OSError("the file was replaced while the exporter ran; restart the exporter")

    def _refresh(self) -> None:
        """Forget what is known of the file if another connection has committed since."""
        version = self._writer.execute("PRAGMA data_version").fetchone()[0]
        if version != self._data_version:
            self._label_sets.clear()
            self._data_version = version

    def _agree(self) -> None:
        """Make the store's own record, or hold the terms against the one that is there.

        Where they do not agree the file is closed, which rolls back.
        """
        self._writer.execute("BEGIN IMMEDIATE")
        meta = dict(self._writer.execute("SELECT key, value FROM meta"))
        if "created" not in meta:
            labels = ",".join(self._options.labels)
            meta |= {"created": repr(self._clock()), "secret": os.urandom(16).hex(), "labels": labels}
            self._writer.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
            insert_label_set(self._writer, FLEET, float(meta["created"]))
        if not self._options.agree(meta, self._path, "another file"):
            self._writer.execute("UPDATE tasks SET due = 0")
            row = "judged_by", self._options.fold_settings_fingerprint
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)
        self._writer.execute("COMMIT")
        self._created = float(meta["created"])
        self._secret = bytes.fromhex(meta["secret"])
