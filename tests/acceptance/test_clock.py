"""A clock set back or forward: nothing is counted twice, no 5xx, no counter decreases."""

import json
from collections.abc import Iterator
from itertools import count

import pytest

from tests.acceptance.test_simulator import WINDOW_SECONDS, Clocked
from tests.clock import Clock
from tests.support import Exporter, Samples, running, until

HISTORY = (
    ("TaskStart", 0, {}),
    ("VodSourceFileStart", 1, {"index": 0, "duration": 3600}),
    ("VodSourceFileFinish", 2, {"index": 0, "duration": 3600}),
    ("TaskAlarm", 3, {"type": "PullFileFailed"}),
    ("TaskExit", 4, {"code": -22}),
)


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocked]:
    """Yield an exporter for all offsets; each test uses its own tasks."""
    folder = tmp_path_factory.mktemp("exporter")
    clock = Clock(folder)
    with running(folder, clock=clock) as exporter:
        yield Clocked(exporter, clock)


def callback(task_id: str, event: str, at: int, msg: dict[str, object]) -> bytes:
    """Return a callback."""
    fields = {"appid": 4, "event_type": 314, "callback_event": event, "task_id": task_id, "event_time": at}
    return json.dumps(fields | {"msg": msg}).encode()


def history(task_id: str, true_now: float) -> list[bytes]:
    """Return the callbacks of a run in the last few seconds, by the right clock of the sender."""
    begun = int(true_now) - 5
    return [callback(task_id, event, begun + after, msg) for event, after, msg in HISTORY]


def counters(exporter: Exporter) -> Samples:
    """Return the counters of the store."""
    samples = exporter.scrape().samples
    return {
        key: value
        for key, value in samples.items()
        if key[0].startswith("css_relay_") and key[0].endswith(("_total", "_count", "_bucket"))
        if "_exporter_" not in key[0]
    }


def counts(exporter: Exporter) -> list[float]:
    """Return the counters that a history increases."""
    scrape = exporter.scrape()
    names = ("tasks_started", "files_started", "files_played", "alarms", "tasks_exited")
    return [scrape.value(f"{name}_total") for name in names]


_gaps = count()


def sweep(clocked: Clocked) -> None:
    """Advance the clock by the reorder window, and wait until the sweep has settled everything."""
    missed = clocked.exporter.scrape().value("anomalies_total", kind="missed_exit")
    task, now = f"gap{next(_gaps)}", int(clocked.clock.now())
    for at in (now - 3, now - 1):  # the missing exit between two starts is counted by the sweep
        start = callback(task, "TaskStart", at, {"task_start_time": at * 1000})
        assert clocked.exporter.post(start)[0] == 200
    clocked.clock.advance(WINDOW_SECONDS)
    until(
        lambda: clocked.exporter.scrape().value("anomalies_total", kind="missed_exit") > missed,
        "the sweep counts the missing exit",
    )


@pytest.mark.parametrize("offset", [-7200.0, -90.0, 90.0, 7200.0, 259200.0])
def test_a_moved_clock_counts_nothing_twice(clocked: Clocked, offset: float) -> None:
    """Redeliveries before and after a change are duplicates, new callbacks count, no counter decreases."""
    exporter, clock = clocked.exporter, clocked.clock
    before = counts(exporter)
    first, second, third = (history(f"{name}{offset:g}", clock.now()) for name in "abc")
    assert {exporter.post(body)[0] for body in first} == {200}
    previous = counters(exporter)
    for moved_seconds, new in ((offset, second), (-offset, third)):
        clock.advance(moved_seconds)
        assert {exporter.post(body)[0] for body in first} == {200}
        assert {exporter.post(body)[0] for body in new} == {200}
        sweep(clocked)
        now = counters(exporter)
        assert all(now.get(key, 0) >= value for key, value in previous.items())
        previous = now
    starts, *others = (after - earlier for after, earlier in zip(counts(exporter), before, strict=True))
    assert starts == 3 + 4, "one start for each history, and two for each sweep"
    assert others == [3] * len(others)
    exporter.until_ready()
    scrape = exporter.scrape()
    for name in "ac":  # history b arrived with a wrong clock: its arrivals may replace the event times
        assert scrape.value("task_state", task_id=f"{name}{offset:g}", state="failed") == 1, name
    assert "Traceback" not in exporter.log
