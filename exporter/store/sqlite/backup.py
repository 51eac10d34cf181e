"""Copies of the embedded store: a backup while it runs, and a store made of one.

Both are whole before they get their name: a file beside it is written, checked, synced and renamed.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace as changed

from exporter.relay import with_counters_reset
from exporter.store.records import decode_label_set, decode_task, encode
from exporter.store.sqlite.file import (
    atomic_write,
    explained,
    new_store,
    refuse_existing,
    refuse_files_of,
    sidecar_files,
)
from exporter.store.sqlite.open import IN_PLACE, connect, integrity_check, make_whole, migrate, uri

PAGE = 1000


def back_up(store: Path, copy: Path, *, replace: bool) -> None:
    """Copy the store as it is at this moment, whoever writes to it meanwhile.

    Raises:
        StoreError: there is no such store, it is damaged, or the copy is there already, without `replace`.
    """
    refuse_existing(copy, replace=replace)
    refuse_files_of(store, copy)
    with explained(store), atomic_write(copy) as unfinished:
        _copy(store, unfinished, IN_PLACE)


def verify(store: Path) -> None:
    """Read all of the store, and say what is damaged.

    Raises:
        StoreError: something is.
    """
    with explained(store), closing(sqlite3.connect(uri(store, IN_PLACE), uri=True)) as connection:
        integrity_check(connection)


def restore(copy: Path, store: Path, *, replace: bool, now: float) -> None:
    """Make a store of a backup: its tasks and its quarantine, and all counters at 0 as of `now` (seconds).

    Raises:
        StoreError: it is no backup, or damaged; the store is in use, or there already, without `replace`.
    """
    with new_store(store, replace=replace) as unfinished, explained(copy):
        # A backup stands alone, perhaps where nothing can be written.
        attended = any(file.exists() for file in sidecar_files(copy))
        _copy(copy, unfinished, "mode=ro" if attended else "mode=ro&immutable=1")
        with closing(connect(unfinished)) as connection:
            migrate(connection, copy)
            _begin_generation(connection, now)
            make_whole(connection)


def _copy(source: Path, target: Path, how: str) -> None:
    """Copy a store in one read transaction, and look over the copy."""
    with closing(sqlite3.connect(uri(source, how), uri=True)) as reader:
        reader.execute("VACUUM INTO ?", (str(target),))
    with closing(sqlite3.connect(target)) as copy:
        integrity_check(copy)


def _begin_generation(connection: sqlite3.Connection, now: float) -> None:
    """Set all counters to 0: those that were counted since the backup would read as a reset."""
    connection.execute("BEGIN IMMEDIATE")
    for number, record in connection.execute("SELECT id, record FROM ledgers").fetchall():
        label_set = changed(decode_label_set(record), created=now, values={}, exemplars={})
        connection.execute("UPDATE ledgers SET record = ? WHERE id = ?", (encode(label_set), number))
    last = 0
    while page := connection.execute(
        "SELECT id, record FROM tasks WHERE id > ? ORDER BY id LIMIT ?", (last, PAGE)
    ).fetchall():
        rows = [(encode(with_counters_reset(decode_task(record))), number) for number, record in page]
        connection.executemany("UPDATE tasks SET record = ?, due = 0 WHERE id = ?", rows)
        last = page[-1][0]
    connection.execute("UPDATE meta SET value = ? WHERE key = 'created'", (repr(now),))
    connection.execute("DELETE FROM meta WHERE key IN ('moved', 'origin')")  # it is a store of its own
    connection.execute("COMMIT")
