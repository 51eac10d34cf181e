"""The embedded store: one SQLite file, durable at every commit, shared by processes that overlap on it.

A step is a write transaction, taken at once, so that what it reads is what it changes. Nothing is kept in
memory between steps but the ledgers, and those only as long as no other connection has written.
"""

import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path

from exporter.catalogue import BEYOND
from exporter.errors import StoreError, StoreUnavailable
from exporter.ledger import FLEET, Ledger, Tally
from exporter.relay import NONE, STATES, Task
from exporter.store import Refused, Row, Snapshot, T, Terms, Transaction, labels_of
from exporter.store.migrations import MIGRATIONS
from exporter.store.records import decode_ledger, decode_task, encode

BUSY_SECONDS = 5.0
_RANKS = {state: rank for rank, state in enumerate((*STATES, NONE))}
_NAMES = {rank: state for state, rank in _RANKS.items()}


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
        self._ledgers: dict[tuple[str, ...], tuple[int, Ledger]] = {}
        self._data_version = -1
        try:
            _make_private(path)
            self._inode = path.stat().st_ino
            self._writer = _connect(path)
            _migrate(self._writer, path)
            self._agree()
            self._reader = _connect(path)
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(f"store {path}: {_advice(exc)}") from exc

    @property
    def secret(self) -> bytes:
        return self._secret

    def transact(self, work: Callable[[Transaction], T]) -> tuple[T, dict[str, int]]:
        with self._writing():
            step = _Step(self._writer)
            result = work(step)
            ledgers, beyond = self._write(step)
        self._ledgers |= ledgers
        return result, beyond

    def due(self, now: float, limit: int) -> list[str]:
        with self._unavailable_on_error():
            rows = self._writer.execute(
                "SELECT key FROM tasks WHERE due <= ? ORDER BY due LIMIT ?", (now, limit)
            )
            return [key for (key,) in rows]

    def snapshot(self, max_tasks: int) -> Snapshot:
        with self._consistent_read() as reader:
            found = reader.execute("SELECT id, labels, record FROM ledgers ORDER BY labels").fetchall()
            labels = {number: tuple(json.loads(text)) for number, text, _ in found}
            counts = [
                (labels[ledger], _NAMES[state], number)
                for state, ledger, number in reader.execute(
                    "SELECT state, ledger, count(*) FROM tasks WHERE state < ? GROUP BY state, ledger",
                    (_RANKS[NONE],),
                )
            ]
            tasks = [
                record
                for (record,) in reader.execute(
                    "SELECT record FROM tasks WHERE state < ? ORDER BY state, ledger, id LIMIT ?",
                    (_RANKS[NONE], max_tasks),
                )
            ]
            return Snapshot(
                created=self._created,
                fleet=next(record for number, _, record in found if labels[number] == FLEET),
                ledgers=[(labels[number], record) for number, _, record in found if labels[number] != FLEET],
                counts=counts,
                tasks=tasks,
                left_out=sum(number for _, _, number in counts) - len(tasks),
                quarantined=reader.execute("SELECT count(*) FROM quarantine").fetchone()[0],
            )

    def listing(self, *, state: str | None, after: int, limit: int) -> list[tuple[int, bytes]]:
        low, high = (_RANKS[state],) * 2 if state else (0, _RANKS[NONE] - 1)
        with self._consistent_read() as reader:
            return reader.execute(
                "SELECT id, record FROM tasks WHERE state BETWEEN ? AND ? AND id > ? ORDER BY id LIMIT ?",
                (low, high, after, limit),
            ).fetchall()

    def find(self, key: str) -> bytes | None:
        with self._consistent_read() as reader:
            row = reader.execute(
                "SELECT record FROM tasks WHERE key = ? AND state < ?", (key, _RANKS[NONE])
            ).fetchone()
            return row[0] if row else None

    def probe(self) -> None:
        with self._writing():
            self._writer.execute("INSERT OR REPLACE INTO meta VALUES ('probed', ?)", (str(self._clock()),))

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the write transaction; commit at the end, or change nothing."""
        with self._unavailable_on_error():
            self._check_file()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._refresh()
                yield
                self._writer.execute("COMMIT")
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
            raise StoreUnavailable(f"store {self._path}: {_advice(exc)}") from exc

    def _check_file(self) -> None:
        if self._path.stat().st_ino != self._inode:
            raise OSError("the file was replaced while the exporter ran; restart the exporter")

    def _refresh(self) -> None:
        """Forget the cached ledgers if another connection has committed since they were read."""
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
            _insert_ledger(self._writer, FLEET, float(meta["created"]))
        self._writer.execute("COMMIT")
        if meta["labels"] != wanted:
            raise StoreError(
                f"store {self._path} was made with --metrics.labels={meta['labels']}, not {wanted}: "
                "start with those labels, or give --store.url another file (its counters begin at 0)"
            )
        self._created = float(meta["created"])
        self._secret = bytes.fromhex(meta["secret"])

    def _write(self, step: "_Step") -> tuple[dict[tuple[str, ...], tuple[int, Ledger]], dict[str, int]]:
        """Write what a step changed; return the new ledgers and what bounds cut off."""
        _write_quarantine(self._writer, self._terms, step)
        overflow: Counter[str] = Counter()
        changed: dict[tuple[str, ...], tuple[int, Ledger]] = {}
        rows = [
            self._task_values(key, row, changed, overflow)
            for key, row in step.rows.items()
            if row is not None
        ]
        self._writer.executemany(_PUT_TASK, rows)
        self._writer.executemany(
            "DELETE FROM tasks WHERE key = ?", [(k,) for k, row in step.rows.items() if row is None]
        )
        beyond = step.tally.bound(self._ledger(FLEET, changed, overflow)[1].values)
        overflow += Counter(codes=beyond["tasks_exited_total"], fields=beyond["unknown_fields_total"])
        for labels, posting in step.tally.postings.items():
            number, ledger = self._ledger(labels, changed, overflow)
            changed[ledger.labels] = number, ledger.plus(posting)
        self._writer.executemany(
            "UPDATE ledgers SET record = ? WHERE id = ?",
            [(encode(ledger), number) for number, ledger in changed.values()],
        )
        return changed, dict(overflow)

    def _task_values(
        self, key: str, row: Row, changed: dict[tuple[str, ...], tuple[int, Ledger]], overflow: Counter[str]
    ) -> tuple[object, ...]:
        task = row.task
        ledger = None
        if row.state != NONE:
            ledger = self._ledger(labels_of(task, self._terms.labels), changed, overflow)[0]
        return key, f"{task.appid} {task.sources}", _RANKS[row.state], ledger, row.due, encode(task)

    def _ledger(
        self,
        labels: tuple[str, ...],
        changed: dict[tuple[str, ...], tuple[int, Ledger]],
        overflow: Counter[str],
    ) -> tuple[int, Ledger]:
        """Return the ledger of a label set, made if there is room, else the one for all the others."""
        known = changed.get(labels) or self._ledgers.get(labels) or _read_ledger(self._writer, labels)
        if known is None:
            sets = self._writer.execute("SELECT count(*) FROM ledgers").fetchone()[0] - 1
            beyond = (BEYOND,) * len(labels)
            if sets >= self._terms.max_label_sets and labels != beyond:
                overflow["label_sets"] += 1
                return self._ledger(beyond, changed, overflow)
            known = _insert_ledger(self._writer, labels, self._clock())
        changed.setdefault(labels, known)
        return changed[labels]


class _Step:
    """A transaction of this store: reads go to the file, changes wait for its end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.tally = Tally()
        self.rows: dict[str, Row | None] = {}
        self.refused: list[Refused] = []
        self._connection = connection

    def task(self, key: str) -> Task | None:
        if key in self.rows:
            row = self.rows[key]
            return row.task if row else None
        found = self._connection.execute("SELECT record FROM tasks WHERE key = ?", (key,)).fetchone()
        return decode_task(found[0]) if found else None

    def siblings(self, appid: int, sources: str) -> list[Task]:
        found = self._connection.execute(
            "SELECT key, record FROM tasks WHERE sources = ?", (f"{appid} {sources}",)
        )
        tasks = {key: decode_task(record) for key, record in found if key not in self.rows}
        changed = (row.task for row in self.rows.values() if row is not None)
        mine = [t for t in (*tasks.values(), *changed) if t.appid == appid and t.sources == sources]
        return [task for task in mine if task.task_id]

    def put(self, key: str, row: Row) -> None:
        self.rows[key] = row

    def forget(self, key: str) -> None:
        self.rows[key] = None

    def quarantine(self, refused: Refused) -> None:
        self.refused.append(refused)


