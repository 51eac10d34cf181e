"""Does a callback count? When did it happen, and is it a redelivery of one that was counted?

With an event time a callback has an identity, remembered for the retry window; without one, the task's
state tells. The order of arrival does not enter.
"""

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind, check_complete
from exporter.relay.counted import Counted, Measurement
from exporter.relay.task import Entry, FoldSettings, RunState, Task

MAX_AHEAD_SECONDS = 60.0
SKEW_SECONDS = 2.0
EQUAL_ALARM_SECONDS = 120.0
MAX_IDENTITIES = 512


class Verdict(Enum):
    """What became of a callback answered 200; the value is its `outcome` label."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    STALE = "stale"


class EventTime(Struct, frozen=True, gc=False):
    """When a callback happened.

    Args:
        ms: event time in milliseconds; the arrival where it is unknown.
        exact: whether it is more than a whole second.
        is_stated: whether it is the callback's own.
        bad: whether a time was stated that can't be true.
    """

    ms: int
    has_milliseconds: bool
    is_stated: bool
    is_invalid: bool = False


class DedupResult(Struct, frozen=True, gc=False):
    """Whether a callback counts, when it happened, and what is remembered of it."""

    verdict: Verdict
    event_time: EventTime
    identities: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()


def event_time_of(callback: Callback, arrival: float, settings: FoldSettings) -> EventTime:
    """Return when `callback` happened: the msg's own time, else event_time, else `arrival` (seconds)."""
    stated, seconds = callback.stated_ms, callback.event_time_seconds
    earliest, latest = arrival - settings.lost_after, arrival + MAX_AHEAD_SECONDS
    if stated is not None and earliest <= stated / 1000 <= latest:
        return EventTime(stated, has_milliseconds=True, is_stated=True)
    if seconds is not None and earliest <= seconds <= latest:
        return EventTime(
            seconds * 1000, has_milliseconds=False, is_stated=True, is_invalid=stated is not None
        )
    is_invalid = stated is not None or seconds is not None
    return EventTime(int(arrival * 1000), has_milliseconds=True, is_stated=False, is_invalid=is_invalid)


def judge(task: Task, callback: Callback, arrival: float, settings: FoldSettings) -> DedupResult:
    """Decide whether `callback` counts for `task`."""
    event_time = event_time_of(callback, arrival, settings)
    if event_time.is_stated:
        return _judge_by_identity(task, callback, event_time, arrival, settings)
    if _was_counted(task, callback, arrival, settings) or _is_repeated(task, callback, arrival, settings):
        return DedupResult(Verdict.DUPLICATE, event_time)
    name = _identity(None, callback)
    remembered = () if callback.kind.changes_state else (name,)
    return DedupResult(Verdict.APPLIED, event_time, remembered)


def remember(
    task: Task, names: tuple[str, ...], arrival: float, settings: FoldSettings
) -> tuple[dict[str, float], int]:
    """Return the task's identities with `names` among them, and its floor; what is remembered is bounded.

    Past MAX_IDENTITIES those with the oldest event times are given up, and the floor rises: what happened
    before it and is not known can't be told from a redelivery.
    """
    oldest = arrival - settings.retry
    kept = {name: came for name, came in task.identities.items() if came >= oldest}
    for name in names:
        kept[name] = arrival
    floor = task.dedup_floor_ms
    while len(kept) > MAX_IDENTITIES:
        first = min(kept, key=_happened_ms)
        floor = max(floor, _happened_ms(first))
        del kept[first]
    return kept, floor


def with_replay_horizon(
    task: Task, callback: Callback, arrival: float, now: float, settings: FoldSettings
) -> Task | None:
    """Return `task` as one must see it who takes at `now` what came at `arrival` (seconds), None if blind.

    By now the identity of what was counted before the retry window may be forgotten: what happened before
    it counts only if it is newer than all that is known of the task.
    """
    horizon_ms = int((now - settings.retry) * 1000)
    if not event_time_of(callback, arrival, settings).is_stated:
        return task if arrival * 1000 >= horizon_ms else None
    floor = min(horizon_ms, task.newest_ms or horizon_ms)
    return replace(task, dedup_floor_ms=floor) if floor > task.dedup_floor_ms else task


def _identity(moment_ms: int | None, callback: Callback) -> str:
    return f"{moment_ms or ''}|{callback.kind.letter}{callback.subject}"


def _happened_ms(identity: str) -> int:
    return int(identity.partition("|")[0] or 0)


