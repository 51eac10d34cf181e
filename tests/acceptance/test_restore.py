"""Backups made under load and their restores: consistent, with a new generation of counters."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from exporter import cli
from tests.acceptance.commands import run
from tests.acceptance.load import Sender
from tests.support import Exporter, Scrape, running, sample

pytestmark = pytest.mark.embedded

#: Kills the process before a step on the files of the store, by an audit hook of the interpreter. For example
#: `sqlite3.connect 2` is the second time that one of these files is opened as a database.
KILLED_AT = """
import collections, os, signal, sys
counts = collections.Counter()

def on_event(step, arguments):
    if any("css-relay.db" in str(argument) for argument in arguments):
        counts[step] += 1
        if f"{step} {counts[step]}" == os.environ["KILLED_AT"]:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(on_event)
"""
#: Steps of a restore: while leftover files are removed, before the copy, before its counters are reset,
#: before its check, and before it is renamed.
KILL_STEPS = ("os.remove 2", "sqlite3.connect 1", "sqlite3.connect 2", "sqlite3.connect 3", "os.rename 1")
COUNTERS = {
    "TaskStart": "tasks_started_total",
    "VodSourceFileStart": "files_started_total",
    "VodSourceFileFinish": "files_played_total",
    "TaskExit": "tasks_exited_total",
}


def restored(copy: Path, folder: Path) -> Exporter:
    """Restore a backup into a new folder; return a running exporter on it."""
    folder.mkdir()
    output = run(folder, "restore", str(copy))
    assert "counters start at 0" in output
    assert (folder / "data" / "css-relay.db").stat().st_mode & 0o777 == 0o600
    return Exporter(folder).start()


def counted(scrape: Scrape) -> float:
    """Return the sum of all counters of the store."""
    names = {name for name, _ in scrape.samples if name.endswith(("_total", "_count", "_sum"))}
    return sum(
        value
        for (name, _), value in scrape.samples.items()
        if name in names and "_exporter_" not in name and name != "css_relay_callbacks_rejected_total"
        if name.startswith("css_relay_")
    )


def test_backups_are_consistent_at_any_time(tmp_path: Path) -> None:
    """A backup has everything committed before it; the counters of a restored store start at 0.

    Two backups are made under load, and one without load, when the newest commits are only in the WAL file.
    """
    source = tmp_path / "source"
    source.mkdir()
    with running(source) as exporter:
        exporter.post(b"{")
        for number in range(2):
            with Sender(lambda: [exporter.ports["callbacks"]], seed=number, connections=4) as sender:
                sender.until_accepted(60)
                before, copy = exporter.scrape(), tmp_path / f"{number}.db"
                run(source, "backup", str(copy))
                after = exporter.scrape()
            check(exporter, copy, before, after)
        assert (source / "data" / "css-relay.db-wal").stat().st_size > 0
        copy = tmp_path / "rest.db"
        run(source, "backup", str(copy))
        now = exporter.scrape()
        check(exporter, copy, now, now)


def check(exporter: Exporter, copy: Path, before: Scrape, after: Scrape) -> None:
    """Check that a backup is from between two scrapes, and that its restore is complete."""
    assert copy.stat().st_mode & 0o777 == 0o600
    check_backup(copy, before, after)
    second = restored(copy, copy.with_suffix(""))
    try:
        check_restored(second, copy, exporter.scrape())
    finally:
        second.kill()


def check_backup(copy: Path, before: Scrape, after: Scrape) -> None:
    """Check that a backup is a snapshot from between two scrapes: its counters match its tasks."""
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tasks = connection.execute("SELECT count(*) FROM tasks").fetchone()[0]
        records = connection.execute("SELECT record FROM ledgers").fetchall()
    values = [json.loads(record)[2] for (record,) in records]
    numbers = {event: sum(v.get(name, 0) for v in values) for event, name in COUNTERS.items()}
    numbers["TaskExit"] = sum(n for v in values for k, n in v.items() if k.startswith("tasks_exited_total "))
    for event, name in COUNTERS.items():
        applied = sum(v.get(f"callbacks_total {event} applied", 0) for v in values)
        assert applied == numbers[event], event
        assert before.value(name) <= applied <= after.value(name)
    assert numbers["TaskStart"] == tasks


def check_restored(second: Exporter, copy: Path, first: Scrape) -> None:
    """Check that a restored store has all tasks of the backup, counters at 0, and a later generation."""
    scrape = second.scrape()
    with closing(sqlite3.connect(copy)) as connection:
        tasks = connection.execute("SELECT count(*) FROM tasks").fetchone()[0]
        (key,) = connection.execute("SELECT key FROM tasks WHERE key LIKE '4/%' LIMIT 1").fetchone()
    assert scrape.value("tasks") == tasks
    assert counted(scrape) == 0
    assert scrape.value("quarantined_callbacks") == 1
    created = "store_created_timestamp_seconds"
    assert scrape.value(created) > first.value(created)
    assert len([1 for name, _ in scrape.samples if name == "css_relay_tasks_started_total"]) == 1
    assert second.get(f"/api/v1/tasks/{key}")[0] == 200


def test_redeliveries_are_recognized_after_a_restore(tmp_path: Path) -> None:
    """Tasks keep the identities of their callbacks; new callbacks are counted; the secret is the same."""
    source = tmp_path / "source"
    source.mkdir()
    body = sample("derived/task_exit_full")
    with running(source) as exporter:
        now = int(time.time())
        first = json.dumps(
            {
                "appid": 4,
                "event_type": 314,
                "callback_event": "TaskStart",
                "task_id": "x",
                "event_time": now,
                "to_url": "rtmp://push.example.com/live/key",
                "msg": {"task_start_time": now * 1000},
            }
        ).encode()
        assert exporter.post(first)[0] == exporter.post(body)[0] == 200
        shown = json.loads(exporter.get("/api/v1/tasks/4/x")[2])["task"]["to_url"]
        run(source, "backup", str(tmp_path / "copy.db"))
    second = restored(tmp_path / "copy.db", tmp_path / "second")
    try:
        assert second.post(first)[0] == 200
        scrape = second.scrape()
        assert scrape.value("callbacks_total", outcome="duplicate") == 1
        assert scrape.value("tasks_started_total") == scrape.value("task_runs_total", task_id="x") == 0
        again = json.loads(first) | {"event_time": now + 1, "msg": {"task_start_time": (now + 1) * 1000}}
        assert second.post(json.dumps(again).encode())[0] == 200
        assert second.scrape().value("tasks_started_total") == 1
        assert second.scrape().value("task_runs_total", task_id="x") == 1
        assert json.loads(second.get("/api/v1/tasks/4/x")[2])["task"]["to_url"] == shown
    finally:
        second.kill()


def test_a_restore_replaces_no_store_in_use_or_without_replace(tmp_path: Path) -> None:
    """It fails while a process uses the store, without --replace, and beside files of another store."""
    copy = tmp_path / "copy.db"
    with running(tmp_path) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        run(tmp_path, "backup", str(copy))
        assert "already exists; give another path" in run(tmp_path, "backup", str(copy), status=1)
        run(tmp_path, "backup", str(copy), "--replace")
        assert "already exists; give another path" in run(tmp_path, "restore", str(copy), status=1)
        assert "stop every process" in run(tmp_path, "restore", str(copy), "--replace", status=1)
        assert exporter.scrape().value("tasks_started_total") == 1
        assert exporter.stop(signal.SIGTERM) == 0
        run(tmp_path, "restore", str(copy), "--replace")
        exporter.start()
        assert exporter.scrape().value("tasks_started_total") == 0
        assert exporter.scrape().value("tasks", state="active") == 1
        exporter.kill()
        store = tmp_path / "data" / "css-relay.db"
        wal = store.with_name("css-relay.db-wal")
        assert wal.stat().st_size > 0
        store.unlink()
        message = run(tmp_path, "restore", str(copy), status=1)
        assert "css-relay.db-wal, css-relay.db-shm next to it" in message
        assert not store.exists()
        wal.unlink()
        store.with_name("css-relay.db-shm").unlink()
        run(tmp_path, "restore", str(copy))
    assert sorted(os.listdir(tmp_path / "data")) == ["css-relay.db", "css-relay.db-lock"]


def test_a_restore_that_is_killed_leaves_the_old_store_or_the_new_one(tmp_path: Path) -> None:
    """The store is complete in both cases, and leftover files do not disturb the next restore."""
    store = tmp_path / "data" / "css-relay.db"
    (tmp_path / "sitecustomize.py").write_text(KILLED_AT)
    with running(tmp_path) as exporter:
        for number in range(50):
            exporter.post(sample("documented/task_start").replace(b"118148", str(number).encode()))
        run(tmp_path, "backup", "copy.db")
        exporter.stop()
    for step in KILL_STEPS:
        process = subprocess.run(
            [sys.executable, "-m", "exporter", "restore", "copy.db", "--replace"],
            cwd=tmp_path,
            env={**exporter.environment, "PYTHONPATH": str(tmp_path), "KILLED_AT": step},
            check=False,
        )
        assert process.returncode == -signal.SIGKILL, step
        with closing(sqlite3.connect(store)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], step
            assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (50,), step
    assert any(store.parent.glob("*-unfinished*"))
    run(tmp_path, "restore", "copy.db", "--replace")
    assert not any(store.parent.glob("*-unfinished*"))
    exporter.start()
    assert exporter.scrape().value("tasks", state="active") == 50
    assert counted(exporter.scrape()) == 0
    exporter.kill()


@pytest.mark.parametrize("what", ["text", "nothing", "cut", "other", "missing"])
def test_an_invalid_backup_is_refused_and_changes_nothing(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is one line that names the file."""
    copy, store = tmp_path / "copy.db", tmp_path / "relay.db"
    url = f"--store.url=sqlite:{store}"
    assert cli.main(["check", url]) == cli.main(["backup", str(copy), url]) == 0
    backup_bytes, before = copy.read_bytes(), store.read_bytes()
    copy.unlink()
    if what == "other":
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("CREATE TABLE x (y)")
    elif what != "missing":
        copy.write_bytes(
            {"text": b"nonsense" * 999, "nothing": b"", "cut": backup_bytes[: len(backup_bytes) // 2]}[what]
        )
    capsys.readouterr()
    assert cli.main(["restore", str(copy), "--replace", url]) == 1
    output = capsys.readouterr().err
    assert str(copy) in output
    assert output.count("\n") == 1
    assert store.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} - {"copy.db"} == {"relay.db", "relay.db-lock"}
