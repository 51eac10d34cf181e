"""A clock that is set back or forward: nothing twice, no 5xx, nothing goes backwards, and it recovers."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import Exporter, Samples, until

HISTORY = (
    ("TaskStart", 0, {}),
    ("VodSourceFileStart", 1, {"index": 0, "duration": 3600}),
    ("VodSourceFileFinish", 2, {"index": 0, "duration": 3600}),
    ("TaskAlarm", 3, {"type": "PullFileFailed"}),
    ("TaskExit", 4, {"code": -22}),
)
WINDOW = 2.0
Move = Callable[[float], None]


def history(task_id: str) -> list[bytes]:
    """Return what the sender, whose clock is right, tells of a run of the last few seconds."""
    begun = int(time.time()) - 5
    return [
        json.dumps(
            {
                "appid": 4,
                "event_type": 314,
                "callback_event": event,
                "task_id": task_id,
                "event_time": begun + after,
                "msg": msg,
            }
        ).encode()
        for event, after, msg in HISTORY
    ]


#: Python reads it before anything else, so that the program never sees another clock. Faking the clock of the
#: whole process (libfaketime) breaks Python's own sleeping.
MOVED_CLOCK = """
import os, time
right = time.time
def moved():
    with open(os.environ["CLOCK_OFFSET_FILE"]) as file:
        return right() + float(file.read())
time.time = moved
"""


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[tuple[Exporter, Move]]:
    """An exporter, and a function that moves its clock so many seconds from the right time."""
    setting = tmp_path / "offset"
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text(MOVED_CLOCK)

    def move(offset: float) -> None:
        (tmp_path / "new").write_text(str(offset))
        (tmp_path / "new").rename(setting)

    move(0)
    environment = {"PYTHONPATH": str(tmp_path / "shim"), "CLOCK_OFFSET_FILE": str(setting)}
    exporter = Exporter(tmp_path, environment, relay__reorder_window=f"{WINDOW:g}s")
    try:
        yield exporter.start(), move
    finally:
        exporter.kill()


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
    """Return what a history counts for."""
    scrape = exporter.scrape()
    names = ("tasks_started", "files_started", "files_played", "alarms", "tasks_exited")
    return [scrape.value(f"{name}_total") for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("offset", [-7200.0, -90.0, 90.0, 7200.0, 259200.0])
def test_a_clock_that_is_moved_and_put_right_counts_nothing_twice(
    clock: tuple[Exporter, Move], offset: float
) -> None:
    """Redeliveries on either side of a move are told, new callbacks count, no counter falls."""
    exporter, move = clock
    first, second, third = history("a"), history("b"), history("c")
    assert {exporter.post(body)[0] for body in first} == {200}
    seen = counters(exporter)
    for offset_now, new in ((offset, second), (0.0, third)):
        move(offset_now)
        assert {exporter.post(body)[0] for body in first} == {200}
        assert {exporter.post(body)[0] for body in new} == {200}
        time.sleep(WINDOW + 1)
        now = counters(exporter)
        assert all(now.get(key, 0) >= value for key, value in seen.items())
        seen = now
    assert counts(exporter) == [3] * len(HISTORY)
    assert exporter.get("/-/ready")[0] == 200
    until(lambda: exporter.scrape().value("tasks", state="failed") >= 1, "tasks are settled")
    assert "Traceback" not in exporter.log
