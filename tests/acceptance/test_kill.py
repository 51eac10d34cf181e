"""Whatever is answered 200 is counted exactly once: workers and masters are killed under load."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.load import Sender
from tests.support import Exporter, Scrape, free_port, until

COUNTERS = {
    "TaskStart": "tasks_started_total",
    "VodSourceFileStart": "files_started_total",
    "VodSourceFileFinish": "files_played_total",
    "TaskExit": "tasks_exited_total",
}
ROUNDS = 10


def exporter_on(folder: Path, **flags: str) -> Exporter:
    """Return an exporter that comes back on the same ports after a kill."""
    ports = {"callback__listen_address": free_port(), "web__listen_address": free_port()}
    return Exporter(folder, **{name: f"127.0.0.1:{port}" for name, port in ports.items()}, **flags)


def check(scrape: Scrape, kept: Counter[str]) -> None:
    """Every callback is counted once, however often it was sent."""
    # The messages are for those who call this outside pytest.
    counted = {event: scrape.value(name) for event, name in COUNTERS.items()}
    assert counted == dict(kept), f"counted {counted}, kept {dict(kept)}"
    applied = {event: scrape.value("callbacks_total", event=event, outcome="applied") for event in COUNTERS}
    assert applied == dict(kept), f"applied {applied}, kept {dict(kept)}"
    active, known = scrape.value("tasks", state="active"), scrape.value("tasks")
    assert (active, known) == (0, kept["TaskExit"]), f"{active:g} active of {known:g} tasks"


@pytest.mark.slow
def test_nothing_answered_is_lost_or_counted_twice_when_the_worker_or_the_master_is_killed(
    tmp_path: Path,
) -> None:
    """Ten kills under load from 16 connections; after each the books are exact."""
    chance = random.Random(20261124)
    exporter = exporter_on(tmp_path).start()
    kept: Counter[str] = Counter()
    sent = 0
    try:
        for number in range(ROUNDS):
            sender = Sender(lambda: [exporter.ports["callbacks"]], seed=number).start()
            time.sleep(chance.uniform(0.2, 1.0))
            _kill(exporter, what=("worker", "master", "both")[number % 3])
            time.sleep(chance.uniform(0.2, 0.6))
            kept += sender.finish()
            sent += sender.sent
            check(until(lambda: _scrape(exporter), "a scrape"), kept)
    finally:
        exporter.kill()
    assert kept["TaskStart"] > 20 * ROUNDS
    assert sent > sum(kept.values()), "nothing was ever sent again"


@pytest.mark.slow
def test_two_processes_on_one_file_count_as_one(tmp_path: Path) -> None:
    """As in a reload or a restart that overlaps; one of them is killed again and again."""
    chance = random.Random(7)
    store = f"sqlite:{tmp_path}/relay.db"
    pair = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pair.append(exporter_on(tmp_path / name, store__url=store).start())
    kept: Counter[str] = Counter()
    try:
        for number in range(4):
            sender = Sender(lambda: [e.ports["callbacks"] for e in pair], seed=100 + number).start()
            time.sleep(chance.uniform(0.3, 0.9))
            pair[number % 2].kill()
            time.sleep(chance.uniform(0.1, 0.4))
            pair[number % 2].start()
            kept += sender.finish()
            for exporter in pair:
                check(until(lambda e=exporter: _scrape(e), "a scrape"), kept)
    finally:
        for exporter in pair:
            exporter.kill()


@pytest.mark.slow
def test_a_reload_and_a_graceful_stop_lose_nothing(tmp_path: Path) -> None:
    """SIGHUP replaces the worker; SIGTERM drains what was accepted and ends with status 0."""
    exporter = exporter_on(tmp_path).start()
    try:
        sender = Sender(lambda: [exporter.ports["callbacks"]], seed=42).start()
        time.sleep(0.5)
        assert exporter.process is not None
        exporter.process.send_signal(signal.SIGHUP)
        time.sleep(1.0)
        assert exporter.stop() == 0
        exporter.start()
        kept = sender.finish()
        check(exporter.scrape(), kept)
    finally:
        exporter.kill()


def _kill(exporter: Exporter, what: str) -> None:
    assert exporter.process is not None
    if what == "worker":
        os.kill(exporter.worker, signal.SIGKILL)
    elif what == "master":
        exporter.process.kill()
        exporter.process.wait(10)
        exporter.start()
    else:
        exporter.kill()
        exporter.start()


def _scrape(exporter: Exporter) -> Scrape | None:
    try:
        return exporter.scrape()
    except OSError:
        return None
