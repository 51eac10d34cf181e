"""Backups taken under load, and what is restored of them: consistent, and a new generation of counters."""

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

#: Ends the process at a step with the store's file or one beside it, of which the interpreter tells before it
#: is made: `sqlite3.connect 2` is the second time that one is opened as a database.
KILLED_AT = """
import collections, os, signal, sys
made = collections.Counter()

def told(step, arguments):
    if any("css-relay.db" in str(argument) for argument in arguments):
        made[step] += 1
        if f"{step} {made[step]}" == os.environ["KILLED_AT"]:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(told)
"""
#: The new store has its name; the copy is begun; is there, but not of the new generation yet; is whole; is to
#: get its name.
STEPS = ("os.remove 2", "sqlite3.connect 1", "sqlite3.connect 2", "sqlite3.connect 3", "os.rename 1")
COUNTERS = {
    "TaskStart": "tasks_started_total",
    "VodSourceFileStart": "files_started_total",
    "VodSourceFileFinish": "files_played_total",
    "TaskExit": "tasks_exited_total",
}


def restored(copy: Path, folder: Path) -> Exporter:
    """Return a running exporter on what is restored of a backup."""
    folder.mkdir()
    said = run(folder, "restore", str(copy))
    assert "counters start at 0" in said
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


def test_restores_from_backups_are_consistent_whenever_they_were_made(tmp_path: Path) -> None:
    """Each has all that was kept before it, whole; its counters begin at 0; redeliveries are still told.

    Made while commits go on, twice; and while nobody sends, the newest commits being beside the file alone.
    """
    source = tmp_path / "source"
    source.mkdir()
    with running(source) as exporter:
        exporter.post(b"{")
        for number in range(2):
            with Sender(lambda: [exporter.ports["callbacks"]], seed=number, connections=4) as sender:
                sender.until_kept(60)
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
    """A backup is of a moment between two scrapes, and what is restored of it has all."""
    assert copy.stat().st_mode & 0o777 == 0o600
    check_backup(copy, before, after)
    second = restored(copy, copy.with_suffix(""))
    try:
        check_restored(second, copy, exporter.scrape())
    finally:
        second.kill()


def check_backup(copy: Path, before: Scrape, after: Scrape) -> None:
    """It stands for one moment between two scrapes: what is counted is what its tasks say."""
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
    """All tasks of the backup, no counter above 0, a later generation, and no redelivery counts."""
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


def test_redeliveries_are_still_told_after_a_restore(tmp_path: Path) -> None:
    """Identities stay with their tasks; new callbacks go on from there, and the secret is the same."""
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


def test_a_restore_touches_no_store_that_is_served_or_was_not_given_up(tmp_path: Path) -> None:
    """Not while a process serves it, not without --replace, not with what is left of another beside it."""
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
        assert "css-relay.db-wal, css-relay.db-shm beside it" in run(tmp_path, "restore", str(copy), status=1)
        assert not store.exists()
        wal.unlink()
        store.with_name("css-relay.db-shm").unlink()
        run(tmp_path, "restore", str(copy))
    assert sorted(os.listdir(tmp_path / "data")) == ["css-relay.db", "css-relay.db-lock"]


def test_a_restore_that_is_killed_leaves_the_old_store_or_the_new_one(tmp_path: Path) -> None:
    """Whole either way, and the next one is not hindered by what was left of it."""
    store = tmp_path / "data" / "css-relay.db"
    (tmp_path / "sitecustomize.py").write_text(KILLED_AT)
    with running(tmp_path) as exporter:
        for number in range(50):
            exporter.post(sample("documented/task_start").replace(b"118148", str(number).encode()))
        run(tmp_path, "backup", "copy.db")
        exporter.stop()
    for transaction in STEPS:
        process = subprocess.run(
            [sys.executable, "-m", "exporter", "restore", "copy.db", "--replace"],
            cwd=tmp_path,
            env={**exporter.environment, "PYTHONPATH": str(tmp_path), "KILLED_AT": transaction},
            check=False,
        )
        assert process.returncode == -signal.SIGKILL, transaction
        with closing(sqlite3.connect(store)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], transaction
            assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (50,), transaction
    assert any(store.parent.glob("*-unfinished*"))
    run(tmp_path, "restore", "copy.db", "--replace")
    assert not any(store.parent.glob("*-unfinished*"))
    exporter.start()
    assert exporter.scrape().value("tasks", state="active") == 50
    assert counted(exporter.scrape()) == 0
    exporter.kill()


@pytest.mark.parametrize("what", ["text", "nothing", "cut", "other", "missing"])
def test_what_is_no_backup_is_refused_and_leaves_the_store_alone(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a line that names the file."""
    copy, store = tmp_path / "copy.db", tmp_path / "relay.db"
    url = f"--store.url=sqlite:{store}"
    assert cli.main(["check", url]) == cli.main(["backup", str(copy), url]) == 0
    whole, before = copy.read_bytes(), store.read_bytes()
    copy.unlink()
    if what == "other":
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("CREATE TABLE x (y)")
    elif what != "missing":
        copy.write_bytes({"text": b"nonsense" * 999, "nothing": b"", "cut": whole[: len(whole) // 2]}[what])
    capsys.readouterr()
    assert cli.main(["restore", str(copy), "--replace", url]) == 1
    said = capsys.readouterr().err
    assert str(copy) in said
    assert said.count("\n") == 1
    assert store.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} - {"copy.db"} == {"relay.db", "relay.db-lock"}
