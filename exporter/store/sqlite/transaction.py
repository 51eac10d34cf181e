"""A step of the embedded store: what it reads, what it changes, and how that is written at its end."""

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

#: One value for many records: fetching rows would let go of the interpreter's lock for each.
AS_LINES = "coalesce(group_concat(record, char(10)), '')"

MAX_KEYS_AT_ONCE, MAX_ROWS_AT_ONCE = 256, 256

#: Ledgers by their labels, with their row's number.
LabelSetRows = dict[tuple[str, ...], tuple[int, LabelSetValues]]


class SqliteTransaction(TransactionBase):
    """A transaction of the embedded store: reads go to the file, changes wait for `write`.

    Args:
        connection: holds the write transaction.
        terms: what is agreed with the store.
        known: ledgers as they are in the file, as far as they have been read.
        clock: gives the time, seconds.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        options: StoreOptions,
        known: LabelSetRows,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self._connection = connection
        self._options = options
        self._known = known
        self._clock = clock
        self._read: dict[str, Task | None] = {}
        self._changed: LabelSetRows = {}

    def prefetch(self, keys: Sequence[str]) -> None:
        wanted = list(dict.fromkeys(keys))
        self._read |= dict.fromkeys(wanted)
        while wanted:
            part, wanted = wanted[:MAX_KEYS_AT_ONCE], wanted[MAX_KEYS_AT_ONCE:]
            # Always a power of two of them, so that there are few statements to prepare.
            part += [part[-1]] * ((1 << (len(part) - 1).bit_length()) - len(part))
            marks = ",".join("?" * len(part))
            self._read |= self._tasks_where(f"key IN ({marks})", part)

    def task(self, key: str) -> Task | None:
        if key in self._rows:
            row = self._rows[key]
            return row.task if row else None
        if key not in self._read:
            self.prefetch([key])
        return self._read[key]

    def tasks_with_sources(self, appid: int, sources: str) -> list[Task]:
        # Digests are all over the place, and so would be the pages of their index that every new task writes:
        # it is made when the first exit without a task asks for it.
        self._connection.execute("CREATE INDEX IF NOT EXISTS tasks_by_sources ON tasks (sources)")
        found = self._tasks_where("sources = ?", [number_of(sources)])
        return self._pulling(found, appid, sources)

    def release(self, digest: str) -> bool:
        deleted = self._connection.execute("DELETE FROM quarantine WHERE digest = ?", (_blob(digest),))
        return deleted.rowcount > 0

    def write(self) -> tuple[LabelSetRows, dict[str, int]]:
        """Write what was changed; return the ledgers as they are then, and what bounds cut off."""
        self._write_quarantine()
        self._write_tasks()
        self._bound(self._label_set(FLEET)[1].values)
        for labels, increments in self.increments.by_labels.items():
            number, label_set = self._label_set(labels)
            self._changed[label_set.labels] = number, label_set.plus(increments)
        self._connection.executemany(
            "UPDATE ledgers SET record = ? WHERE id = ?",
            [(encode(label_set), number) for number, label_set in self._changed.values()],
        )
        return self._changed, dict(self.overflow)

    def _tasks_where(self, condition: str, values: Sequence[object]) -> dict[str, Task | None]:
        statement = f"SELECT {AS_LINES} FROM tasks WHERE {condition}"  # noqa: S608 - made of fixed parts
        lines: str = self._connection.execute(statement, values).fetchone()[0]
        return {key_of(task): task for task in decode_tasks(lines)}

    def _write_tasks(self) -> None:
        forgotten = [(key,) for key, row in self._rows.items() if row is None]
        self._connection.executemany("DELETE FROM tasks WHERE key = ?", forgotten)
        rows = [self._columns(key, row) for key, row in self._rows.items() if row is not None]
        put_many(self._connection, _PUT_TASKS, rows, _OVER_TASKS)

    def _columns(self, key: str, row: TaskRow) -> tuple[object, ...]:
        task = row.task
        label_set = None if row.state == NONE else self._label_set(row.labels)[0]
        return key, number_of(task.sources), RANKS[row.state], label_set, row.due, encode(task)

    def _label_set(self, labels: tuple[str, ...]) -> tuple[int, LabelSetValues]:
        """Return the ledger of a label set, made if there is room, else the one for all the others."""
        known = self._changed.get(labels) or self._known.get(labels) or self._read_ledger(labels)
        if known is None:
            sets = self._connection.execute("SELECT count(*) FROM ledgers").fetchone()[0] - 1
            beyond = (OVERFLOW,) * len(labels)
            if sets >= self._options.max_label_sets and labels != beyond:
                self.overflow["label_sets"] += 1
                return self._label_set(beyond)
            known = insert_label_set(self._connection, labels, self._clock())
            self._changed[labels] = known
        else:
            self._known[labels] = known
        return known

    def _read_ledger(self, labels: tuple[str, ...]) -> tuple[int, LabelSetValues] | None:
        found = self._connection.execute(
            "SELECT id, record FROM ledgers WHERE labels = ?", (json.dumps(labels),)
        ).fetchone()
        return (found[0], decode_label_set(found[1])) if found else None

    def _write_quarantine(self) -> None:
        for refused in self._refused:
            if self._keep(refused):
                self.increments.count("quarantined_bodies_total", refused.reason)
        evicted = 0 if self._evict_at is None else self._evict(self._evict_at)
        if evicted:
            self.increments.count("quarantine_evicted_total", amount=evicted)

    def _keep(self, refused: QuarantineEntry) -> bool:
        """Keep a body; return whether it is a new one."""
        digest = body_digest(refused.body)
        count = self._connection.execute(
            "INSERT INTO quarantine (digest, reason, body, source, count, first, last, size) "
            "VALUES (?, ?, ?, ?, 1, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET count = count + 1, "
            "first = min(first, excluded.first), last = max(last, excluded.last), source = excluded.source "
            "RETURNING count",
            (digest, refused.reason, refused.body, refused.source, *[refused.arrival] * 2, len(refused.body)),
        ).fetchone()[0]
        return bool(count == 1)

    def _evict(self, now: float) -> int:
        """Delete bodies past the bounds, those longest not seen first; return how many."""
        options = self._options
        bodies, size = self._connection.execute(
            "SELECT count(*), total(size) FROM quarantine INDEXED BY quarantine_by_last"
        ).fetchone()
        past = []
        for digest, last, length in self._connection.execute(
            "SELECT digest, last, size FROM quarantine ORDER BY last, digest"
        ):
            is_past = bodies > options.max_quarantined or size > options.max_quarantined_bytes
            if not is_past and last >= now - options.max_quarantined_age_seconds:
                break
            bodies, size = bodies - 1, size - length
            past.append((digest,))
        self._connection.executemany("DELETE FROM quarantine WHERE digest = ?", past)
        return len(past)


def insert_label_set(
    connection: sqlite3.Connection, labels: tuple[str, ...], created: float
) -> tuple[int, LabelSetValues]:
    """Make an empty ledger; return its number and itself."""
    label_set = LabelSetValues(labels, created)
    cursor = connection.execute(
        "INSERT INTO ledgers (labels, record) VALUES (?, ?)", (json.dumps(labels), encode(label_set))
    )
    return cursor.lastrowid or 0, label_set


def _blob(digest: str) -> bytes:
    """Return the digest of a body as it stands in the file; of what is none, one that no body has."""
    return bytes.fromhex(digest) if re.fullmatch("[0-9a-f]{32}", digest) else b""


def number_of(digest: str) -> int | None:
    """Return a digest of sources as a number that SQLite can index in eight bytes."""
    return int(digest, 16) - (1 << 63) if digest else None


_PUT_TASKS = "INSERT INTO tasks (key, sources, state, ledger, due, record)"
_OVER_TASKS = (
    "ON CONFLICT (key) DO UPDATE SET sources = excluded.sources, state = excluded.state, "
    "ledger = excluded.ledger, due = excluded.due, record = excluded.record"
)


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
