"""A clock that is set back or forward: nothing twice, no 5xx, nothing goes backwards, and it recovers."""

import json
from collections.abc import Iterator
from itertools import count

import pytest

from tests.acceptance.test_simulator import WINDOW_SECONDS, Place
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
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An exporter for all moves: each has tasks of its own."""
    folder = tmp_path_factory.mktemp("exporter")
    clock = Clock(folder)
    with running(folder, clock=clock) as exporter:
        yield Place(exporter, clock)


def callback(task_id: str, event: str, at: int, msg: dict[str, object]) -> bytes:
    """Return a callback."""
    fields = {"appid": 4, "event_type": 314, "callback_event": event, "task_id": task_id, "event_time": at}
    return json.dumps(fields | {"msg": msg}).encode()


def history(task_id: str, right: float) -> list[bytes]:
    """Return what the sender, whose clock is right, tells of a run of the last few seconds."""
    begun = int(right) - 5
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
    """Return what histories count for."""
    scrape = exporter.scrape()
    names = ("tasks_started", "files_started", "files_played", "alarms", "tasks_exited")
    return [scrape.value(f"{name}_total") for name in names]


_gaps = count()


def sweep(place: Place) -> None:
    """Let the reorder window pass, and wait until all that it has decided is told."""
    missed = place.exporter.scrape().value("anomalies_total", kind="missed_exit")
    task, now = f"gap{next(_gaps)}", int(place.clock.now())
    for at in (now - 3, now - 1):  # the exit between two starts is missing; that is the last thing told
        start = callback(task, "TaskStart", at, {"task_start_time": at * 1000})
        assert place.exporter.post(start)[0] == 200
    place.clock.advance(WINDOW_SECONDS)
    until(
        lambda: place.exporter.scrape().value("anomalies_total", kind="missed_exit") > missed,
        "the sweep tells what is missing",
    )


@pytest.mark.parametrize("offset", [-7200.0, -90.0, 90.0, 7200.0, 259200.0])
def test_a_clock_that_is_moved_and_put_right_counts_nothing_twice(place: Place, offset: float) -> None:
    """Redeliveries on either side of a move are told, new callbacks count, no counter falls."""
    exporter, clock = place.exporter, place.clock
    before = counts(exporter)
    first, second, third = (history(f"{name}{offset:g}", clock.now()) for name in "abc")
    assert {exporter.post(body)[0] for body in first} == {200}
    seen = counters(exporter)
    for moved_seconds, new in ((offset, second), (-offset, third)):
        clock.advance(moved_seconds)
        assert {exporter.post(body)[0] for body in first} == {200}
        assert {exporter.post(body)[0] for body in new} == {200}
        sweep(place)
        now = counters(exporter)
        assert all(now.get(key, 0) >= value for key, value in seen.items())
        seen = now
    starts, *others = (after - earlier for after, earlier in zip(counts(exporter), before, strict=True))
    assert starts == 3 + 4, "the histories, and two starts for each gap"
    assert others == [3] * len(others)
    exporter.until_ready()
    scrape = exporter.scrape()
    for name in "ac":  # what came while the clock was wrong may be judged by the time of its arrival
        assert scrape.value("task_state", task_id=f"{name}{offset:g}", state="failed") == 1, name
    assert "Traceback" not in exporter.log
