"""A fleet, and the true history of each of its tasks: what happened, in order, before any wire.

Nothing here knows a clock: times are seconds since the simulation began.
"""

import heapq
from collections.abc import Iterator
from itertools import cycle
from random import Random

from msgspec import Struct

from exporter.protocol.events import EventKind

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
#: What may be told of a task beside its runs and files.
ASIDES = (
    *((EventKind.ALARM, name) for name in (*ALARMS, UNKNOWN_ALARM)),
    *((kind, "simulated") for kind in EventKind if not kind.moves and kind is not EventKind.ALARM),
)
HOSTS = ("5000.livepush.myqcloud.com", "5001.livepush.myqcloud.com", "push.example.tv", "rtmp.example.net")
FILE_SECONDS = 600.0
FANNED_OUT = 3
PLANNED, GONE = 0.1, 0.08
ALARM_SECONDS, RESET_SECONDS = 240.0, 900.0


class Relay(Struct, frozen=True, kw_only=True):
    """A relay task.

    Args:
        appid, task_id, stream_id, to_host, to_url, sources: as the service knows it.
        files: lengths of its files in whole seconds; none for a live source.
        timed: its callbacks state when they happened.
        stays: it never leaves the air.
        shares: other tasks pull from the same sources.
        wordy: it spells numbers as strings, as the documents do.
    """

    appid: int
    task_id: str
    stream_id: str
    to_host: str
    to_url: str
    sources: tuple[str, ...]
    files: tuple[int, ...] = ()
    timed: bool = True
    stays: bool = False
    shares: bool = False
    wordy: bool = False


class Event(Struct, frozen=True):
    """Something that happened to a task.

    Args:
        kind: its kind.
        at: when, seconds since the simulation began.
        file: index of the file that began or ended.
        code: exit code.
        text: type of an alarm, or what else it says in a word.
    """

    kind: EventKind
    at: float
    file: int = 0
    code: int = 0
    text: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """What a fleet is drawn from.

    Args:
        tasks: how many.
        batch: makes the ids of this simulation other than those of the last.
        duration, failure_every, downtime: seconds.
        speed: files are so many times shorter.
        untimed: share of tasks whose callbacks state no time.
    """

    tasks: int
    batch: int
    duration: float
    failure_every: float
    downtime: float
    speed: float
    untimed: float = 0.0


def fleet(plan: Plan, chance: Random) -> list[tuple[Relay, ...]]:
    """Return the tasks of a fleet; those that pull from one source stand together."""
    lanes: list[tuple[Relay, ...]] = []
    number = 0
    while number < plan.tasks:
        is_fan = chance.random() < 0.1 and plan.tasks - number >= FANNED_OUT
        size = FANNED_OUT if is_fan else 1
        lanes.append(_lane(plan, chance, range(number, number + size)))
        number += size
    return lanes


def _lane(plan: Plan, chance: Random, numbers: range) -> tuple[Relay, ...]:
    source = f"https://origin.example.com/{plan.batch}/{numbers[0]}/playlist.m3u8"
    is_fan = len(numbers) > 1
    files = () if is_fan or chance.random() < 0.4 else _files(plan, chance)
    timed = chance.random() >= plan.untimed
    wordy = chance.random() < 0.2
    hosts = chance.sample(HOSTS, len(numbers))
    return tuple(
        Relay(
            appid=1_300_000_001 + numbers[0] % 2,
            task_id=f"{plan.batch:05d}{number:03d}",
            stream_id=f"room{number}",
            to_host=host,
            to_url=f"rtmp://{host}/live/room{number}?txSecret={chance.randbytes(16).hex()}&txTime=6AF4C5D0",
            sources=(source,),
            files=files,
            timed=timed,
            stays=place > 0,
            shares=is_fan,
            wordy=wordy,
        )
        for place, (number, host) in enumerate(zip(numbers, hosts, strict=True))
    )


def _files(plan: Plan, chance: Random) -> tuple[int, ...]:
    lengths = (chance.lognormvariate(0, 0.5) * FILE_SECONDS / plan.speed for _ in range(chance.randint(1, 5)))
    return tuple(max(2, round(length)) for length in lengths)


def history(relay: Relay, plan: Plan, chance: Random) -> Iterator[Event]:
    """Yield what happens to a task, in order, until the end of the simulation or its own."""
    at = chance.uniform(0, 1) if relay.stays else 3 + chance.uniform(0, min(30.0, plan.duration / 4))
    said: set[tuple[EventKind, str]] = set()
    while at < plan.duration:
        length = 5 + chance.expovariate(1 / plan.failure_every)
        end = plan.duration if relay.stays else min(at + length, plan.duration)
        yield Event(EventKind.START, at)
        yield from heapq.merge(
            _played(relay, at, end, chance), _asides(relay, at, end, chance, said), key=_when
        )
        if end >= plan.duration:
            return
        is_planned = chance.random() < PLANNED
        yield Event(EventKind.EXIT, end, code=0 if is_planned else chance.choice(list(FAILURES)))
        if is_planned or chance.random() < GONE:
            return
        at = end + 2 + chance.expovariate(1 / plan.downtime)


def _when(event: Event) -> float:
    return event.at


def _played(relay: Relay, begin: float, end: float, chance: Random) -> Iterator[Event]:
    """Yield the files of a run: round and round, with a moment between them."""
    at = begin + 0.3 + chance.lognormvariate(-0.7, 0.7)
    for file in cycle(range(len(relay.files))):
        if at >= end:
            return
        yield Event(EventKind.FILE_START, at, file)
        at += max(1.2, relay.files[file] * _stretch(chance))
        if at >= end:
            return
        yield Event(EventKind.FILE_FINISH, at, file)
        at += chance.uniform(0.2, 1.2) if chance.random() < 0.95 else chance.uniform(3, 40)


def _stretch(chance: Random) -> float:
    """Return how long a file takes over its declared length: a few stall, a few end early."""
    draw = chance.random()
    if draw < 0.03:
        return chance.uniform(1.15, 1.6)
    return chance.uniform(0.4, 0.95) if draw < 0.06 else chance.gauss(1.0, 0.005)


def _asides(
    relay: Relay, begin: float, end: float, chance: Random, said: set[tuple[EventKind, str]]
) -> Iterator[Event]:
    """Yield alarms, changes of configuration and whatever else does not move a task.

    Without a time an equal one within two minutes is taken for a redelivery, so that a task without times
    says each only once.
    """
    at = begin
    while True:
        at += 2 + chance.expovariate(1 / ALARM_SECONDS)
        if at >= end:
            return
        aside = chance.choice(ASIDES)
        if relay.timed or aside not in said:
            yield Event(aside[0], at, text=aside[1])
        said.add(aside)
