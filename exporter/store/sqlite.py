"""The embedded store: one SQLite file, durable at every commit, shared by processes that overlap on it.

A step is a write transaction, taken at once, so that what it reads is what it changes. Nothing is kept in
memory between steps but the ledgers, and those only as long as no other connection has written.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import StoreError, StoreUnavailable, WouldWait
from exporter.ledger import FLEET
from exporter.relay import NONE
from exporter.store import Snapshot, T, Terms, Transaction
from exporter.store.file import BUSY_MILLISECONDS, advice, connect, make_private, migrate
from exporter.store.step import AS_LINES, RANKS, Known, Step, insert_ledger, split_lines

PROBE_BYTES = 65536
_STATES = {rank: state for state, rank in RANKS.items()}


class SqliteStore:
    """A store in one SQLite file.

    Args:
        path: the file; it is made, readable by its owner alone, if it is not there.
        terms: what is agreed with the store.
        clock: gives the time, seconds.

    Raises:
        StoreError: the file is not a store, is damaged, is newer than this program, or has other terms.
    """

    def __init__(self, path: Path, terms: Terms, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._terms = terms
        self._clock = clock
        self._reading = threading.Lock()
        self._ledgers: Known = {}
        self._data_version = -1
        try:
            make_private(path)
            self._inode = path.stat().st_ino
            self._writer = connect(path)
            migrate(self._writer, path)
            self._agree()
            self._reader = connect(path)
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(f"store {path}: {advice(exc)}") from exc

    @property
    def secret(self) -> bytes:
        return self._secret

    def prepare(
        self, work: Callable[[Transaction], T], *, wait: bool
    ) -> Callable[[], tuple[T, dict[str, int]]]:
        self._begin(wait=wait)
        with self._or_roll_back():
            self._refresh()
            step = Step(self._writer, terms=self._terms, known=self._ledgers, clock=self._clock)
            result = work(step)
            ledgers, overflow = step.write()

        def end() -> tuple[T, dict[str, int]]:
            self._commit()
            self._ledgers |= ledgers
            return result, overflow

        return end

    def transact(self, work: Callable[[Transaction], T]) -> tuple[T, dict[str, int]]:
        return self.prepare(work, wait=True)()

    def due(self, now: float, limit: int) -> list[str]:
        with self._unavailable_on_error():
            rows = self._writer.execute(
                "SELECT key FROM tasks WHERE due <= ? ORDER BY due LIMIT ?", (now, limit)
            )
            return [key for (key,) in rows]

    def snapshot(self, max_tasks: int) -> Snapshot:
        with self._consistent_read() as reader:
            ledgers = [
                (number, tuple(json.loads(text)), record)
                for number, text, record in reader.execute(
                    "SELECT id, labels, record FROM ledgers ORDER BY labels"
                )
            ]
            labels = {number: of for number, of, _ in ledgers}
            counts = [
                (labels[ledger], _STATES[rank], number)
                for rank, ledger, number in reader.execute(
                    "SELECT state, ledger, count(*) FROM tasks WHERE state < ? GROUP BY state, ledger",
                    (RANKS[NONE],),
                )
            ]
            tasks = reader.execute(
                f"SELECT {AS_LINES} FROM (SELECT record FROM tasks WHERE state < ? "  # noqa: S608 - fixed
                "ORDER BY state, ledger, id LIMIT ?)",
                (RANKS[NONE], max_tasks),
            ).fetchone()[0]
            return Snapshot(
                created=self._created,
                fleet=next(record for _, of, record in ledgers if of == FLEET),
                ledgers=[(of, record) for _, of, record in ledgers if of != FLEET],
                counts=counts,
                tasks=split_lines(tasks),
                left_out=max(sum(number for _, _, number in counts) - max_tasks, 0),
                quarantined=reader.execute("SELECT count(*) FROM quarantine").fetchone()[0],
            )

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

    def probe(self) -> None:
        self._begin(wait=True)
        with self._or_roll_back():
            # As much as a batch writes: on a full disk a few bytes may still find a place.
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES ('probed', zeroblob(?))", (PROBE_BYTES,))
        self._commit()

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def _begin(self, *, wait: bool) -> None:
        """Take the write transaction."""
        with self._unavailable_on_error():
            self._check_file()
            self._writer.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS if wait else 0}")
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if not wait and exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                    raise WouldWait(str(exc)) from exc
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
            raise StoreUnavailable(f"store {self._path}: {advice(exc)}") from exc

    def _check_file(self) -> None:
        """What is written to a file that has lost its name would be lost."""
        if self._path.stat().st_ino != self._inode:
            raise OSError("the file was replaced while the exporter ran; restart the exporter")

    def _refresh(self) -> None:
        """Forget the ledgers if another connection has committed since they were read."""
        version = self._writer.execute("PRAGMA data_version").fetchone()[0]
        if version != self._data_version:
            self._ledgers.clear()
            self._data_version = version

    def _agree(self) -> None:
        """Make the store's own record, or hold the terms against the one that is there."""
        wanted = ",".join(self._terms.labels)
        self._writer.execute("BEGIN IMMEDIATE")
        meta = dict(self._writer.execute("SELECT key, value FROM meta"))
        if "created" not in meta:
            meta |= {"created": repr(self._clock()), "secret": os.urandom(16).hex(), "labels": wanted}
            self._writer.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
            insert_ledger(self._writer, FLEET, float(meta["created"]))
        if meta["labels"] != wanted:
            self._writer.execute("ROLLBACK")
            raise StoreError(
                f"store {self._path} was made with --metrics.labels={meta['labels']}, not {wanted}: "
                "start with those labels, or give --store.url another file (its counters begin at 0)"
            )
        if meta.get("judged_by") != self._terms.judged_by:
            self._writer.execute("UPDATE tasks SET due = 0")
            self._writer.execute(
                "INSERT OR REPLACE INTO meta VALUES ('judged_by', ?)", (self._terms.judged_by,)
            )
        self._writer.execute("COMMIT")
        self._created = float(meta["created"])
        self._secret = bytes.fromhex(meta["secret"])
