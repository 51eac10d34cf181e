"""Does a callback count? When did it happen, and is it a redelivery of one that was counted?

With an event time a callback has an identity, remembered for the retry window; without one, the task's
state tells. The order of arrival does not enter.
"""

from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind, of_moving_kinds
from exporter.relay.counted import Counted, Tale
from exporter.relay.task import Course, Entry, Task, Windows

MAX_AHEAD_SECONDS = 60.0
SKEW_SECONDS = 2.0
EQUAL_ALARM_SECONDS = 120.0
MAX_IDENTITIES = 512


class Verdict(Enum):
    """What became of a callback answered 200; the value is its `outcome` label."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    STALE = "stale"


class Moment(Struct, frozen=True, gc=False):
    """When a callback happened.

    Args:
        ms: event time in milliseconds; the arrival where it is unknown.
        exact: whether it is more than a whole second.
        known: whether it is the callback's own.
        bad: whether a time was stated that can't be true.
    """

    ms: int
    exact: bool
    known: bool
    bad: bool = False


class Judgement(Struct, frozen=True, gc=False):
    """Whether a callback counts, when it happened, and what is remembered of it."""

    verdict: Verdict
    moment: Moment
    identities: tuple[str, ...] = ()
    tales: tuple[Tale, ...] = ()


def moment_of(callback: Callback, arrival: float, windows: Windows) -> Moment:
    """Return when `callback` happened: the msg's own time, else event_time, else `arrival` (seconds)."""
    stated, seconds = callback.stated_ms, callback.event_time_seconds
    earliest, latest = arrival - windows.lost_after, arrival + MAX_AHEAD_SECONDS
    if stated is not None and earliest <= stated / 1000 <= latest:
        return Moment(stated, exact=True, known=True)
    if seconds is not None and earliest <= seconds <= latest:
        return Moment(seconds * 1000, exact=False, known=True, bad=stated is not None)
    bad = stated is not None or seconds is not None
    return Moment(int(arrival * 1000), exact=True, known=False, bad=bad)


def judge(task: Task, callback: Callback, arrival: float, windows: Windows) -> Judgement:
    """Decide whether `callback` counts for `task`."""
    moment = moment_of(callback, arrival, windows)
    if moment.known:
        return _judge_by_identity(task, callback, moment, arrival, windows)
    if _was_counted(task, callback, arrival, windows) or _is_repeated(task, callback, arrival, windows):
        return Judgement(Verdict.DUPLICATE, moment)
    name = _identity(None, callback)
    remembered = () if callback.kind.moves else (name,)
    return Judgement(Verdict.APPLIED, moment, remembered)


def remember(
    task: Task, names: tuple[str, ...], arrival: float, windows: Windows
) -> tuple[dict[str, float], int]:
    """Return the task's identities with `names` among them, and its floor; what is remembered is bounded.

    Past MAX_IDENTITIES those with the oldest event times are given up, and the floor rises: what happened
    before it and is not known can't be told from a redelivery.
    """
    oldest = arrival - windows.retry
    kept = {name: came for name, came in task.identities.items() if came >= oldest}
    for name in names:
        kept[name] = arrival
    floor = task.floor_ms
    while len(kept) > MAX_IDENTITIES:
        first = min(kept, key=_happened_ms)
        floor = max(floor, _happened_ms(first))
        del kept[first]
    return kept, floor


def recalled(task: Task, callback: Callback, arrival: float, now: float, windows: Windows) -> Task | None:
    """Return `task` as one must see it who takes at `now` what came at `arrival` (seconds), None if blind.

    By now the identity of what was counted before the retry window may be forgotten: what happened before
    it counts only if it is newer than all that is known of the task.
    """
    horizon_ms = int((now - windows.retry) * 1000)
    if not moment_of(callback, arrival, windows).known:
        return task if arrival * 1000 >= horizon_ms else None
    floor = min(horizon_ms, task.newest_ms or horizon_ms)
    return replace(task, floor_ms=floor) if floor > task.floor_ms else task


