"""A history of a small fleet that gives every family of the catalogue a value.

It takes an hour of the exporters' clock, so that sweeps count the gaps and an inferred run is lost. The clock
is set back before it and right afterwards; Prometheus uses the machine's clock.
"""

import json
from typing import Any

from tests.clock import Clock
from tests.support import Exporter, until

#: How far the clock is set back: more than the retry window and the duration of the history.
SPAN_SECONDS = 4200.0
STEP_SECONDS = 60.0

#: How many runs end.
EXITS = 6

ACCOUNT = 1250000001
HOSTS = ("live.example.com", "cdn.example.net")


class Sender:
    """A sender of callbacks; by default the event time is now.

    Args:
        exporter: the receiver of the callbacks.
        clock: the clock of the exporter.
    """

    def __init__(self, exporter: Exporter, clock: Clock) -> None:
        self.exporter = exporter
        self.clock = clock

    def send(
        self, event: str, task: str | None, *, to: str = HOSTS[0], ahead: float = 0, **more: Any
    ) -> dict[str, Any]:
        """Send a callback of a task and return its body.

        Args:
            to: the host of its destination.
            ahead: how many seconds the event time is ahead of now.
            more: the fields of its `msg`.
        """
        stream = task or "unnamed"
        body = {
            "appid": ACCOUNT,
            "event_type": 314,
            "callback_event": event,
            "event_time": str(int(self.clock.now() + ahead)),
            "source_urls": f'["http://origin.example.com/{stream}.m3u8"]',
            "to_url": f"rtmp://{to}/live/{stream}?txSecret=0123456789abcdef",
            "stream_id": stream,
            "msg": json.dumps(more),
        } | ({} if task is None else {"task_id": task})
        self.send_body(body)
        return body

    def send_body(self, body: dict[str, Any]) -> None:
        """Send a body unchanged."""
        assert self.exporter.post(json.dumps(body).encode())[0] == 200

    def start(self, task: str, **more: Any) -> dict[str, Any]:
        """Send a TaskStart without a time in milliseconds."""
        return self.send("TaskStart", task, **({"task_start_time": 0} | more))

    def exit(self, task: str | None, code: int, **more: Any) -> None:
        """Send a TaskExit."""
        self.send("TaskExit", task, **({"code": code, "message": "", "task_exit_time": 0} | more))

    def file(self, event: str, task: str, index: int = 0, duration: int = 60, **more: Any) -> None:
        """Send a VodSourceFileStart or VodSourceFileFinish; `event` is `Start` or `Finish`."""
        url = f"http://origin.example.com/{task}-{index}.mp4"
        self.send(f"VodSourceFile{event}", task, url=url, index=index, duration=duration, **more)


def create_label_sets(sender: Sender) -> None:
    """Create every label set, so that its counters are scraped before they grow."""
    for host in HOSTS:
        sender.start(f"live-{host}", to=host)
    sender.send("ResetTaskConfig", f"live-{HOSTS[0]}", new_field=1)


def send_history(sender: Sender) -> None:
    """Send the history; at the end the clock is right and the results of the sweeps are in a scrape."""
    _files(sender)
    _runs(sender)
    _gaps(sender)
    _clocks(sender)
    _unusable(sender)
    sender.clock.set(0.0)
    until(lambda: sender.exporter.scrape().value("tasks", state="lost") > 0, "a lost task")


def _files(sender: Sender) -> None:
    """Send a playing task, an overdue one, one with dead air, and one with an interrupted file."""
    for task in ("playing", "overdue", "silent", "cut"):
        sender.start(task)
        sender.file("Start", task, duration=60)
    sender.clock.advance(STEP_SECONDS)
    for task in ("playing", "silent"):
        sender.file("Finish", task, duration=60)
    sender.file("Start", "playing", index=1, duration=7200)
    sender.exit("cut", -5)
    sender.send("TaskAlarm", "playing", type="PullFileUnstable")
    sender.send("TaskAlarm", "overdue", AlarmType="PushStreamFailed")
    sender.send("ResetTaskConfig", "playing", new_field=1)


def _runs(sender: Sender) -> None:
    """Send a failed task, a failed and restarted one, and a stopped one."""
    for task in ("down", "back", "planned"):
        sender.start(task, to=HOSTS[1])
    sender.exit("down", -22, to=HOSTS[1])
    sender.exit("back", -110, to=HOSTS[1])
    sender.exit("planned", 0, to=HOSTS[1])
    sender.clock.advance(STEP_SECONDS)
    sender.start("back", to=HOSTS[1])


def _gaps(sender: Sender) -> None:
    """Send histories with a missing start, which becomes a lost task, exit, finish and task id."""
    sender.file("Start", "lost", duration=1)
    for _ in range(2):
        sender.start("twice")
        sender.clock.advance(STEP_SECONDS)
    for index in range(2):
        sender.file("Start", "twice", index=index)
    sender.exit(None, -1)


def _clocks(sender: Sender) -> None:
    """Send skewed and wrong times, a duplicate, a stale callback, and one start time for two runs."""
    sender.send_body(sender.start("skewed", ahead=20))
    sender.start("wrong", ahead=3600)
    sender.start("back", ahead=-SPAN_SECONDS)
    start_time_ms = round(1000 * sender.clock.now())
    sender.start("kept", task_start_time=start_time_ms)
    sender.exit("kept", -22, ahead=2)
    sender.start("kept", task_start_time=start_time_ms, ahead=4)


def _unusable(sender: Sender) -> None:
    """Send malformed JSON, a violation of the schema, and an unknown event."""
    sender.exporter.post(b"{")
    sender.exporter.post(b'{"event_type": 314}')
    sender.send("TaskMigrate", "playing")