_PUT_TASK = """
    INSERT INTO tasks (key, sources, state, ledger, due, record) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET sources = excluded.sources, state = excluded.state,
        ledger = excluded.ledger, due = excluded.due, record = excluded.record
"""


def _make_private(path: Path) -> None:
    """Make the file, and its folder, for its owner alone: it holds bodies with push keys."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "journal_size_limit = 67108864",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    with closing(connection.execute("PRAGMA user_version")) as cursor:
        version = cursor.fetchone()[0]
    if version > len(MIGRATIONS):
        connection.execute("ROLLBACK")
        raise StoreError(
            f"store {path} is of version {version}, this program knows up to {len(MIGRATIONS)}: "
            "use the program that wrote it, or a newer one"
        )
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


def _read_ledger(connection: sqlite3.Connection, labels: tuple[str, ...]) -> tuple[int, Ledger] | None:
    row = connection.execute(
        "SELECT id, record FROM ledgers WHERE labels = ?", (json.dumps(labels),)
    ).fetchone()
    return (row[0], decode_ledger(row[1])) if row else None


def _insert_ledger(
    connection: sqlite3.Connection, labels: tuple[str, ...], created: float
) -> tuple[int, Ledger]:
    ledger = Ledger(labels, created)
    cursor = connection.execute(
        "INSERT INTO ledgers (labels, record) VALUES (?, ?)", (json.dumps(labels), encode(ledger))
    )
    return cursor.lastrowid or 0, ledger


def _write_quarantine(connection: sqlite3.Connection, terms: Terms, step: _Step) -> None:
    if not step.refused:
        return
    for refused in step.refused:
        digest = blake2b(refused.body, digest_size=16).digest()
        new = connection.execute(
            "INSERT INTO quarantine VALUES (?, ?, ?, ?, 1, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET count = count + 1, last = excluded.last, "
            "source = excluded.source "
            "RETURNING count",
            (digest, refused.reason, refused.body, refused.source, refused.arrival, refused.arrival),
        ).fetchone()
        if new[0] == 1:
            step.tally.count("quarantined_bodies_total", refused.reason)
    evicted = _evict(connection, terms, step.refused[-1].arrival)
    if evicted:
        step.tally.count("quarantine_evicted_total", amount=evicted)


def _evict(connection: sqlite3.Connection, terms: Terms, now: float) -> int:
    """Delete bodies past the bounds, those longest not seen first; return how many."""
    return connection.execute(
        "DELETE FROM quarantine WHERE last < ? OR digest IN (SELECT digest FROM (SELECT digest, "
        "row_number() OVER newest AS place, sum(length(body)) OVER newest AS bytes FROM quarantine "
        "WINDOW newest AS (ORDER BY last DESC, digest)) WHERE place > ? OR bytes > ?)",
        (now - terms.max_quarantined_age_seconds, terms.max_quarantined, terms.max_quarantined_bytes),
    ).rowcount


def _advice(exc: Exception) -> str:
    """Return what happened and what to do about it."""
    text = str(exc)
    for sign, advice in _ADVICE.items():
        if sign in text:
            return f"{text}: {advice}"
    return text


_ADVICE = {
    "malformed": "the file is damaged; move it away and restore a backup, or start with a new one",
    "not a database": "the file is no store, or damaged; point --store.url at another, or move it away",
    "disk is full": "free some space; callbacks are answered 503 and sent again until then",
    "readonly": "make the file and its folder writable for the exporter's user",
    "locked": "another process holds the file; it is tried again",
    "unable to open": "make the folder writable for the exporter's user",
    "Permission denied": "make the file and its folder readable and writable for the exporter's user",
}
