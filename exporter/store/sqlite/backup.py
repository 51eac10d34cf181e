"""Copies of the embedded store: a backup while it is in use, and a store restored from a backup.

Both are written to a file next to the target, checked, synced, and only then renamed to the target's name.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace as changed

from exporter.relay import with_counters_reset
from exporter.store.records import decode_label_set, decode_task, encode
from exporter.store.sqlite.file import (
    atomic_write,
    new_store,
    refuse_existing,
    refuse_files_of,
    sidecar_files,
    store_errors,
)
from exporter.store.sqlite.open import OPEN_EXISTING, connect, integrity_check, merge_wal, migrate, uri

TASKS_AT_ONCE = 1000


def back_up(store: Path, copy: Path, *, replace: bool) -> None:
    """Copy the store as it is at this moment; other processes may write to it meanwhile.

    Raises:
        StoreError: the store does not exist or is damaged; or the copy exists already, without `replace`.
    """
    refuse_existing(copy, replace=replace)
    refuse_files_of(store, copy)
    with store_errors(store), atomic_write(copy) as unfinished:
        _copy(store, unfinished, OPEN_EXISTING)


def verify(store: Path) -> None:
    """Read the whole store and check it.

    Raises:
        StoreError: the store is damaged; the text names the damage.
    """
    with store_errors(store), closing(sqlite3.connect(uri(store, OPEN_EXISTING), uri=True)) as connection:
        integrity_check(connection)


def restore(copy: Path, store: Path, *, replace: bool, now: float) -> None:
    """Create a store from a backup; its counters start at 0 at the time `now` (seconds).

    Raises:
        StoreError: the file is damaged or no backup; the store is in use, or exists already, without
            `replace`.
    """
    with new_store(store, replace=replace) as unfinished, store_errors(copy):
        # A backup is one file, maybe on a read-only disk: `immutable` creates no files next to it. If there
        # are such files, it is a store that may be in use; `immutable` would not read its log.
        has_sidecars = any(file.exists() for file in sidecar_files(copy))
        _copy(copy, unfinished, "mode=ro" if has_sidecars else "mode=ro&immutable=1")
        with closing(connect(unfinished)) as connection:
            migrate(connection, copy)
            _reset_counters(connection, now)
            merge_wal(connection)


def _copy(source: Path, target: Path, query: str) -> None:
    """Copy a store in one read transaction, and check the copy."""
    with closing(sqlite3.connect(uri(source, query), uri=True)) as reader:
        reader.execute("VACUUM INTO ?", (str(target),))
    with closing(sqlite3.connect(target)) as copy:
        integrity_check(copy)


def _reset_counters(connection: sqlite3.Connection, now: float) -> None:
    """Set all counters to 0."""
    # If they went back to the backup's numbers, Prometheus would see a reset and add those numbers again.
    connection.execute("BEGIN IMMEDIATE")
    for number, record in connection.execute("SELECT id, record FROM ledgers").fetchall():
        label_set = changed(decode_label_set(record), created=now, values={}, exemplars={})
        connection.execute("UPDATE ledgers SET record = ? WHERE id = ?", (encode(label_set), number))
    last = 0
    # In pages, so that memory does not grow with the number of tasks.
    while page := connection.execute(
        "SELECT id, record FROM tasks WHERE id > ? ORDER BY id LIMIT ?", (last, TASKS_AT_ONCE)
    ).fetchall():
        rows = [(encode(with_counters_reset(decode_task(record))), number) for number, record in page]
        connection.executemany("UPDATE tasks SET record = ?, due = 0 WHERE id = ?", rows)
        last = page[-1][0]
    connection.execute("UPDATE meta SET value = ? WHERE key = 'created'", (repr(now),))
    # An earlier version wrote these when it moved a store. The restored store is not the one that was moved.
    connection.execute("DELETE FROM meta WHERE key IN ('moved', 'origin')")
    connection.execute("COMMIT")
