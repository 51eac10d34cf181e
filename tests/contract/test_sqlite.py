"""The embedded store beyond the contract: files, versions, damage, locks."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from exporter.errors import StoreError, StoreUnavailable
from exporter.store.protocol import StoreOptions
from exporter.store.sqlite import open as module
from exporter.store.sqlite import store as sqlite
from exporter.store.sqlite.backup import back_up, restore
from exporter.store.sqlite.dump import dump_file, load_file
from exporter.store.sqlite.open import MIGRATIONS
from exporter.store.sqlite.store import SqliteStore
from tests.contract.test_snapshot import Reader
from tests.contract.test_store import count, label_sets, put, task
from tests.support import until


def opened(path: Path) -> SqliteStore:
    """Open the store in `path`."""
    return SqliteStore(path, StoreOptions())


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    """Only the owner may read the file, the files beside it, and a folder created for it."""
    store = opened(tmp_path / "new" / "relay.db")
    store.transact(count())
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    files = list((tmp_path / "new").iterdir())
    assert len(files) >= 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    store.close()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    """Every commit is synced (WAL, synchronous=FULL): a power cut loses nothing that was answered."""
    store = opened(tmp_path / "relay.db")
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_the_version_is_that_of_the_last_migration(tmp_path: Path) -> None:
    """A store has the version of the last migration, and opening it again migrates nothing."""
    path = tmp_path / "relay.db"
    opened(path).close()
    opened(path).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    connection.close()


def test_a_migration_runs_once_and_keeps_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new migration runs once and keeps the older store's tasks and numbers."""
    path = tmp_path / "relay.db"
    store = opened(path)
    store.transact(put(task("a")))
    store.transact(count(7))
    store.close()
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, ("ALTER TABLE tasks ADD COLUMN note TEXT",)))
    for _ in range(2):
        newer = opened(path)
        assert newer.find_task("4/a") is not None
        assert label_sets(newer)["4", "push.example.com"].values == {"tasks_started_total": 7}
        newer.close()


def test_records_are_text_in_a_restored_and_in_a_loaded_store_too(tmp_path: Path) -> None:
    """SQLite would keep bytes as they are: queries and tools would then find another type than before."""
    path, copy, restored, loaded = (
        tmp_path / name for name in ("relay.db", "copy.db", "new.db", "loaded.db")
    )
    store = opened(path)
    store.transact(put(task("a")))
    store.transact(count(7))
    store.close()
    back_up(path, copy, replace=False)
    restore(copy, restored, replace=False, now=2000.0)
    load_file(loaded, dump_file(copy), replace=False)
    for file in (path, restored, loaded):
        with closing(sqlite3.connect(file)) as connection:
            for table in ("tasks", "ledgers"):
                kinds = connection.execute(f"SELECT DISTINCT typeof(record) FROM {table}").fetchall()
                assert kinds == [("text",)], (file, table)


def test_a_store_in_use_is_restored_with_its_log_through_a_link_too(tmp_path: Path) -> None:
    """The newest commits are in the write-ahead log, next to the store itself."""
    path, link, restored = (tmp_path / "store" / "relay.db", tmp_path / "link.db", tmp_path / "new.db")
    store = opened(path)
    store.transact(put(task("a")))
    link.symlink_to(path)
    restore(link, restored, replace=False, now=2000.0)
    store.close()
    copy = opened(restored)
    assert copy.find_task("4/a") is not None
    copy.close()


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    """A store of a newer version is refused."""
    path = tmp_path / "relay.db"
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer one"):
        opened(path)


@pytest.mark.parametrize("damage", ["text", "header", "pages"])
def test_a_damaged_file_is_named_and_not_changed(tmp_path: Path, damage: str) -> None:
    """The error has the path. The file is not replaced by a new store."""
    path = tmp_path / "relay.db"
    store = opened(path)
    store.transact(put(*(task(str(n)) for n in range(200))))
    store.close()
    raw = bytearray(path.read_bytes())
    damaged = {
        "text": b"this is not a store\n" * 100,
        "header": b"\0" * 100 + bytes(raw[100:]),
        "pages": bytes(raw[:100]) + b"\xff" * (len(raw) - 100),
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=str(path)) as caught:
        opened(path)
    assert "move it away" in str(caught.value) or "restore a backup" in str(caught.value)
    assert path.read_bytes() == damaged


def test_a_file_that_is_replaced_while_it_is_open_is_detected(tmp_path: Path) -> None:
    """A file that was moved or replaced is detected, because writes to it would be lost."""
    path = tmp_path / "relay.db"
    store = opened(path)
    path.rename(tmp_path / "away.db")
    with pytest.raises(StoreUnavailable):
        store.transact(count())
    opened(path).close()
    with pytest.raises(StoreUnavailable, match="replaced"):
        store.snapshot(1)
    store.close()


