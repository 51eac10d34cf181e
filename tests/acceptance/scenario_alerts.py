"""A scenario in which every rule has something to say: trouble of each kind, posted to a real exporter.

`prepare` makes what must be scraped before it grows, `trouble` everything that callbacks can tell. What the
exporter itself suffers (killed, without its store) is up to the test. It takes an hour of the exporter's
clock, put back before and right again afterwards; a Prometheus beside it goes by the machine's clock.
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

#: How far the clock is put back: for a run to be lost, and then for a callback to be missing.
SPAN_SECONDS = 4200.0
LOST_SECONDS = 3700.0
#: Older than this is what can't be told from a redelivery.
STALE_SECONDS = 4000.0

DOWN, SLOW, PUSH = "down.example.com", "slow.example.com", "push.example.com"
DAY = 86400.0


def old_store(folder: Path) -> str:
    """Make a store that is a day old, so that alerts on rates are not silent; return its URL."""
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
    """The service, as far as the exporter sees it.

    Args:
        exporter: who takes the callbacks.
        now: its clock.
    """

    def __init__(self, exporter: Exporter, now: Callable[[], float] = time.time) -> None:
        self._exporter = exporter
        self.now = now

    def send(self, body: bytes) -> int:
        """Send bytes as they are; return the status of the answer."""
        return self._exporter.post(body)[0]

    def tell(
        self, event: str, task: str | None, ago: float = 0.0, host: str = PUSH, **message: object
    ) -> bytes:
        """Tell that something happened to a task, so many seconds ago; return the body."""
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
        """Tell a TaskStart."""
        self.tell("TaskStart", task, ago, host, task_start_time=0)

    def exit(self, task: str | None, ago: float = 0.0, host: str = PUSH, code: int = -22) -> None:
        """Tell a TaskExit."""
        self.tell("TaskExit", task, ago, host, code=code, message="write packet error.", task_exit_time=0)

    def file(self, task: str, ago: float, length: int, host: str = PUSH) -> None:
        """Tell that a file begins."""
        self.tell("VodSourceFileStart", task, ago, host, url="a.mp4", index=0, duration=length)

    def finish(self, task: str, ago: float, length: int, host: str = PUSH) -> None:
        """Tell that it has finished."""
        self.tell("VodSourceFileFinish", task, ago, host, url="a.mp4", index=0, duration=length)


def prepare(sender: Sender) -> None:
    """Begin the task that will flap, and one to each destination, so that its counters are seen at 0.

    Whoever sees an active task to each destination sees all of them: the last has a destination of its own.
    """
    sender.start("flapping", 60)
    for host in (PUSH, DOWN, SLOW):
        sender.start(f"first-{host}", 500, host)


def trouble(sender: Sender, clock: Clock) -> None:
    """Tell of every trouble that callbacks can tell of; the clock is right in the end."""
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
    sender.tell("TaskAlarm", "flapping", type="PushStreamFailed")


def _callbacks(sender: Sender) -> None:
    sender.exit(None)
    for number in range(20):
        sender.exit("flapping", STALE_SECONDS + number)
    for number in range(5):
        sender.tell("TaskAlarm", "flapping", -10 - number, type="FileEndEarly")  # ahead of our clock
        sender.tell("TaskAlarm", "flapping", sender.now() - 1000 - number, type="FileEndEarly")  # in 1970
    again = sender.tell("ResetTaskConfig", "flapping")
    for _ in range(100):
        assert sender.send(again) == 200
    for number in range(3):
        assert sender.send(b"no json %d" % number) == 400
    unknown = {f"field{number}": 1 for number in range(60)}
    alarm = {"callback_event": "TaskAlarm", "msg": '{"type": "PullFileUnstable"}'}
    odd = json.loads(again) | alarm | unknown
    assert sender.send(json.dumps(odd).encode()) == 200
