"""Draws a fleet and the true history of each task: its events in order, before any fault.

Pure: no clock. Times are seconds since the start of the simulation.
"""

import heapq
from collections.abc import Iterator
from itertools import cycle
from random import Random

from msgspec import Struct

from exporter.protocol.events import EventKind
from exporter.simulator.options import SimulatorSettings

FAILURES = {
    -5: "read packet error.",
    -22: "write packet error.",
    -32: "broken pipe.",
    -104: "connection reset by peer.",
    -110: "connection timed out.",
    -541478725: "end of file.",
}
ALARMS = ("PullFileUnstable", "PushStreamUnstable", "PullFileFailed", "PushStreamFailed", "FileEndEarly")
UNKNOWN_ALARM = "DecoderRestarted"
#: The events that do not change the run state, with their texts.
OTHER_EVENTS = (
    *((EventKind.ALARM, name) for name in (*ALARMS, UNKNOWN_ALARM)),
    *((kind, "simulated") for kind in EventKind if not kind.changes_state and kind is not EventKind.ALARM),
)
HOSTS = ("5000.livepush.myqcloud.com", "5001.livepush.myqcloud.com", "push.example.tv", "rtmp.example.net")
FILE_SECONDS = 600.0
#: Number of tasks that pull from one source.
FAN_OUT = 3
#: Share of runs that end as planned, and of failed tasks that do not start again.
PLANNED_SHARE, ABANDONED_SHARE = 0.1, 0.08
#: Mean time between the events that do not change the run state.
OTHER_EVENT_SECONDS = 240.0


class RelayTask(Struct, frozen=True, kw_only=True):
    """A relay task.

    Args:
        appid, task_id, stream_id, to_host, to_url, sources: as in its callbacks.
        files: durations of its files, whole seconds; empty for a live source.
        has_times: its callbacks have an event time.
        never_exits: it stays active until the end of the simulation.
        shares_source: other tasks pull from the same source.
        has_text_numbers: its callbacks have numbers as strings, as the vendor documents them.
    """

    appid: int
    task_id: str
    stream_id: str
    to_host: str
    to_url: str
    sources: tuple[str, ...]
    files: tuple[int, ...] = ()
    has_times: bool = True
    never_exits: bool = False
    shares_source: bool = False
    has_text_numbers: bool = False


class Event(Struct, frozen=True):
    """An event of a task.

    Args:
        at: its time, seconds since the start of the simulation.
        file: index of the file that started or finished.
        code: exit code.
        text: type of an alarm, or the text of another event.
    """

    kind: EventKind
    at: float
    file: int = 0
    code: int = 0
    text: str = ""


def fleet(settings: SimulatorSettings, batch: int, rng: Random) -> list[tuple[RelayTask, ...]]:
    """Return the tasks of a fleet, grouped by source; `batch` is part of every task ID."""
    groups: list[tuple[RelayTask, ...]] = []
    number = 0
    while number < settings.tasks:
        is_fan = rng.random() < 0.1 and settings.tasks - number >= FAN_OUT
        size = FAN_OUT if is_fan else 1
        groups.append(_draw_group(settings, batch, rng, range(number, number + size)))
        number += size
    return groups


def _draw_group(
    settings: SimulatorSettings, batch: int, rng: Random, numbers: range
) -> tuple[RelayTask, ...]:
    source = f"https://origin.example.com/{batch}/{numbers[0]}/playlist.m3u8"
    is_fan = len(numbers) > 1
    files: tuple[int, ...] = ()
    if not is_fan and rng.random() >= 0.4:
        median = FILE_SECONDS / settings.speed
        files = tuple(max(2, round(rng.lognormvariate(0, 0.5) * median)) for _ in range(rng.randint(1, 5)))
    has_times = rng.random() >= settings.untimed
    has_text_numbers = rng.random() < 0.2
    hosts = rng.sample(HOSTS, len(numbers))
    return tuple(
        RelayTask(
            appid=1_300_000_001 + numbers[0] % 2,
            task_id=f"{batch:05d}{number:03d}",
            stream_id=f"room{number}",
            to_host=host,
            to_url=f"rtmp://{host}/live/room{number}?txSecret={rng.randbytes(16).hex()}&txTime=6AF4C5D0",
            sources=(source,),
            files=files,
            has_times=has_times,
            # Only the first may exit: an exit without a task ID then has several possible tasks.
            never_exits=place > 0,
            shares_source=is_fan,
            has_text_numbers=has_text_numbers,
        )
        for place, (number, host) in enumerate(zip(numbers, hosts, strict=True))
    )


def true_history(task: RelayTask, settings: SimulatorSettings, rng: Random) -> Iterator[Event]:
    """Yield the events of a task in order, until the simulation or the task ends."""
    at = rng.uniform(0, 1) if task.never_exits else 3 + rng.uniform(0, min(30.0, settings.duration / 4))
    sent_before: set[tuple[EventKind, str]] = set()
    while at < settings.duration:
        # At least 5 s: a start and an exit in the same second have no order without milliseconds.
        length = 5 + rng.expovariate(1 / settings.failure_every)
        end = settings.duration if task.never_exits else min(at + length, settings.duration)
        yield Event(EventKind.START, at)
        files, others = _file_events(task, at, end, rng), _other_events(task, at, end, rng, sent_before)
        yield from heapq.merge(files, others, key=lambda event: event.at)
        if end >= settings.duration:
            return
        is_planned = rng.random() < PLANNED_SHARE
        yield Event(EventKind.EXIT, end, code=0 if is_planned else rng.choice(list(FAILURES)))
        if is_planned or rng.random() < ABANDONED_SHARE:
            return
        at = end + 2 + rng.expovariate(1 / settings.downtime)


def _file_events(task: RelayTask, begin: float, end: float, rng: Random) -> Iterator[Event]:
    """Yield the file events of a run: the playlist in a loop, with short gaps."""
    at = begin + 0.3 + rng.lognormvariate(-0.7, 0.7)
    for file in cycle(range(len(task.files))):
        if at >= end:
            return
        yield Event(EventKind.FILE_START, at, file)
        # More than a second, so that the start and the finish of a file have different event times.
        at += max(1.2, task.files[file] * _play_ratio(rng))
        if at >= end:
            return
        yield Event(EventKind.FILE_FINISH, at, file)
        at += rng.uniform(0.2, 1.2) if rng.random() < 0.95 else rng.uniform(3, 40)


def _play_ratio(rng: Random) -> float:
    """Return the play time of a file over its declared duration: a few files stall, a few end early."""
    draw = rng.random()
    if draw < 0.03:
        return rng.uniform(1.15, 1.6)
    return rng.uniform(0.4, 0.95) if draw < 0.06 else rng.gauss(1.0, 0.005)


def _other_events(
    task: RelayTask, begin: float, end: float, rng: Random, sent_before: set[tuple[EventKind, str]]
) -> Iterator[Event]:
    """Yield alarms, configuration changes and the other events that do not change the run state.

    A task without event times sends each of them once only: without a time, the exporter treats an equal
    callback within two minutes as a redelivery.
    """
    at = begin
    while True:
        at += 2 + rng.expovariate(1 / OTHER_EVENT_SECONDS)
        if at >= end:
            return
        kind, text = rng.choice(OTHER_EVENTS)
        if task.has_times or (kind, text) not in sent_before:
            yield Event(kind, at, text=text)
        sent_before.add((kind, text))
