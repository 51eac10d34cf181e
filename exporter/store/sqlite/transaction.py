"""A transaction of the embedded store: how it reads, and how its changes are written at its end."""

import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain

from exporter.metrics.catalogue import OVERFLOW
from exporter.metrics.values import FLEET, LabelSetValues
from exporter.relay import NONE, Task, key_of
from exporter.store.protocol import RANKS, StoreOptions, body_digest, decode_label_set, decode_tasks, encode
from exporter.store.transaction import QuarantineEntry, Transaction

#: Many records as one value: SQLite releases the interpreter's lock for each row that is fetched.
RECORDS_AS_LINES = "coalesce(group_concat(record, char(10)), '')"

#: Limits of one statement. SQLite allows a limited number of values in it.
MAX_KEYS_AT_ONCE, MAX_ROWS_AT_ONCE = 256, 256

#: The row's id and the values of label sets, by labels.
LabelSetRows = dict[tuple[str, ...], tuple[int, LabelSetValues]]


class SqliteTransaction(Transaction):
    """A transaction of the embedded store: it reads the file immediately, and writes its changes in `write`.

    Args:
        connection: a connection with an open write transaction.
        cached: label sets as they are in the file; those that are read are added.
        clock: returns the time, seconds.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        options: StoreOptions,
        cached: LabelSetRows,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self._connection = connection
        self._options = options
        self._cached = cached
        self._clock = clock
        self._changed: LabelSetRows = {}

    def write(self) -> LabelSetRows:
        """Write the changes; return the changed label sets."""
        # The quarantine first: it adds to the increments, which are written below.
        if self._deleted_bodies or self._evict_now is not None:
            self._write_quarantine()
        rows: list[tuple[object, ...]] = []
        for key, row in self._rows.items():
            if row is None:
                self._connection.execute("DELETE FROM tasks WHERE key = ?", (key,))
                continue
            task = row.task
            label_set_number = None if row.state == NONE else self._label_set(row.labels)[0]
            indexed = sources_number(task.sources), RANKS[row.state], label_set_number, row.due
            rows.append((key, *indexed, encode(task).decode()))
        insert_many(self._connection, _INSERT_TASKS, rows, _ON_EXISTING_TASK)
        self.overflow += self.increments.apply_limits(self._label_set(FLEET)[1].values)
        for labels, increments in self.increments.by_labels.items():
            number, label_set = self._label_set(labels)
            self._changed[label_set.labels] = number, label_set.plus(increments)
        for number, label_set in self._changed.values():
            record = encode(label_set).decode()
            self._connection.execute("UPDATE ledgers SET record = ? WHERE id = ?", (record, number))
        return self._changed

    def _read_tasks(self, keys: Sequence[str]) -> dict[str, Task | None]:
        found: dict[str, Task | None] = {}
        for begin in range(0, len(keys), MAX_KEYS_AT_ONCE):
            part = list(keys[begin : begin + MAX_KEYS_AT_ONCE])
            # Repeat the last key up to a power of two: so few different statements have to be prepared.
            part += [part[-1]] * ((1 << (len(part) - 1).bit_length()) - len(part))
            found |= self._tasks_where(f"key IN ({','.join('?' * len(part))})", part)
        return found

    def _read_tasks_with_sources(self, sources: str) -> dict[str, Task | None]:
        # Digests are random, so each new task would write another page of this index. Most stores never need
        # it: it is created for the first exit without a task ID.
        self._connection.execute("CREATE INDEX IF NOT EXISTS tasks_by_sources ON tasks (sources)")
        return self._tasks_where("sources = ?", [sources_number(sources)])

    def _tasks_where(self, condition: str, values: Sequence[object]) -> dict[str, Task | None]:
        statement = f"SELECT {RECORDS_AS_LINES} FROM tasks WHERE {condition}"  # noqa: S608 - made of fixed parts
        lines: str = self._connection.execute(statement, values).fetchone()[0]
        tasks = decode_tasks(lines)
        return dict(zip(map(key_of, tasks), tasks, strict=True))

    def _has_body(self, digest: str) -> bool:
        query = "SELECT 1 FROM quarantine WHERE digest = ?"
        # No body has a malformed digest.
        is_digest = re.fullmatch("[0-9a-f]{32}", digest)
        return is_digest is not None and bool(
            self._connection.execute(query, (bytes.fromhex(digest),)).fetchone()
        )

    def _label_set(self, labels: tuple[str, ...]) -> tuple[int, LabelSetValues]:
        """Return a label set; create it, or return the one for all further ones if the limit is reached."""
        if known := self._changed.get(labels) or self._cached.get(labels):
            return known
        query = "SELECT id, record FROM ledgers WHERE labels = ?"
        if found := self._connection.execute(query, (json.dumps(labels),)).fetchone():
            self._cached[labels] = found[0], decode_label_set(found[1])
            return self._cached[labels]
        # The fleet has a row, but is no label set of --metrics.labels.
        sets = self._connection.execute("SELECT count(*) FROM ledgers").fetchone()[0] - 1
        overflow = (OVERFLOW,) * len(labels)
        if sets >= self._options.max_label_sets and labels != overflow:
            self.overflow["label_sets"] += 1
            return self._label_set(overflow)
        self._changed[labels] = insert_label_set(self._connection, labels, self._clock())
        return self._changed[labels]

    def _write_quarantine(self) -> None:
        deleted = [(bytes.fromhex(digest),) for digest in self._deleted_bodies]
        self._connection.executemany("DELETE FROM quarantine WHERE digest = ?", deleted)
        for entry in self._quarantine_entries:
            if self._insert_body(entry):
                self.increments.count("quarantined_bodies_total", entry.reason)
        evicted = 0 if self._evict_now is None else self._evict(self._evict_now)
        if evicted:
            self.increments.count("quarantine_evicted_total", amount=evicted)

    def _insert_body(self, entry: QuarantineEntry) -> bool:
        """Add a body to the quarantine; return whether it is new there."""
        digest = body_digest(entry.body)
        count = self._connection.execute(
            "INSERT INTO quarantine (digest, reason, body, source, count, first, last, size) "
            "VALUES (?, ?, ?, ?, 1, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET count = count + 1, "
            "first = min(first, excluded.first), last = max(last, excluded.last), source = excluded.source "
            "RETURNING count",
            (digest, entry.reason, entry.body, entry.source, *[entry.arrival] * 2, len(entry.body)),
        ).fetchone()[0]
        return bool(count == 1)

    def _evict(self, now: float) -> int:
        """Delete the bodies above the limits, the longest unseen first; return how many."""
        options = self._options
        bodies, size = self._connection.execute(
            "SELECT count(*), total(size) FROM quarantine INDEXED BY quarantine_by_last"
        ).fetchone()
        deleted = []
        for digest, last, length in self._connection.execute(
            "SELECT digest, last, size FROM quarantine ORDER BY last, digest"
        ):
            is_too_much = bodies > options.max_quarantined or size > options.max_quarantined_bytes
            if not is_too_much and last >= now - options.max_quarantined_age_seconds:
                break
            bodies, size = bodies - 1, size - length
            deleted.append((digest,))
        self._connection.executemany("DELETE FROM quarantine WHERE digest = ?", deleted)
        return len(deleted)


def insert_label_set(
    connection: sqlite3.Connection, labels: tuple[str, ...], created: float
) -> tuple[int, LabelSetValues]:
    """Create an empty label set; return its id and itself."""
    label_set = LabelSetValues(labels, created)
    cursor = connection.execute(
        "INSERT INTO ledgers (labels, record) VALUES (?, ?)", (json.dumps(labels), encode(label_set).decode())
    )
    return cursor.lastrowid or 0, label_set


def sources_number(digest: str) -> int | None:
    """Return a digest of sources as a signed number of 64 bits, which is smaller in an index than text."""
    return int(digest, 16) - (1 << 63) if digest else None


_INSERT_TASKS = "INSERT INTO tasks (key, sources, state, ledger, due, record)"
_ON_EXISTING_TASK = (
    "ON CONFLICT (key) DO UPDATE SET sources = excluded.sources, state = excluded.state, "
    "ledger = excluded.ledger, due = excluded.due, record = excluded.record"
)


def insert_many(
    connection: sqlite3.Connection, head: str, rows: list[tuple[object, ...]], tail: str = ""
) -> None:
    """Run `head VALUES (...), (...) tail` for all rows, in few statements.

    SQLite releases the interpreter's lock once for each statement. With a statement for each row, this thread
    and the one that serves requests would wait for each other all the time.
    """
    while rows:
        # A power of two, so that few different statements have to be prepared.
        size = min(1 << (len(rows).bit_length() - 1), MAX_ROWS_AT_ONCE)
        values = tuple(chain.from_iterable(rows[:size]))
        connection.execute(_statement(head, size, len(rows[0]), tail), values)
        rows = rows[size:]


@lru_cache(maxsize=64)
def _statement(head: str, rows: int, columns: int, tail: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{head} VALUES {', '.join([row] * rows)} {tail}"
