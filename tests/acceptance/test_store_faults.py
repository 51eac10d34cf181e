"""Faults of the file and of the clock: callers come again, nothing answered 200 is lost, and it is told."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.commands import run
from tests.support import Answer, Exporter, running, sample, tool, until

pytestmark = pytest.mark.embedded

TASKS = 150
#: Said, for those who debug, by a sweep that finds the store down.
SWEEP = "sweep: "


def post(exporter: Exporter, number: int) -> Answer:
    """Send the start of a task."""
    return exporter.post(sample("documented/task_start").replace(b"118148", str(number).encode()))


def fill(exporter: Exporter, numbers: range) -> None:
    """Send the starts of tasks, all of which are kept."""
    assert {post(exporter, number)[0] for number in numbers} == {200}


def assert_down(exporter: Exporter, sign: str) -> None:
    """Assert that it answers, keeps nothing, and says why."""
    # A page that SQLite still has in memory is not read again.
    until(lambda: exporter.scrape() and post(exporter, 10**6)[0] == 503, "the fault is noticed")
    status, headers, _ = post(exporter, 10**6)
    assert (status, headers["retry-after"]) == (503, "5")
    until(lambda: exporter.scrape().value("exporter_store_up") == 0, "it is told")
    assert exporter.scrape().value("callbacks_rejected_total", reason="unavailable") > 0
    assert exporter.get("/-/healthy")[0] == 200
    assert exporter.get("/-/ready")[0] == 503
    assert re.search(rf"level=error .*store data/css-relay.db: .*{sign}", exporter.log)


@pytest.mark.parametrize("damage", ["overwritten", "cut"])
def test_a_file_that_is_damaged_while_it_is_served_is_written_no_more(tmp_path: Path, damage: str) -> None:
    """503 from the first sign on, and all that was answered 200 is there when the disk gives it back."""
    with running(tmp_path, log__level="debug") as exporter:
        fill(exporter, range(TASKS))
        assert exporter.stop() == 0  # everything is in the one file now
        exporter.start()
        fill(exporter, range(TASKS, 2 * TASKS))
        store = tmp_path / "data" / "css-relay.db"
        whole = store.read_bytes()
        with store.open("r+b") as file:
            if damage == "cut":
                file.truncate(8192)
            else:
                file.seek(4096)
                file.write(b"\xff" * (len(whole) - 4096))
        assert_down(exporter, "damaged")
        swept = exporter.log.count(SWEEP)
        until(lambda: exporter.log.count(SWEEP) > swept + 2, "it has looked again and again")
        assert post(exporter, 10**6)[0] == 503, "it does not forget"
        assert "damaged" in run(tmp_path, "check", status=1)
        assert "damaged" in run(tmp_path, "backup", "copy.db", status=1)
        assert not (tmp_path / "copy.db").exists()
        exporter.kill()
        store.write_bytes(whole)
        exporter.start()
        assert "passed the integrity check" in run(tmp_path, "check")
        assert exporter.scrape().value("tasks_started_total") == 2 * TASKS
        assert exporter.scrape().value("tasks") == 2 * TASKS


def test_a_store_that_lost_all_it_held_is_not_started_over(tmp_path: Path) -> None:
    """The start ends with a line that says how to go on; so does that of one which would look at it."""
    store = tmp_path / "data" / "css-relay.db"
    with running(tmp_path) as exporter:
        fill(exporter, range(3))
        assert exporter.stop() == 0
    store.write_bytes(b"")
    for command in ("serve", "check", "tasks list", "quarantine list"):
        said = run(tmp_path, *command.split(), status=1)
        assert "css-relay.db has lost all its data; delete the file" in said
        assert "Traceback" not in said
    assert store.read_bytes() == b""
    store.unlink()
    with running(tmp_path) as exporter:
        assert exporter.scrape().value("tasks") == 0


@contextmanager
def immutable(*files: Path) -> Iterator[None]:
    """Make files that are open refuse writes, as a disk does that turned read-only."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a file immutable")
    done = subprocess.run([tool("chattr"), "+i", *files], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this file system has no immutable files: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run([tool("chattr"), "-i", *files], check=True)


def test_a_file_that_turns_read_only_while_it_is_served_loses_nothing(tmp_path: Path) -> None:
    """503 until it can be written again; then it goes on by itself."""
    with running(tmp_path) as exporter:
        fill(exporter, range(9))
        folder = tmp_path / "data"
        with immutable(folder / "css-relay.db", folder / "css-relay.db-wal"):
            assert_down(exporter, "disk")
        until(lambda: exporter.scrape().value("exporter_store_up") == 1, "it goes on by itself")
        exporter.until_ready()
        fill(exporter, range(9, 12))
        assert exporter.scrape().value("tasks_started_total") == 12


def test_a_read_only_file_system_ends_the_start_with_a_line(tmp_path: Path) -> None:
    """Once it can be written, all is as before."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "data"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    try:
        with running(tmp_path) as exporter:
            fill(exporter, range(3))
            assert exporter.stop() == 0
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            said = run(tmp_path, "serve", status=1)
            assert "css-relay.db" in said
            assert "make the file system writable" in said
            assert said.count("\n") == 1
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
            exporter.start()
            assert exporter.scrape().value("tasks_started_total") == 3
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
