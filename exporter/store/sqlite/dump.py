"""How the embedded store is dumped, and loaded from a dump."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from exporter.errors import StoreError
from exporter.relay import NONE, key_of
from exporter.store.dump import DUMP_VERSION, BodyLine, HeaderLine, LabelSetLine, Line, TaskLine
from exporter.store.protocol import (
    RANKS,
    STORED_STATES,
    body_digest,
    decode_label_set,
    decode_task,
    encode,
)
from exporter.store.sqlite.file import FileLock, lock_file, new_store, open_backup, real_path, store_errors
from exporter.store.sqlite.open import check_version, integrity_check, merge_wal, migrate
from exporter.store.sqlite.transaction import insert_many, sources_number


def dump_file(path: Path) -> Iterator[Line]:
    """Yield the lines of a dump of a file. It is locked meanwhile, and nothing is written to it.

    Raises:
        StoreError: the file does not exist, is damaged, is newer than this program, or is in use.
    """
    with store_errors(path), ExitStack() as opened:
        path = real_path(path)
        if not path.exists():
            raise StoreError(f"there is no store {path}; set --store.url to the store to dump")
        # A backup has no lock file, and may be on a read-only disk, where none can be created.
        if lock_file(path).exists():
            opened.callback(FileLock(path, exclusive=True).release)
        connection = opened.enter_context(closing(open_backup(path, "mode=rw")))
        connection.execute("BEGIN")
        integrity_check(connection)
        check_version(connection, path)
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        created, fold_settings_fingerprint = float(meta["created"]), meta.get("judged_by", "")
        yield HeaderLine(created, meta["secret"], meta["labels"], fold_settings_fingerprint, DUMP_VERSION)
        for (record,) in connection.execute("SELECT record FROM ledgers ORDER BY id"):
            yield LabelSetLine(decode_label_set(record))
        # Label sets are never deleted, so their ids have no gaps. The fleet has the id 1; its position is 0.
        for state, label_set, due, record in connection.execute(
            "SELECT state, coalesce(ledger, 1), due, record FROM tasks ORDER BY id"
        ):
            yield TaskLine(STORED_STATES[state], label_set - 1, due, decode_task(record))
        for row in connection.execute(
            "SELECT reason, body, source, count, first, last FROM quarantine ORDER BY first, digest"
        ):
            yield BodyLine(*row)


def load_file(path: Path, lines: Iterator[Line], *, replace: bool) -> None:
    """Create a store from the lines of a dump. If an error is raised, nothing of the new store is left.

    Raises:
        StoreError: a store exists already, without `replace`, or is in use; or the file can't be written.
    """
    with (
        new_store(path, replace=replace) as unfinished,
        closing(sqlite3.connect(unfinished, isolation_level=None)) as connection,
    ):
        # No journal and no sync: if anything fails, the whole file is deleted. It is synced at its end.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        migrate(connection, path)
        connection.execute("BEGIN")
        for line in lines:
            _insert(connection, line)
        connection.execute("COMMIT")
        integrity_check(connection)
        merge_wal(connection)


def _insert(connection: sqlite3.Connection, line: Line) -> None:
    """Insert a line as a row. SQLite gives the rows their ids, in the order of the lines."""
    rows: list[tuple[object, ...]]
    match line:
        case HeaderLine(secret=secret, labels=labels):
            head = "INSERT INTO meta (key, value)"
            rows = [("created", repr(line.created)), ("secret", secret), ("labels", labels)]
            rows.append(("judged_by", line.fold_settings_fingerprint))
        case LabelSetLine(values=label_set):
            head = "INSERT INTO ledgers (labels, record)"
            rows = [(json.dumps(label_set.labels), encode(label_set).decode())]
        case TaskLine(record=task):
            head = "INSERT INTO tasks (key, sources, state, ledger, due, record)"
            number = None if line.state == NONE else line.label_set + 1
            indexed = sources_number(task.sources), RANKS[line.state], number
            rows = [(key_of(task), *indexed, line.due, encode(task).decode())]
        case BodyLine(body=body):
            head = "INSERT INTO quarantine (digest, reason, body, source, count, first, last, size)"
            info = line.source, line.count, line.first, line.last, len(body)
            rows = [(body_digest(body), line.reason, body, *info)]
    insert_many(connection, head, rows)
