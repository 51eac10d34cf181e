"""Copies of the embedded store: a backup while it is in use, and a store restored from a backup.

Both are written to a file next to the target, checked, synced, and only then renamed to the target's name.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace as changed

from exporter.relay import with_counters_reset
from exporter.store.protocol import decode_label_set, decode_task, encode
from exporter.store.sqlite.file import (
    atomic_write,
    new_store,
    open_backup,
    refuse_existing,
    refuse_files_of,
    store_errors,
)
from exporter.store.sqlite.open import connect, connect_existing, integrity_check, merge_wal, migrate


def back_up(store: Path, copy: Path, *, replace: bool) -> None:
    """Copy the store as it is at this moment; other processes may write to it meanwhile.

    Raises:
        StoreError: the store does not exist or is damaged; or the copy exists already, without `replace`.
    """
    refuse_existing(copy, replace=replace)
    refuse_files_of(store, copy)
    with store_errors(store), atomic_write(copy) as unfinished:
        _copy(connect_existing(store), unfinished)


def verify(store: Path) -> None:
    """Read the whole store; raise sqlite3.DatabaseError if it is damaged or not a store."""
    with closing(connect_existing(store)) as connection:
        integrity_check(connection)


def restore(copy: Path, store: Path, *, replace: bool, now: float) -> None:
    """Create a store from a backup; its counters start at 0 at the time `now` (seconds).

    Raises:
        StoreError: the file is damaged or no backup; the store is in use, or exists already, without
            `replace`.
    """
    with new_store(store, replace=replace) as unfinished, store_errors(copy):
        _copy(open_backup(copy, "mode=ro"), unfinished)
        with closing(connect(unfinished)) as connection:
            migrate(connection, copy)
            _reset_counters(connection, now)
            merge_wal(connection)


def _copy(source: sqlite3.Connection, target: Path) -> None:
    """Copy a store in one read transaction, close it, and check the copy."""
    with closing(source):
        source.execute("VACUUM INTO ?", (str(target),))
    verify(target)


def _reset_counters(connection: sqlite3.Connection, now: float) -> None:
    """Set all counters to 0."""

    def reset_label_set(record: str) -> str:
        return encode(changed(decode_label_set(record), created=now, values={}, exemplars={})).decode()

    def reset_task(record: str) -> str:
        return encode(with_counters_reset(decode_task(record))).decode()

    connection.create_function("reset_label_set", 1, reset_label_set)
    connection.create_function("reset_task", 1, reset_task)
    # If they went back to the backup's numbers, Prometheus would see a reset and add those numbers again.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE ledgers SET record = reset_label_set(record)")
    connection.execute("UPDATE tasks SET record = reset_task(record), due = 0")
    connection.execute("UPDATE meta SET value = ? WHERE key = 'created'", (repr(now),))
    # An earlier version wrote these when it moved a store. The restored store is not the one that was moved.
    connection.execute("DELETE FROM meta WHERE key IN ('moved', 'origin')")
    connection.execute("COMMIT")
