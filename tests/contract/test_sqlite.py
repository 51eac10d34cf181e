"""What the embedded store promises beyond the contract: files, versions, damage, locks."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from exporter.errors import StoreError, StoreUnavailable
from exporter.store import Terms, sqlite
from exporter.store import file as module
from exporter.store.migrations import MIGRATIONS
from exporter.store.sqlite import SqliteStore
from tests.contract.test_snapshot import Reader
from tests.contract.test_store import count, ledgers, put, task


def opened(path: Path) -> SqliteStore:
    """Open the store in `path`."""
    return SqliteStore(path, Terms())


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """The file, what SQLite puts beside it, and a folder that was made for it."""
    store = opened(tmp_path / "new" / "relay.db")
    store.transact(count())
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    files = list((tmp_path / "new").iterdir())
    assert len(files) >= 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    store.close()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    """WAL with synchronous=FULL: a power cut loses nothing that was answered."""
    store = opened(tmp_path / "relay.db")
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_the_version_is_that_of_the_migrations(tmp_path: Path) -> None:
    """One step each; opening again migrates nothing."""
    path = tmp_path / "relay.db"
    opened(path).close()
    opened(path).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    connection.close()


def test_a_migration_runs_once_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that adds one finds the older store's tasks and numbers."""
    path = tmp_path / "relay.db"
    store = opened(path)
    store.transact(put(task("a")))
    store.transact(count(7))
    store.close()
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, ("ALTER TABLE tasks ADD COLUMN note TEXT",)))
    for _ in range(2):
        newer = opened(path)
        assert newer.find("4/a") is not None
        assert ledgers(newer)["4", "push.example.com"].values == {"tasks_started_total": 7}
        newer.close()


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    """This program does not know what it would break."""
    path = tmp_path / "relay.db"
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer one"):
        opened(path)


@pytest.mark.parametrize("damage", ["text", "header", "pages"])
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    """Never silently started over."""
    path = tmp_path / "relay.db"
    store = opened(path)
    store.transact(put(*(task(str(n)) for n in range(200))))
    store.close()
    raw = bytearray(path.read_bytes())
    spoilt = {
        "text": b"this is not a store\n" * 100,
        "header": b"\0" * 100 + bytes(raw[100:]),
        "pages": bytes(raw[:100]) + b"\xff" * (len(raw) - 100),
    }[damage]
    path.write_bytes(spoilt)
    with pytest.raises(StoreError, match=str(path)) as caught:
        opened(path)
    assert "move it away" in str(caught.value) or "restore a backup" in str(caught.value)
    assert path.read_bytes() == spoilt


def test_a_file_that_was_replaced_while_it_runs_is_noticed(tmp_path: Path) -> None:
    """What is written to a file without a name would be lost."""
    path = tmp_path / "relay.db"
    store = opened(path)
    path.rename(tmp_path / "away.db")
    with pytest.raises(StoreUnavailable):
        store.transact(count())
    opened(path).close()
    with pytest.raises(StoreUnavailable, match="replaced"):
        store.snapshot(1)
    store.close()


def test_what_was_shown_is_not_shown_when_the_file_was_replaced(tmp_path: Path) -> None:
    """Nothing of it, though nothing would have to be read."""
    path = tmp_path / "relay.db"
    store = opened(path)
    store.transact(put(task("a")))
    reader = Reader(store, 9)
    reader.shown()
    path.rename(tmp_path / "away.db")
    opened(path).close()
    with pytest.raises(StoreUnavailable, match="replaced"):
        reader.read()
    store.close()


def test_a_commit_that_failed_hides_nothing_that_another_process_commits(tmp_path: Path) -> None:
    """Their commit has the number that this one would have had."""
    store, other = opened(tmp_path / "relay.db"), opened(tmp_path / "relay.db")
    store.transact(put(task("a"), task("b")))
    reader = Reader(store, 9)
    reader.shown()
    end = store.prepare(put(task("a", "E")), wait=True)
    store._writer.set_authorizer(
        lambda action, what, *_: (
            sqlite3.SQLITE_DENY
            if (action, what) == (sqlite3.SQLITE_TRANSACTION, "COMMIT")
            else sqlite3.SQLITE_OK
        )
    )
    with pytest.raises(StoreUnavailable, match="not authorized"):
        end()
    store._writer.set_authorizer(None)
    other.transact(put(task("b", "E")))
    assert reader.shown() == reader.afresh()
    store.transact(put(task("a", "E")))
    assert reader.shown() == reader.afresh()
    store.close()
    other.close()


def test_a_file_that_is_damaged_while_it_is_open_is_written_no_more(tmp_path: Path) -> None:
    """Also where the damage would not be met: what is answered must be worth it."""
    path = tmp_path / "relay.db"
    store = opened(path)
    store.transact(put(*(task(str(n)) for n in range(200))))
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.transact(count())
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreUnavailable, match=r"relay.db: .*damaged"):
        store.snapshot(10)
    path.write_bytes(whole)
    for work in (lambda: store.transact(count()), store.probe, lambda: store.find("4/1")):
        with pytest.raises(StoreUnavailable, match="damaged"):
            work()
    store.close()
    store = opened(path)
    assert store.snapshot(1).left_out == 199
    store.close()


def test_a_store_that_could_not_be_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file would look like a store that has lost all it held."""
    path = tmp_path / "relay.db"

    def fail(*_: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "connect", fail)
        with pytest.raises(StoreError, match="free some space"):
            opened(path)
    assert not path.exists()
    opened(path).close()


def test_a_lock_held_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    """Another process writes: the step comes after it."""
    path = tmp_path / "relay.db"
    store = opened(path)
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: holder.execute("COMMIT")).start()
    begun = time.monotonic()
    store.transact(count())
    assert time.monotonic() - begun >= 0.25
    assert ledgers(store)["4", "push.example.com"].values == {"tasks_started_total": 1}
    holder.close()
    store.close()


def test_a_lock_held_for_long_is_told_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is asked to come again."""
    monkeypatch.setattr(sqlite, "BUSY_MILLISECONDS", 100)
    path = tmp_path / "relay.db"
    store = opened(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.transact(count())
    assert ledgers(store) == {}
    holder.execute("COMMIT")
    store.transact(count())
    assert len(ledgers(store)) == 1
    holder.close()
    store.close()


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    """A process that ends without any goodbye, twenty steps in."""
    path = tmp_path / "relay.db"
    program = (
        "import os, sys; from pathlib import Path; from tests.contract.test_sqlite import *\n"
        "store = opened(Path(sys.argv[1]))\n"
        "for _ in range(20): store.transact(count())\n"
        "os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env={**os.environ, "PYTHONPATH": "."}, check=False
    )
    assert done.returncode == 9
    store = opened(path)
    assert ledgers(store)["4", "push.example.com"].values == {"tasks_started_total": 20}
    store.close()