def _identity(moment_ms: int | None, callback: Callback) -> str:
    return f"{moment_ms or ''}|{callback.kind.letter}{callback.subject}"


def _happened_ms(identity: str) -> int:
    return int(identity.partition("|")[0] or 0)


def _judge_by_identity(
    task: Task, callback: Callback, moment: Moment, arrival: float, windows: Windows
) -> Judgement:
    name = _identity(moment.ms, callback)
    seconds = callback.event_time_seconds
    twin = f"{name}|{seconds}" if callback.kind is EventKind.START and moment.exact and seconds else ""
    if _is_remembered(task, twin or name, arrival, windows):
        return Judgement(Verdict.DUPLICATE, moment)
    if twin and seconds and _is_remembered(task, name, arrival, windows):
        return _judge_conflict(task, moment, seconds, twin)
    if moment.ms <= task.floor_ms or (_is_old(moment, arrival, windows) and moment.ms <= task.newest_ms):
        return Judgement(Verdict.STALE, moment)
    return Judgement(Verdict.APPLIED, moment, (name, twin) if twin else (name,))


def _is_old(moment: Moment, arrival: float, windows: Windows) -> bool:
    return moment.ms / 1000 < arrival - windows.retry


def _was_counted(task: Task, callback: Callback, arrival: float, windows: Windows) -> bool:
    """Whether it was counted when its time was still one that could be true: the clock was set back since."""
    seconds = callback.event_time_seconds
    stated_ms = callback.stated_ms or (seconds * 1000 if seconds else None)
    return stated_ms is not None and _is_remembered(task, _identity(stated_ms, callback), arrival, windows)


def _judge_conflict(task: Task, moment: Moment, seconds: int, twin: str) -> Judgement:
    """A counted start's time in milliseconds comes with another event_time: a redelivery, or a new run?"""
    exit_ = task.now.exit
    if exit_ is None or task.start_stated is None or task.start_stated[0] != moment.ms:
        return Judgement(Verdict.DUPLICATE, moment)
    earlier, later = sorted((task.start_stated[1], seconds))
    if not earlier <= exit_.second <= later:
        return Judgement(Verdict.DUPLICATE, moment)
    own = Moment(seconds * 1000, exact=False, known=True, bad=moment.bad)
    return Judgement(Verdict.APPLIED, own, (twin,), (Counted.TIME_CONFLICT.tale,))


def _is_remembered(task: Task, name: str, arrival: float, windows: Windows) -> bool:
    came = task.identities.get(name)
    return came is not None and came >= arrival - windows.retry


def _is_repeated(task: Task, callback: Callback, arrival: float, windows: Windows) -> bool:
    """Whether a callback without a time is a redelivery, by the state of its task."""
    if callback.kind.moves:
        return _REPEATED[callback.kind](task.now, callback, arrival, windows)
    came = task.identities.get(_identity(None, callback))
    return came is not None and arrival - came <= EQUAL_ALARM_SECONDS


def _start_repeated(now: Course, callback: Callback, arrival: float, windows: Windows) -> bool:
    if not now.running or now.inferred or now.start is None:
        return False
    has_finished = now.played and now.finish is not None and now.finish.arrival > now.start.arrival
    return now.start.arrival >= arrival - windows.retry and not has_finished


def _file_start_repeated(now: Course, callback: Callback, arrival: float, windows: Windows) -> bool:
    return now.file is not None and _same(now.file, callback) and arrival < _end_of(now.file, windows)


def _finish_repeated(now: Course, callback: Callback, arrival: float, windows: Windows) -> bool:
    playing = now.file is not None and _same(now.file, callback)
    return not playing and _is_recent(now.finish, callback, arrival - windows.retry)


def _exit_repeated(now: Course, callback: Callback, arrival: float, windows: Windows) -> bool:
    return not now.running and _is_recent(now.exit, callback, arrival - windows.retry)


_REPEATED = of_moving_kinds(
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


def _end_of(file: Entry, windows: Windows) -> float:
    """Return when a file may begin once more; one of unknown length plays for the retry window."""
    return file.arrival + (file.duration or windows.retry)
