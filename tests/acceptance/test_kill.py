"""Whatever is answered 200 is counted exactly once: workers and masters are killed under load."""

import os
import random
import signal
from collections import Counter
from pathlib import Path

from tests.acceptance.load import Sender
from tests.clock import Clock
from tests.support import HANG_SECONDS, Exporter, Scrape, free_port, is_running, until

COUNTERS = {
    "TaskStart": "tasks_started_total",
    "VodSourceFileStart": "files_started_total",
    "VodSourceFileFinish": "files_played_total",
    "TaskExit": "tasks_exited_total",
}
KILLED = ("worker", "master", "both")
ROUNDS = 2 * len(KILLED)


def exporter_on(folder: Path, clock: Clock | None = None, **flags: str) -> Exporter:
    """Return an exporter that comes back on the same ports after a kill."""
    names = ("callback__listen_address", "web__listen_address")
    return Exporter(folder, clock=clock, **{name: f"127.0.0.1:{free_port()}" for name in names}, **flags)


def check(scrape: Scrape, kept: Counter[str]) -> None:
    """Every callback is counted once, however often it was sent."""
    # The messages are for those who call this outside pytest.
    counted = {event: scrape.value(name) for event, name in COUNTERS.items()}
    assert counted == dict(kept), f"counted {counted}, kept {dict(kept)}"
    applied = {event: scrape.value("callbacks_total", event=event, outcome="applied") for event in COUNTERS}
    assert applied == dict(kept), f"applied {applied}, kept {dict(kept)}"
    active, known = scrape.value("tasks", state="active"), scrape.value("tasks")
    assert (active, known) == (0, kept["TaskExit"]), f"{active:g} active of {known:g} tasks"


def test_nothing_answered_is_lost_or_counted_twice_when_the_worker_or_the_master_is_killed(
    tmp_path: Path,
) -> None:
    """Six kills under load, at moments drawn by chance; after each the books are exact."""
    chance = random.Random(20261124)
    exporter = exporter_on(tmp_path).start()
    kept: Counter[str] = Counter()
    refused = 0
    try:
        for number in range(ROUNDS):
            with Sender(lambda: [exporter.ports["callbacks"]], seed=number) as sender:
                sender.until_kept(chance.randrange(40, 160))
                _kill(exporter, what=KILLED[number % len(KILLED)])
                sender.until_kept(chance.randrange(10, 40))
            kept += sender.kept
            refused += sender.refused
            check(until(lambda: _scrape(exporter), "a scrape"), kept)
    finally:
        exporter.kill()
    assert refused, "nobody has noticed"


def test_two_processes_on_one_file_count_as_one(tmp_path: Path) -> None:
    """As in a restart that overlaps; each of them is killed once."""
    chance = random.Random(7)
    store = f"sqlite:{tmp_path}/relay.db"
    pair = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pair.append(exporter_on(tmp_path / name, store__url=store).start())
    kept: Counter[str] = Counter()
    try:
        for number, victim in enumerate(pair):
            with Sender(lambda: [e.ports["callbacks"] for e in pair], seed=100 + number) as sender:
                sender.until_kept(chance.randrange(40, 120))
                victim.kill()
                sender.until_kept(chance.randrange(10, 40))
                sender.until_refused()
                victim.start()
                sender.until_kept(20)
            kept += sender.kept
            for exporter in pair:
                check(until(lambda e=exporter: _scrape(e), "a scrape"), kept)
    finally:
        for exporter in pair:
            exporter.kill()


def test_a_graceful_stop_loses_nothing(tmp_path: Path) -> None:
    """SIGTERM drains what was accepted and ends with status 0."""
    exporter = exporter_on(tmp_path).start()
    try:
        with Sender(lambda: [exporter.ports["callbacks"]], seed=42) as sender:
            sender.until_kept(40)
            assert exporter.stop() == 0
            exporter.start()
            sender.until_kept(20)
        check(exporter.scrape(), sender.kept)
    finally:
        exporter.kill()


def _kill(exporter: Exporter, what: str) -> None:
    assert exporter.process is not None
    if what == "worker":
        os.kill(exporter.worker, signal.SIGKILL)
    elif what == "master":
        worker = exporter.worker
        exporter.process.kill()
        exporter.process.wait(HANG_SECONDS)
        until(lambda: not is_running(worker), "its worker, which holds the ports, notices and ends")
        exporter.start()
    else:
        exporter.kill()
        exporter.start()


def _scrape(exporter: Exporter) -> Scrape | None:
    try:
        return exporter.scrape()
    except OSError:
        return None
