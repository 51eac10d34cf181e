"""An embedded store that is dumped, or made of a dump."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from exporter.errors import StoreError
from exporter.relay import NONE
from exporter.store.dump import DUMP_VERSION, Body, Header, KeptTask, LabelSet, Line
from exporter.store.records import (
    RANKS,
    STORED_STATES,
    body_digest,
    decode_label_set,
    decode_task,
    encode,
    key_of,
)
from exporter.store.sqlite.file import FileLock, explained, lock_file, new_store, resolve_link, sidecar_files
from exporter.store.sqlite.open import IN_PLACE, integrity_check, known_version, make_whole, migrate, uri
from exporter.store.sqlite.transaction import number_of, put_many


def dump_file(path: Path) -> Iterator[Line]:
    """Yield all that a file holds; nobody else can open it meanwhile, and nothing is written to it.

    Raises:
        StoreError: it is not there, damaged, newer than this program, or in use.
    """
    with explained(path), ExitStack() as opened:
        path = resolve_link(path)
        if not path.exists():
            raise StoreError(f"there is no store {path}: give --store.url of the one that is to be dumped")
        if lock_file(path).exists():  # a backup has none, and may stand where nothing can be written
            opened.callback(FileLock(path, alone=True).release)
        how = IN_PLACE if any(file.exists() for file in sidecar_files(path)) else "mode=ro&immutable=1"
        connection = opened.enter_context(closing(sqlite3.connect(uri(path, how), uri=True)))
        connection.execute("BEGIN")
        integrity_check(connection)
        known_version(connection, path)
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        created, fold_settings_fingerprint = float(meta["created"]), meta.get("judged_by", "")
        yield Header(created, meta["secret"], meta["labels"], fold_settings_fingerprint, DUMP_VERSION)
        for (record,) in connection.execute("SELECT record FROM ledgers ORDER BY id"):
            yield LabelSet(decode_label_set(record))
        # No ledger is ever deleted, so that their ids have no gaps; the fleet's is 1.
        for state, label_set, due, record in connection.execute(
            "SELECT state, coalesce(ledger, 1), due, record FROM tasks ORDER BY id"
        ):
            yield KeptTask(STORED_STATES[state], label_set - 1, due, decode_task(record))
        for row in connection.execute(
            "SELECT reason, body, source, count, first, last FROM quarantine ORDER BY first, digest"
        ):
            yield Body(*row)


def load_file(path: Path, lines: Iterator[Line], *, replace: bool) -> None:
    """Make a store of the lines of a dump. It gets its name when it is whole, else nothing of it is left.

    Raises:
        StoreError: one is there already, without `replace`, or in use; or it can't be written.
    """
    with (
        new_store(path, replace=replace) as unfinished,
        closing(sqlite3.connect(unfinished, isolation_level=None)) as connection,
    ):
        # If anything fails the file is dropped: nothing is ever rolled back in it.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        migrate(connection, path)
        connection.execute("BEGIN")
        for line in lines:
            _put(connection, line)
        connection.execute("COMMIT")
        integrity_check(connection)
        make_whole(connection)


def _put(connection: sqlite3.Connection, line: Line) -> None:
    """Put a line into the file, whose tables number their rows by themselves."""
    match line:
        case Header():
            texts = {
                "secret": line.secret,
                "labels": line.labels,
                "judged_by": line.fold_settings_fingerprint,
            }
            rows = [("created", repr(line.created)), *texts.items()]
            connection.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", rows)
        case LabelSet(values=label_set):
            row = json.dumps(label_set.labels), encode(label_set)
            put_many(connection, "INSERT INTO ledgers (labels, record)", [row])
        case KeptTask(record=task):
            number = None if line.state == NONE else line.label_set + 1
            columns = "key, sources, state, ledger, due, record"
            place = number_of(task.sources), RANKS[line.state], number
            put_many(
                connection, f"INSERT INTO tasks ({columns})", [(key_of(task), *place, line.due, encode(task))]
            )
        case Body(body=body):
            columns = "digest, reason, body, source, count, first, last, size"
            digest = body_digest(body)
            facts = line.source, line.count, line.first, line.last, len(body)
            put_many(connection, f"INSERT INTO quarantine ({columns})", [(digest, line.reason, body, *facts)])
