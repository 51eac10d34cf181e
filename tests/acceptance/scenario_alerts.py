"""A scenario with data for every rule: problems of each kind, posted to a real exporter.

`prepare` creates the series that must be scraped before they grow, `send_problems` sends all problems that
callbacks can report. Problems of the exporter itself (killed, without its store) are caused by the test. The
scenario needs an hour of the exporter's clock, which is set back before it and right afterwards; Prometheus
uses the machine's clock.
"""

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.config.settings import Settings
from exporter.store.protocol import StoreOptions
from exporter.store.sqlite.store import SqliteStore
from tests.clock import Clock
from tests.support import Exporter

#: How far the clock is set back: for a run to become lost, and then for a callback to be missing.
SPAN_SECONDS = 4200.0
LOST_SECONDS = 3700.0
#: The age above which a callback cannot be told apart from a redelivery.
STALE_SECONDS = 4000.0

DOWN, SLOW, PUSH = "down.example.com", "slow.example.com", "push.example.com"
DAY = 86400.0


def old_store(folder: Path) -> str:
    """Create a store that is a day old, so that alerts on increases can fire; return its URL."""
    path, settings = folder / "relay.db", Settings()
    SqliteStore(
        path,
        StoreOptions(
            labels=settings.metrics_labels, fold_settings_fingerprint=settings.fold_settings_fingerprint
        ),
    ).close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'created'", (repr(time.time() - DAY),))
    connection.close()
    return f"sqlite:{path}"


class Sender:
    """A sender of callbacks in place of the service.

    Args:
        exporter: the receiver of the callbacks.
        now: its clock.
    """

    def __init__(self, exporter: Exporter, now: Callable[[], float] = time.time) -> None:
        self._exporter = exporter
        self.now = now

    def send(self, body: bytes) -> int:
        """Send a raw body; return the status of the answer."""
        return self._exporter.post(body)[0]

    def send_event(
        self, event: str, task: str | None, ago: float = 0.0, host: str = PUSH, **message: object
    ) -> bytes:
        """Send an event of a task, so many seconds ago; return the body."""
        body: dict[str, Any] = {
            "appid": 4,
            "event_type": 314,
            "callback_event": event,
            "event_time": str(int(self.now() - ago)),
            "source_urls": json.dumps([f"http://origin.example.com/{task}.mp4"]),
            "to_url": f"rtmp://{host}/live/{task}",
            "msg": json.dumps(message),
        }
        raw = json.dumps(body | ({"task_id": task} if task else {})).encode()
        assert self.send(raw) == 200
        return raw

    def start(self, task: str, ago: float = 0.0, host: str = PUSH) -> None:
        """Send a TaskStart."""
        self.send_event("TaskStart", task, ago, host, task_start_time=0)

    def exit(self, task: str | None, ago: float = 0.0, host: str = PUSH, code: int = -22) -> None:
        """Send a TaskExit."""
        self.send_event(
            "TaskExit", task, ago, host, code=code, message="write packet error.", task_exit_time=0
        )

    def file(self, task: str, ago: float, length: int, host: str = PUSH) -> None:
        """Send a VodSourceFileStart."""
        self.send_event("VodSourceFileStart", task, ago, host, url="a.mp4", index=0, duration=length)

    def finish(self, task: str, ago: float, length: int, host: str = PUSH) -> None:
        """Send a VodSourceFileFinish."""
        self.send_event("VodSourceFileFinish", task, ago, host, url="a.mp4", index=0, duration=length)


def prepare(sender: Sender) -> None:
    """Start the task that will flap, and a task to each destination, so that their counters are scraped at 0.

    A scrape with an active task for each destination has all of them, because the last one has its own
    destination.
    """
    sender.start("flapping", 60)
    for host in (PUSH, DOWN, SLOW):
        sender.start(f"first-{host}", 500, host)


def send_problems(sender: Sender, clock: Clock) -> None:
    """Send callbacks with every kind of problem; the clock is right at the end."""
    sender.file("lost", 1, 1)
    clock.advance(LOST_SECONDS)
    _tasks(sender)
    _callbacks(sender)
    clock.set(0.0)


def _tasks(sender: Sender) -> None:
    for number in range(3):
        sender.start(f"down{number}", 400, DOWN)
        sender.exit(f"down{number}", 300, DOWN)
    for ago in (50, 40, 30, 20, 10):
        sender.start("flapping", ago)
    for number in range(6):
        sender.start(f"slow{number}", 100, SLOW)
        sender.file(f"slow{number}", 80, 3600, SLOW)
    sender.start("empty", 400)
    sender.file("empty", 390, 60)
    sender.finish("empty", 300, 60)
    sender.start("stuck", 600)
    sender.file("stuck", 590, 60)
    sender.send_event("TaskAlarm", "flapping", type="PushStreamFailed")


def _callbacks(sender: Sender) -> None:
    sender.exit(None)
    for number in range(20):
        sender.exit("flapping", STALE_SECONDS + number)
    for number in range(5):
        # Event times ahead of the arrival, and in 1970.
        sender.send_event("TaskAlarm", "flapping", -10 - number, type="FileEndEarly")
        sender.send_event("TaskAlarm", "flapping", sender.now() - 1000 - number, type="FileEndEarly")
    reset = sender.send_event("ResetTaskConfig", "flapping")
    for _ in range(100):
        assert sender.send(reset) == 200
    for number in range(3):
        assert sender.send(b"no json %d" % number) == 400
    unknown = {f"field{number}": 1 for number in range(60)}
    alarm = {"callback_event": "TaskAlarm", "msg": '{"type": "PullFileUnstable"}'}
    odd = json.loads(reset) | alarm | unknown
    assert sender.send(json.dumps(odd).encode()) == 200