def _judge_by_identity(
    task: Task, callback: Callback, event_time: EventTime, arrival: float, settings: FoldSettings
) -> DedupResult:
    name = _identity(event_time.ms, callback)
    seconds = callback.event_time_seconds
    twin = (
        f"{name}|{seconds}"
        if callback.kind is EventKind.START and event_time.has_milliseconds and seconds
        else ""
    )
    if _is_remembered(task, twin or name, arrival, settings):
        return DedupResult(Verdict.DUPLICATE, event_time)
    if twin and seconds and _is_remembered(task, name, arrival, settings):
        return _judge_conflict(task, event_time, seconds, twin)
    if event_time.ms <= task.dedup_floor_ms or (
        _is_old(event_time, arrival, settings) and event_time.ms <= task.newest_ms
    ):
        return DedupResult(Verdict.STALE, event_time)
    return DedupResult(Verdict.APPLIED, event_time, (name, twin) if twin else (name,))


def _is_old(event_time: EventTime, arrival: float, settings: FoldSettings) -> bool:
    return event_time.ms / 1000 < arrival - settings.retry


def _was_counted(task: Task, callback: Callback, arrival: float, settings: FoldSettings) -> bool:
    """Whether it was counted when its time was still one that could be true: the clock was set back since."""
    seconds = callback.event_time_seconds
    stated_ms = callback.stated_ms or (seconds * 1000 if seconds else None)
    return stated_ms is not None and _is_remembered(task, _identity(stated_ms, callback), arrival, settings)


def _judge_conflict(task: Task, event_time: EventTime, seconds: int, twin: str) -> DedupResult:
    """A counted start's time in milliseconds comes with another event_time: a redelivery, or a new run?"""
    exit_ = task.current.exit
    if exit_ is None or task.start_stated is None or task.start_stated[0] != event_time.ms:
        return DedupResult(Verdict.DUPLICATE, event_time)
    earlier, is_later = sorted((task.start_stated[1], seconds))
    if not earlier <= exit_.second <= is_later:
        return DedupResult(Verdict.DUPLICATE, event_time)
    own = EventTime(seconds * 1000, has_milliseconds=False, is_stated=True, is_invalid=event_time.is_invalid)
    return DedupResult(Verdict.APPLIED, own, (twin,), (Counted.TIME_CONFLICT.increment,))


def _is_remembered(task: Task, name: str, arrival: float, settings: FoldSettings) -> bool:
    came = task.identities.get(name)
    return came is not None and came >= arrival - settings.retry


def _is_repeated(task: Task, callback: Callback, arrival: float, settings: FoldSettings) -> bool:
    """Whether a callback without a time is a redelivery, by the state of its task."""
    if callback.kind.changes_state:
        return _REPEATED[callback.kind](task.current, callback, arrival, settings)
    came = task.identities.get(_identity(None, callback))
    return came is not None and arrival - came <= EQUAL_ALARM_SECONDS


def _start_repeated(now: RunState, callback: Callback, arrival: float, settings: FoldSettings) -> bool:
    if not now.running or now.inferred or now.start is None:
        return False
    has_finished = now.played and now.finish is not None and now.finish.arrival > now.start.arrival
    return now.start.arrival >= arrival - settings.retry and not has_finished


def _file_start_repeated(now: RunState, callback: Callback, arrival: float, settings: FoldSettings) -> bool:
    return now.file is not None and _same(now.file, callback) and arrival < _end_of(now.file, settings)


def _finish_repeated(now: RunState, callback: Callback, arrival: float, settings: FoldSettings) -> bool:
    playing = now.file is not None and _same(now.file, callback)
    return not playing and _is_recent(now.finish, callback, arrival - settings.retry)


def _exit_repeated(now: RunState, callback: Callback, arrival: float, settings: FoldSettings) -> bool:
    return not now.running and _is_recent(now.exit, callback, arrival - settings.retry)


_REPEATED = check_complete(
    {
        EventKind.START: _start_repeated,
        EventKind.FILE_START: _file_start_repeated,
        EventKind.FILE_FINISH: _finish_repeated,
        EventKind.EXIT: _exit_repeated,
    }
)


def _same(entry: Entry, callback: Callback) -> bool:
    return entry.subject == callback.subject


def _is_recent(entry: Entry | None, callback: Callback, oldest: float) -> bool:
    return entry is not None and _same(entry, callback) and entry.arrival >= oldest


def _end_of(file: Entry, settings: FoldSettings) -> float:
    """Return when a file may begin once more; one of unknown length plays for the retry window."""
    return file.arrival + (file.duration or settings.retry)
