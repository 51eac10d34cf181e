"""A transaction of the embedded store: how it reads, and how its changes are written at its end."""

import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache

from exporter.metrics.catalogue import OVERFLOW
from exporter.metrics.values import FLEET, LabelSetValues
from exporter.relay import NONE, Task
from exporter.store.protocol import QuarantineEntry, StoreOptions, TaskRow
from exporter.store.records import RANKS, body_digest, decode_label_set, decode_tasks, encode, key_of
from exporter.store.transaction import TransactionBase

#: Many records as one value: SQLite releases the interpreter's lock for each row that is fetched.
RECORDS_AS_LINES = "coalesce(group_concat(record, char(10)), '')"

#: Limits of one statement. SQLite allows a limited number of values in it.
MAX_KEYS_AT_ONCE, MAX_ROWS_AT_ONCE = 256, 256

#: The row's id and the values of label sets, by labels.
LabelSetRows = dict[tuple[str, ...], tuple[int, LabelSetValues]]


class SqliteTransaction(TransactionBase):
    """A transaction of the embedded store: it reads the file immediately, and writes its changes in `write`.

    The methods are documented in `exporter.store.protocol`.

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
        self._tasks: dict[str, Task | None] = {}
        self._changed: LabelSetRows = {}

    def prefetch(self, keys: Sequence[str]) -> None:
        wanted = list(dict.fromkeys(keys))
        self._tasks |= dict.fromkeys(wanted)
        while wanted:
            part, wanted = wanted[:MAX_KEYS_AT_ONCE], wanted[MAX_KEYS_AT_ONCE:]
            # Repeat the last key up to a power of two: so few different statements have to be prepared.
            part += [part[-1]] * ((1 << (len(part) - 1).bit_length()) - len(part))
            placeholders = ",".join("?" * len(part))
            self._tasks |= self._tasks_where(f"key IN ({placeholders})", part)

    def task(self, key: str) -> Task | None:
        if key in self._rows:
            row = self._rows[key]
            return row.task if row else None
        if key not in self._tasks:
            self.prefetch([key])
        return self._tasks[key]

    def tasks_with_sources(self, appid: int, sources: str) -> list[Task]:
        # Digests are random, so each new task would write another page of this index. Most stores never need
        # it: it is created for the first exit without a task ID.
        self._connection.execute("CREATE INDEX IF NOT EXISTS tasks_by_sources ON tasks (sources)")
        found = self._tasks_where("sources = ?", [sources_number(sources)])
        return self._filter_by_sources(found, appid, sources)

    def delete_body(self, digest: str) -> bool:
        deleted = self._connection.execute("DELETE FROM quarantine WHERE digest = ?", (_from_hex(digest),))
        return deleted.rowcount > 0

    def write(self) -> tuple[LabelSetRows, dict[str, int]]:
        """Write the changes; return the changed label sets, and how much was left out by each limit."""
        # The quarantine first: it adds to the increments, which are written below.
        self._write_quarantine()
        self._write_tasks()
        self._limit_label_values(self._label_set(FLEET)[1].values)
        for labels, increments in self.increments.by_labels.items():
            number, label_set = self._label_set(labels)
            self._changed[label_set.labels] = number, label_set.plus(increments)
        self._connection.executemany(
            "UPDATE ledgers SET record = ? WHERE id = ?",
            [(encode(label_set), number) for number, label_set in self._changed.values()],
        )
        return self._changed, dict(self.overflow)

    def _tasks_where(self, condition: str, values: Sequence[object]) -> dict[str, Task | None]:
        statement = f"SELECT {RECORDS_AS_LINES} FROM tasks WHERE {condition}"  # noqa: S608 - made of fixed parts
        lines: str = self._connection.execute(statement, values).fetchone()[0]
        return {key_of(task): task for task in decode_tasks(lines)}

    def _write_tasks(self) -> None:
        deleted = [(key,) for key, row in self._rows.items() if row is None]
        self._connection.executemany("DELETE FROM tasks WHERE key = ?", deleted)
        rows = [self._task_columns(key, row) for key, row in self._rows.items() if row is not None]
        insert_many(self._connection, _INSERT_TASKS, rows, _ON_EXISTING_TASK)

    def _task_columns(self, key: str, row: TaskRow) -> tuple[object, ...]:
        task = row.task
        label_set = None if row.state == NONE else self._label_set(row.labels)[0]
        return key, sources_number(task.sources), RANKS[row.state], label_set, row.due, encode(task)

    def _label_set(self, labels: tuple[str, ...]) -> tuple[int, LabelSetValues]:
        """Return a label set; create it, or return the one for all further ones if the limit is reached."""
        found = self._changed.get(labels) or self._cached.get(labels) or self._read_label_set(labels)
        if found is None:
            # The fleet has a row, but is no label set of --metrics.labels.
            sets = self._connection.execute("SELECT count(*) FROM ledgers").fetchone()[0] - 1
            overflow = (OVERFLOW,) * len(labels)
            if sets >= self._options.max_label_sets and labels != overflow:
                self.overflow["label_sets"] += 1
                return self._label_set(overflow)
            found = insert_label_set(self._connection, labels, self._clock())
            self._changed[labels] = found
        else:
            self._cached[labels] = found
        return found

    def _read_label_set(self, labels: tuple[str, ...]) -> tuple[int, LabelSetValues] | None:
        found = self._connection.execute(
            "SELECT id, record FROM ledgers WHERE labels = ?", (json.dumps(labels),)
        ).fetchone()
        return (found[0], decode_label_set(found[1])) if found else None

    def _write_quarantine(self) -> None:
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
        "INSERT INTO ledgers (labels, record) VALUES (?, ?)", (json.dumps(labels), encode(label_set))
    )
    return cursor.lastrowid or 0, label_set


def _from_hex(digest: str) -> bytes:
    """Return a body's digest as it is in the file; for a malformed digest, an empty one that no body has."""
    return bytes.fromhex(digest) if re.fullmatch("[0-9a-f]{32}", digest) else b""


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
        values = [value for row in rows[:size] for value in row]
        connection.execute(_statement(head, size, len(rows[0]), tail), values)
        rows = rows[size:]


@lru_cache(maxsize=64)
def _statement(head: str, rows: int, columns: int, tail: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{head} VALUES {', '.join([row] * rows)} {tail}"
