"""Deduplication: the event time of a callback, and whether it is a redelivery of one that is counted already.

A callback that states its event time has an identity: event, subject and event time. The task remembers the
identities of the retry window. For a callback without an event time, the run state of the task decides. The
first gives the same answer in whatever order callbacks arrive, the second only while they keep their order.
"""

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind, check_complete
from exporter.relay.counted import Counted, Measurement
from exporter.relay.task import Entry, FoldSettings, RunState, Task

#: An event time more than this after the arrival is invalid: it comes from a clock that was never set.
MAX_AHEAD_SECONDS = 60.0
#: An event time at least this much after the arrival is counted as clock skew.
SKEW_SECONDS = 2.0
#: Without an event time, an alarm or a reset that equals one of up to this many seconds before is a
#: redelivery.
EQUAL_ALARM_SECONDS = 120.0
#: Maximum number of identities that a task remembers. It limits the size of a task's record.
MAX_IDENTITIES = 512


class Verdict(Enum):
    """What the deduplication decides; the value is the label `outcome`. `ingest.batch` adds `ignored`."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    STALE = "stale"


class EventTime(Struct, frozen=True, gc=False):
    """The event time of a callback.

    Args:
        ms: milliseconds; the arrival if the callback states no valid time.
        has_milliseconds: whether `ms` is exact to the millisecond, not to the second.
        is_stated: whether the callback states it.
        is_invalid: whether the callback states a time that can't be true.
    """

    ms: int
    has_milliseconds: bool
    is_stated: bool
    is_invalid: bool = False


class DedupResult(Struct, frozen=True, gc=False):
    """The result for one callback.

    Args:
        verdict: whether it is counted.
        event_time: when the event happened.
        identities: the identities to remember, if it is counted.
        measurements: what to count in addition to the callback itself.
    """

    verdict: Verdict
    event_time: EventTime
    identities: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()


def event_time_of(callback: Callback, arrival: float, settings: FoldSettings) -> EventTime:
    """Return the event time of `callback`: the time in msg, else the field `event_time`, else the arrival.

    A time is valid if it is at most 60 s ahead of the arrival and at most `lost_after` behind it.

    Args:
        arrival: seconds.
    """
    stated, seconds = callback.stated_ms, callback.event_time_seconds
    earliest, latest = arrival - settings.lost_after, arrival + MAX_AHEAD_SECONDS
    if stated is not None and earliest <= stated / 1000 <= latest:
        return EventTime(stated, has_milliseconds=True, is_stated=True)
    if seconds is not None and earliest <= seconds <= latest:
        is_invalid = stated is not None
        return EventTime(seconds * 1000, has_milliseconds=False, is_stated=True, is_invalid=is_invalid)
    is_invalid = stated is not None or seconds is not None
    return EventTime(int(arrival * 1000), has_milliseconds=True, is_stated=False, is_invalid=is_invalid)


def deduplicate(task: Task, callback: Callback, arrival: float, settings: FoldSettings) -> DedupResult:
    """Decide whether `callback`, which arrived at `arrival` (seconds), is counted for `task`."""
    event_time = event_time_of(callback, arrival, settings)
    if not event_time.is_stated:
        return _deduplicate_by_state(task, callback, event_time, arrival, settings)
    identity, seconds = _identity(event_time.ms, callback), callback.event_time_seconds
    # A start states two times. Its second identity has both, to distinguish a redelivery from a start with
    # the same `task_start_time` and another `event_time`.
    has_both = callback.kind is EventKind.START and event_time.has_milliseconds and seconds
    with_seconds = f"{identity}|{seconds}" if has_both else ""
    if _is_remembered(task, with_seconds or identity, arrival, settings):
        return DedupResult(Verdict.DUPLICATE, event_time)
    if with_seconds and seconds and _is_remembered(task, identity, arrival, settings):
        return _compare_conflicting_start(task, event_time, seconds, with_seconds)
    is_old = event_time.ms / 1000 < arrival - settings.retry
    if event_time.ms <= task.dedup_floor_ms or (is_old and event_time.ms <= task.newest_ms):
        return DedupResult(Verdict.STALE, event_time)
    identities = (identity, with_seconds) if with_seconds else (identity,)
    return DedupResult(Verdict.APPLIED, event_time, identities)


def remember(
    task: Task, callback: Callback, result: DedupResult, arrival: float, settings: FoldSettings
) -> Task:
    """Return `task` with what is needed to recognize redeliveries of a counted callback, and its times.

    Identities older than the retry window are dropped. Above MAX_IDENTITIES, those with the oldest event
    times are dropped and the floor rises to them: below it, a redelivery is no longer recognized.
    """
    identities = task.identities | dict.fromkeys(result.identities, arrival)
    for identity, seen in list(identities.items()):
        if seen < arrival - settings.retry:
            del identities[identity]
    floor, start_stated = task.dedup_floor_ms, task.start_stated
    while len(identities) > MAX_IDENTITIES:
        first = min(identities, key=_event_ms)
        floor = max(floor, _event_ms(first))
        del identities[first]
    if callback.kind is EventKind.START and callback.stated_ms and callback.event_time_seconds:
        stated = callback.stated_ms, callback.event_time_seconds
        start_stated = max(stated, start_stated or stated)
    return replace(
        task,
        last_callback_at=max(arrival, task.last_callback_at),
        newest_ms=max(task.newest_ms, result.event_time.ms if result.event_time.is_stated else 0),
        start_stated=start_stated,
        identities=identities,
        dedup_floor_ms=floor,
    )


def with_replay_horizon(
    task: Task, callback: Callback, arrival: float, now: float, settings: FoldSettings
) -> Task | None:
    """Return the task to compare a replayed callback with, or None if a redelivery can't be recognized.

    The identities of callbacks that were counted before the retry window are dropped by now. So a callback
    with an event time before that window is counted only if it is newer than every event time of the task.

    Args:
        arrival: when the callback was received, seconds.
        now: when it is replayed, seconds.
    """
    horizon_ms = int((now - settings.retry) * 1000)
    if not event_time_of(callback, arrival, settings).is_stated:
        return task if arrival * 1000 >= horizon_ms else None
    floor = min(horizon_ms, task.newest_ms or horizon_ms)
    return replace(task, dedup_floor_ms=floor) if floor > task.dedup_floor_ms else task


def _identity(event_ms: int | None, callback: Callback) -> str:
    return f"{event_ms or ''}|{callback.kind.letter}{callback.subject}"


def _event_ms(identity: str) -> int:
    return int(identity.partition("|")[0] or 0)


def _deduplicate_by_state(
    task: Task, callback: Callback, event_time: EventTime, arrival: float, settings: FoldSettings
) -> DedupResult:
    """Decide about a callback without a valid event time."""
    if callback.kind.changes_state:
        # The run state recognizes a redelivery of an event that changes it.
        is_repeated = _IS_REPEATED[callback.kind](task.current, callback, arrival, settings)
        identities: tuple[str, ...] = ()
    else:
        identities = (_identity(None, callback),)
        seen = task.identities.get(identities[0])
        is_repeated = seen is not None and arrival - seen <= EQUAL_ALARM_SECONDS
    # If the clock of this machine was set back, the callback may be counted with a time that was still valid.
    stated_ms = callback.stated_ms or (callback.event_time_seconds or 0) * 1000
    if is_repeated or (stated_ms and _is_remembered(task, _identity(stated_ms, callback), arrival, settings)):
        return DedupResult(Verdict.DUPLICATE, event_time)
    return DedupResult(Verdict.APPLIED, event_time, identities)


def _compare_conflicting_start(task: Task, event_time: EventTime, seconds: int, identity: str) -> DedupResult:
    """Decide about a start with the `task_start_time` of a counted one but another field `event_time`.

    It is a redelivery, unless the last exit is between the two values of that field. Then the sender keeps
    one `task_start_time` for all runs, and this is a new run that started at its `event_time`.
    """
    exit_ = task.current.exit
    if exit_ is None or task.start_stated is None or task.start_stated[0] != event_time.ms:
        return DedupResult(Verdict.DUPLICATE, event_time)
    earlier, later = sorted((task.start_stated[1], seconds))
    if not earlier <= exit_.second <= later:
        return DedupResult(Verdict.DUPLICATE, event_time)
    own = EventTime(seconds * 1000, has_milliseconds=False, is_stated=True)
    return DedupResult(Verdict.APPLIED, own, (identity,), (Counted.TIME_CONFLICT.increment,))


def _is_remembered(task: Task, identity: str, arrival: float, settings: FoldSettings) -> bool:
    seen = task.identities.get(identity)
    return seen is not None and seen >= arrival - settings.retry


def _is_start_repeated(run: RunState, callback: Callback, arrival: float, settings: FoldSettings) -> bool:
    if not run.active or run.inferred or run.start is None:
        return False
    has_finished = run.played and run.finish is not None and run.finish.arrival > run.start.arrival
    return run.start.arrival >= arrival - settings.retry and not has_finished


def _is_file_start_repeated(
    run: RunState, callback: Callback, arrival: float, settings: FoldSettings
) -> bool:
    if run.file is None or not _is_same(run.file, callback):
        return False
    # A playlist may play the same file again, but not before the file has played once.
    return arrival < run.file.arrival + (run.file.duration or settings.retry)


def _is_file_finish_repeated(
    run: RunState, callback: Callback, arrival: float, settings: FoldSettings
) -> bool:
    is_playing = run.file is not None and _is_same(run.file, callback)
    return not is_playing and _is_recent(run.finish, callback, arrival - settings.retry)


def _is_exit_repeated(run: RunState, callback: Callback, arrival: float, settings: FoldSettings) -> bool:
    return not run.active and _is_recent(run.exit, callback, arrival - settings.retry)


#: How a redelivery without an event time is recognized, for each event that changes the run state.
_IS_REPEATED = check_complete(
    "relay.deduplication._IS_REPEATED",
    {
        EventKind.START: _is_start_repeated,
        EventKind.FILE_START: _is_file_start_repeated,
        EventKind.FILE_FINISH: _is_file_finish_repeated,
        EventKind.EXIT: _is_exit_repeated,
    },
)


def _is_same(entry: Entry, callback: Callback) -> bool:
    return entry.subject == callback.subject


def _is_recent(entry: Entry | None, callback: Callback, oldest: float) -> bool:
    return entry is not None and _is_same(entry, callback) and entry.arrival >= oldest
