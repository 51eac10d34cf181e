"""Faults of the store file: callbacks get 503, the fault is reported, and nothing answered 200 is lost."""

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
#: The debug log line of a sweep that fails because the store is down.
SWEEP = "sweep failed; it is tried again: "


def post(exporter: Exporter, number: int) -> Answer:
    """Send the start of a task."""
    return exporter.post(sample("documented/task_start").replace(b"118148", str(number).encode()))


def fill(exporter: Exporter, numbers: range) -> None:
    """Send the starts of tasks; check that all are accepted."""
    assert {post(exporter, number)[0] for number in numbers} == {200}


def assert_down(exporter: Exporter, sign: str) -> None:
    """Assert that callbacks get 503, the web listener answers, and the log names the cause."""
    # SQLite may still answer from pages in memory, so several requests may be needed.
    until(lambda: exporter.scrape() and post(exporter, 10**6)[0] == 503, "the fault is noticed")
    status, headers, _ = post(exporter, 10**6)
    assert (status, headers["retry-after"]) == (503, "5")
    until(lambda: exporter.scrape().value("exporter_store_up") == 0, "the fault is reported")
    assert exporter.scrape().value("callbacks_rejected_total", reason="unavailable") > 0
    assert exporter.get("/-/healthy")[0] == 200
    assert exporter.get("/-/ready")[0] == 503
    assert re.search(rf"level=error .*store data/css-relay.db: .*{sign}", exporter.log)


@pytest.mark.parametrize("damage", ["overwritten", "cut"])
def test_a_store_file_damaged_at_run_time_is_not_written(tmp_path: Path, damage: str) -> None:
    """Callbacks get 503 from the first error on; with the intact file, everything answered 200 is there."""
    with running(tmp_path, log__level="debug") as exporter:
        fill(exporter, range(TASKS))
        assert exporter.stop() == 0  # the WAL file is merged into the store file
        exporter.start()
        fill(exporter, range(TASKS, 2 * TASKS))
        store = tmp_path / "data" / "css-relay.db"
        intact = store.read_bytes()
        with store.open("r+b") as file:
            if damage == "cut":
                file.truncate(8192)
            else:
                file.seek(4096)
                file.write(b"\xff" * (len(intact) - 4096))
        assert_down(exporter, "damaged")
        swept = exporter.log.count(SWEEP)
        until(lambda: exporter.log.count(SWEEP) > swept + 2, "several sweeps have failed")
        assert post(exporter, 10**6)[0] == 503, "the store stays down"
        assert "damaged" in run(tmp_path, "check", status=1)
        assert "damaged" in run(tmp_path, "backup", "copy.db", status=1)
        assert not (tmp_path / "copy.db").exists()
        exporter.kill()
        store.write_bytes(intact)
        exporter.start()
        assert "passed the integrity check" in run(tmp_path, "check")
        assert exporter.scrape().value("tasks_started_total") == 2 * TASKS
        assert exporter.scrape().value("tasks") == 2 * TASKS


def test_an_emptied_store_file_is_not_replaced(tmp_path: Path) -> None:
    """`serve` and the commands end with a line that says what to do."""
    store = tmp_path / "data" / "css-relay.db"
    with running(tmp_path) as exporter:
        fill(exporter, range(3))
        assert exporter.stop() == 0
    store.write_bytes(b"")
    for command in ("serve", "check", "tasks list", "quarantine list"):
        output = run(tmp_path, *command.split(), status=1)
        assert "css-relay.db has lost all its data; delete the file" in output
        assert "Traceback" not in output
    assert store.read_bytes() == b""
    store.unlink()
    with running(tmp_path) as exporter:
        assert exporter.scrape().value("tasks") == 0


@contextmanager
def immutable(*files: Path) -> Iterator[None]:
    """Make open files refuse writes, like a disk that has become read-only."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a file immutable")
    done = subprocess.run([tool("chattr"), "+i", *files], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this file system has no immutable files: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run([tool("chattr"), "-i", *files], check=True)


def test_a_store_file_that_becomes_read_only_loses_nothing(tmp_path: Path) -> None:
    """Callbacks get 503 until the file is writable again; then the exporter recovers."""
    with running(tmp_path) as exporter:
        fill(exporter, range(9))
        folder = tmp_path / "data"
        with immutable(folder / "css-relay.db", folder / "css-relay.db-wal"):
            assert_down(exporter, "disk")
        until(lambda: exporter.scrape().value("exporter_store_up") == 1, "the store is up again")
        exporter.until_ready()
        fill(exporter, range(9, 12))
        assert exporter.scrape().value("tasks_started_total") == 12


def test_a_read_only_file_system_ends_the_start_with_a_line(tmp_path: Path) -> None:
    """When it is writable again, the exporter starts with all its data."""
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
            output = run(tmp_path, "serve", status=1)
            assert "css-relay.db" in output
            assert "make the file system writable" in output
            assert output.count("\n") == 1
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
            exporter.start()
            assert exporter.scrape().value("tasks_started_total") == 3
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
