"""A history of a small fleet in which every family of the catalogue has something to tell.

It takes an hour of the exporters' clock, which is put back before and right again afterwards: what is missing
has then been told, and an inferred run is lost. A Prometheus beside them goes by the machine's clock.
"""

import json
from typing import Any

from tests.clock import Clock
from tests.support import Exporter, until

#: How far the clock is put back: more than the retry window, and what passes within the history.
SPAN_SECONDS = 4200.0
STEP_SECONDS = 60.0

#: How many runs end.
EXITS = 6

ACCOUNT = 1250000001
HOSTS = ("live.example.com", "cdn.example.net")


class Sender:
    """Sends callbacks as the service does, stating the time of now unless told.

    Args:
        exporter: who takes them.
        clock: the exporter's.
    """

    def __init__(self, exporter: Exporter, clock: Clock) -> None:
        self.exporter = exporter
        self.clock = clock

    def send(
        self, event: str, task: str | None, *, to: str = HOSTS[0], ahead: float = 0, **more: Any
    ) -> dict[str, Any]:
        """Send a callback of a task and return its body.

        Args:
            to: host of its destination.
            ahead: how far its stated time is ahead of now.
            more: fields of its msg.
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
        self.again(body)
        return body

    def again(self, body: dict[str, Any]) -> None:
        """Send a body as it is."""
        assert self.exporter.post(json.dumps(body).encode())[0] == 200

    def start(self, task: str, **more: Any) -> dict[str, Any]:
        """Send a TaskStart that states no time in milliseconds."""
        return self.send("TaskStart", task, **({"task_start_time": 0} | more))

    def exit(self, task: str | None, code: int, **more: Any) -> None:
        """Send a TaskExit."""
        self.send("TaskExit", task, **({"code": code, "message": "", "task_exit_time": 0} | more))

    def file(self, event: str, task: str, index: int = 0, duration: int = 60, **more: Any) -> None:
        """Send a VodSourceFileStart or VodSourceFileFinish, by the last word of its name."""
        url = f"http://origin.example.com/{task}-{index}.mp4"
        self.send(f"VodSourceFile{event}", task, url=url, index=index, duration=duration, **more)


def begin(sender: Sender) -> None:
    """Make every label set and every counter known at 0, or at what it will grow from."""
    for host in HOSTS:
        sender.start(f"live-{host}", to=host)
    sender.send("ResetTaskConfig", f"live-{HOSTS[0]}", new_field=1)


def everything(sender: Sender) -> None:
    """Tell the history; when it returns, the clock is right and all that is told late is in the scrape."""
    _files(sender)
    _runs(sender)
    _gaps(sender)
    _clocks(sender)
    _unusable(sender)
    sender.clock.set(0.0)
    until(lambda: sender.exporter.scrape().value("tasks", state="lost") > 0, "a lost task")


def _files(sender: Sender) -> None:
    """A task that plays, one that plays too long, one that is silent, one whose file is cut off."""
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
    """A task that failed and stays down, one that came back, one that ended as planned."""
    for task in ("down", "back", "planned"):
        sender.start(task, to=HOSTS[1])
    sender.exit("down", -22, to=HOSTS[1])
    sender.exit("back", -110, to=HOSTS[1])
    sender.exit("planned", 0, to=HOSTS[1])
    sender.clock.advance(STEP_SECONDS)
    sender.start("back", to=HOSTS[1])


def _gaps(sender: Sender) -> None:
    """Callbacks that never came: a start, and with it a task that is lost; an exit, a finish; a task id."""
    sender.file("Start", "lost", duration=1)
    for _ in range(2):
        sender.start("twice")
        sender.clock.advance(STEP_SECONDS)
    for index in range(2):
        sender.file("Start", "twice", index=index)
    sender.exit(None, -1)


def _clocks(sender: Sender) -> None:
    """A clock ahead, one that is wrong; a duplicate; one too late; a start time kept for all runs."""
    sender.again(sender.start("skewed", ahead=20))
    sender.start("wrong", ahead=3600)
    sender.start("back", ahead=-SPAN_SECONDS)
    stated = round(1000 * sender.clock.now())
    sender.start("kept", task_start_time=stated)
    sender.exit("kept", -22, ahead=2)
    sender.start("kept", task_start_time=stated, ahead=4)


def _unusable(sender: Sender) -> None:
    """Not JSON, against the schema, an unknown event."""
    sender.exporter.post(b"{")
    sender.exporter.post(b'{"event_type": 314}')
    sender.send("TaskMigrate", "playing")
