"""A full disk: callbacks get 503 and are sent again, nothing answered is lost, the exporter recovers."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import running, sample, until

pytestmark = pytest.mark.embedded


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a file system of 3 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    """While it is full, callbacks get 503, and store_up and ready report it; with free space it recovers."""
    with running(tmp_path, store__url=f"sqlite:{small_disk}/relay.db") as exporter:
        answers = []
        while answers.count(503) < 20:
            body = sample("documented/task_start").replace(b"118148", str(len(answers)).encode())
            answers.append(exporter.post(body)[0])
        assert set(answers) == {200, 503}
        assert exporter.scrape().value("tasks_started_total") == answers.count(200)
        # A small write may succeed in between, so poll until both report the fault.
        until(
            lambda: exporter.get("/-/ready")[0] == 503 and exporter.scrape().value("exporter_store_up") == 0,
            "the fault is reported",
        )
        assert exporter.get("/-/healthy")[0] == 200
        subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True)
        until(lambda: exporter.scrape().value("exporter_store_up") == 1, "the store is up again")
        exporter.until_ready()
        assert exporter.post(sample("documented/task_start"))[0] == 200
        assert exporter.scrape().value("tasks_started_total") == answers.count(200) + 1