def test_nothing_is_shown_of_a_replaced_file(tmp_path: Path) -> None:
    """A replaced file is detected also if all lines are cached and nothing has to be read."""
    path = tmp_path / "relay.db"
    store = opened(path)
    store.transact(put(task("a")))
    reader = Reader(store, 9)
    reader.shown()
    path.rename(tmp_path / "away.db")
    opened(path).close()
    with pytest.raises(StoreUnavailable, match="replaced"):
        reader.shown()
    store.close()


def test_a_failed_commit_hides_no_commit_of_another_process(tmp_path: Path) -> None:
    """The other process's commit gets the number of the failed one."""
    store, other = opened(tmp_path / "relay.db"), opened(tmp_path / "relay.db")
    store.transact(put(task("a"), task("b")))
    reader = Reader(store, 9)
    reader.shown()
    prepared = store.begin(put(task("a", "E")), wait=True)
    store._writer.set_authorizer(
        lambda action, what, *_: (
            sqlite3.SQLITE_DENY
            if (action, what) == (sqlite3.SQLITE_TRANSACTION, "COMMIT")
            else sqlite3.SQLITE_OK
        )
    )
    with pytest.raises(StoreUnavailable, match="not authorized"):
        prepared.commit()
    store._writer.set_authorizer(None)
    other.transact(put(task("b", "E")))
    assert reader.shown() == reader.without_cache()
    store.transact(put(task("a", "E")))
    assert reader.shown() == reader.without_cache()
    store.close()
    other.close()


def test_a_file_that_is_damaged_while_it_is_open_is_not_written_any_more(tmp_path: Path) -> None:
    """It is neither written nor read until it is opened again."""
    path = tmp_path / "relay.db"
    store = opened(path)
    store.transact(put(*(task(str(n)) for n in range(200))))
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.transact(count())
    # All but the first page is damaged: the file is still recognized as SQLite.
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreUnavailable, match=r"relay.db: .*damaged"):
        store.snapshot(10)
    path.write_bytes(whole)
    for work in (lambda: store.transact(count()), store.probe, lambda: store.find_task("4/1")):
        with pytest.raises(StoreUnavailable, match="damaged"):
            work()
    store.close()
    store = opened(path)
    assert store.snapshot(1).left_out == 199
    store.close()


def test_a_store_that_could_not_be_created_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file would look like a store that has lost all its data."""
    path = tmp_path / "relay.db"

    def fail(*_: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "connect", fail)
        with pytest.raises(StoreError, match="free some space"):
            opened(path)
    assert not path.exists()
    opened(path).close()


def test_a_transaction_waits_for_a_lock(tmp_path: Path) -> None:
    """A transaction waits for the lock of another process, and runs after it."""
    path = tmp_path / "relay.db"
    store = opened(path)
    events: list[str] = []
    store._writer.set_trace_callback(lambda statement: events.append(statement.partition(" ")[0]))
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        transaction = threading.Thread(target=lambda: store.transact(count()))
        transaction.start()
        until(lambda: "BEGIN" in events and is_asleep(transaction), "the transaction finds the lock held")
        events.append("the lock is released")
        holder.execute("COMMIT")
        transaction.join()
    released = events.index("the lock is released")
    assert (events[released - 1], events[-1]) == ("BEGIN", "COMMIT")
    assert label_sets(store)["4", "push.example.com"].values == {"tasks_started_total": 1}
    store.close()


def is_asleep(thread: threading.Thread) -> bool:
    """Return whether a thread sleeps now, as SQLite does between two attempts to lock."""
    if not thread.is_alive():
        return True  # the thread has finished, so it did not wait
    status = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "S"


def test_a_transaction_that_waits_too_long_for_a_lock_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says that the store is locked."""
    monkeypatch.setattr(sqlite, "BUSY_MS", 100)
    path = tmp_path / "relay.db"
    store = opened(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.transact(count())
    assert label_sets(store) == {}
    holder.execute("COMMIT")
    store.transact(count())
    assert len(label_sets(store)) == 1
    holder.close()
    store.close()


def test_commits_survive_a_kill(tmp_path: Path) -> None:
    """Twenty commits of a process that is killed right after them are in the store."""
    path = tmp_path / "relay.db"
    program = (
        "import os, sys; from pathlib import Path\n"
        "from exporter.store.protocol import StoreOptions\n"
        "from exporter.store.sqlite.store import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1]), StoreOptions())\n"
        "counted, labels = [('tasks_started_total', '', 1)], ('4', 'push.example.com')\n"
        "for _ in range(20): store.transact(lambda t: t.increments.record(counted, labels, 't', 9.0))\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    store = opened(path)
    assert label_sets(store)["4", "push.example.com"].values == {"tasks_started_total": 20}
    store.close()
