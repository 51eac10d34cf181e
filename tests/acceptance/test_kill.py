"""Every callback answered 200 is counted exactly once, even if workers and masters are killed under load."""

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
    """Return an exporter that keeps its ports after a restart."""
    names = ("callback__listen_address", "web__listen_address")
    return Exporter(folder, clock=clock, **{name: f"127.0.0.1:{free_port()}" for name in names}, **flags)


def check(scrape: Scrape, accepted: Counter[str]) -> None:
    """Check that every callback is counted once, however often it was sent."""
    # `make chaos` calls this outside pytest, so the assertions need messages.
    counted = {event: scrape.value(name) for event, name in COUNTERS.items()}
    assert counted == dict(accepted), f"counted {counted}, accepted {dict(accepted)}"
    applied = {event: scrape.value("callbacks_total", event=event, outcome="applied") for event in COUNTERS}
    assert applied == dict(accepted), f"applied {applied}, accepted {dict(accepted)}"
    active, known = scrape.value("tasks", state="active"), scrape.value("tasks")
    assert (active, known) == (0, accepted["TaskExit"]), f"{active:g} active of {known:g} tasks"


def test_nothing_answered_is_lost_or_counted_twice_when_the_worker_or_the_master_is_killed(
    tmp_path: Path,
) -> None:
    """Six kills under load at random moments; the counters are exact after each one."""
    rng = random.Random(20261124)
    exporter = exporter_on(tmp_path).start()
    accepted: Counter[str] = Counter()
    failed = 0
    try:
        for number in range(ROUNDS):
            with Sender(lambda: [exporter.ports["callbacks"]], seed=number) as sender:
                sender.until_accepted(rng.randrange(40, 160))
                _kill(exporter, what=KILLED[number % len(KILLED)])
                sender.until_accepted(rng.randrange(10, 40))
            accepted += sender.accepted
            failed += sender.failed
            check(until(lambda: _scrape(exporter), "a scrape"), accepted)
    finally:
        exporter.kill()
    assert failed, "no request failed"


def test_two_processes_on_one_file_count_as_one(tmp_path: Path) -> None:
    """As in an overlapping restart; each process is killed once."""
    rng = random.Random(7)
    store = f"sqlite:{tmp_path}/relay.db"
    pair = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pair.append(exporter_on(tmp_path / name, store__url=store).start())
    accepted: Counter[str] = Counter()
    try:
        for number, victim in enumerate(pair):
            with Sender(lambda: [e.ports["callbacks"] for e in pair], seed=100 + number) as sender:
                sender.until_accepted(rng.randrange(40, 120))
                victim.kill()
                sender.until_accepted(rng.randrange(10, 40))
                sender.until_failed()
                victim.start()
                sender.until_accepted(20)
            accepted += sender.accepted
            for exporter in pair:
                check(until(lambda e=exporter: _scrape(e), "a scrape"), accepted)
    finally:
        for exporter in pair:
            exporter.kill()


def test_a_graceful_stop_loses_nothing(tmp_path: Path) -> None:
    """After SIGTERM the exporter answers all accepted callbacks and ends with status 0."""
    exporter = exporter_on(tmp_path).start()
    try:
        with Sender(lambda: [exporter.ports["callbacks"]], seed=42) as sender:
            sender.until_accepted(40)
            assert exporter.stop() == 0
            exporter.start()
            sender.until_accepted(20)
        check(exporter.scrape(), sender.accepted)
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
        until(lambda: not is_running(worker), "its worker, which holds the ports, ends")
        exporter.start()
    else:
        exporter.kill()
        exporter.start()


def _scrape(exporter: Exporter) -> Scrape | None:
    try:
        return exporter.scrape()
    except OSError:
        return None
