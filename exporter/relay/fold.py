"""The fold: one callback, or the passing of time, taken into a task.

*Does it count* is asked of `deduplication`, *does it move the task* of `state_machine`. What counts is told
at once. So is a duration between two callbacks that came promptly; any other, and all that was missing, is
told when the reorder window has passed, because only then nothing can come in between any more. Pure: time is
an argument, and no argument is changed.
"""

from bisect import bisect_right

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind
from exporter.relay.counted import Counted, Measurement, Observed
from exporter.relay.deduplication import SKEW_SECONDS, DedupResult, EventTime, Verdict, judge, remember
from exporter.relay.state_machine import Transition, apply, apply_log, is_later, state_after
from exporter.relay.task import Entry, FoldSettings, RunState, Task, entry_due, forgotten_at, lost_at

MAX_LOG = 128
EMITTED_OBSERVATIONS, EMITTED_RESTART = 1, 2


class Folded(Struct, frozen=True, gc=False):
    """A task after a callback or after some time, and what is to be told."""

    task: Task
    verdict: Verdict
    measurements: tuple[Measurement, ...] = ()


def fold(task: Task, callback: Callback, arrival: float, settings: FoldSettings) -> Folded:
    """Take `callback`, which came at `arrival` (seconds), into `task`.

    A redelivery or a stale one changes nothing. One that is older than what is settled counts without
    moving anything. Whatever was due before the arrival is settled first.
    """
    settled = settle(task, arrival, settings)
    result = judge(settled.task, callback, arrival, settings)
    if result.verdict is not Verdict.APPLIED:
        return Folded(settled.task, result.verdict, settled.measurements)
    known, event_time = settled.task, result.event_time
    identities, floor = remember(known, result.identities, arrival, settings)
    counted = replace(
        known,
        to_host=callback.to_host or known.to_host,
        source_host=callback.source_host or known.source_host,
        stream_id=callback.stream_id or known.stream_id,
        to_url=callback.to_url or known.to_url,
        sources=callback.sources or known.sources,
        last_callback_at=max(arrival, known.last_callback_at),
        newest_ms=max(known.newest_ms, event_time.ms if event_time.is_stated else 0),
        runs=known.runs + (callback.kind is EventKind.START),
        start_stated=_start_stated(known, callback, result),
        identities=identities,
        dedup_floor_ms=floor,
    )
    emitted = (
        *settled.measurements,
        *counts(callback, settings),
        *result.measurements,
        *timing(callback, event_time, arrival),
    )
    moved, measurements = _move(counted, callback, event_time, arrival, settings)
    return Folded(moved, Verdict.APPLIED, (*emitted, *measurements))


def settle(task: Task, now: float, settings: FoldSettings) -> Folded:
    """Take the log into what is settled, as far as the reorder window has passed at `now` (seconds).

    Doing it again changes nothing.
    """
    measurements: tuple[Measurement, ...] = ()
    if task.log:
        ripe = [i for i, entry in enumerate(task.log) if entry_due(entry, settings) <= now]
        if ripe:
            task, measurements = _settle_through(task, ripe[-1])
    if not task.log and lost_at(task, settings) <= now:
        state = replace(task.current, running=False, lost=True, file=None)
        task = replace(task, settled=state, current=state)
        measurements = (*measurements, Counted.TASK_LOST.increment)
    return Folded(task, Verdict.APPLIED, measurements)


def with_counters_reset(task: Task) -> Task:
    """Return `task` as a new generation of counters begins with it: no runs counted, nothing left to tell."""
    settled = _settle_through(task, len(task.log) - 1)[0] if task.log else task
    return replace(settled, runs=0)


def is_forgotten(task: Task, now: float, settings: FoldSettings) -> bool:
    """Whether nothing is left to know of `task` at `now` (seconds)."""
    return not task.log and forgotten_at(task, settings) <= now


def counts(callback: Callback, settings: FoldSettings) -> tuple[Measurement, ...]:
    """Return what a callback counts for, wherever it stands in its task."""
    kind = callback.kind
    counted: Measurement = (kind.counter, callback.subject if kind.label else "", 1)
    if kind is EventKind.EXIT and callback.subject not in settings.ok_codes:
        return counted, Counted.TASK_FAILED.increment
    return (counted,)


def timing(callback: Callback, event_time: EventTime, arrival: float) -> tuple[Measurement, ...]:
    """Return what a callback's times tell: its delay, a clock that is ahead, a time that can't be."""
    is_invalid: tuple[Measurement, ...] = (Counted.BAD_TIME.increment,) if event_time.is_invalid else ()
    if not event_time.is_stated:
        return is_invalid
    delay = arrival - event_time.ms / 1000
    emitted: Measurement = (Observed.CALLBACK_DELAY, callback.kind.callback_event, max(delay, 0.0))
    return (
        (*is_invalid, emitted, Counted.CLOCK_SKEW.increment)
        if delay <= -SKEW_SECONDS
        else (*is_invalid, emitted)
    )


def _start_stated(task: Task, callback: Callback, result: DedupResult) -> tuple[int, int] | None:
    if callback.kind is not EventKind.START:
        return task.start_stated
    if callback.stated_ms is None or callback.event_time_seconds is None:
        return task.start_stated
    stated = (callback.stated_ms, callback.event_time_seconds)
    return max(stated, task.start_stated or stated)


def _move(
    task: Task, callback: Callback, event_time: EventTime, arrival: float, settings: FoldSettings
) -> tuple[Task, tuple[Measurement, ...]]:
    if not callback.kind.changes_state:
        return task, ()
    entry = Entry(
        callback.kind,
        event_time.ms,
        event_time.has_milliseconds,
        event_time.is_stated,
        arrival,
        callback.subject,
        callback.duration_seconds,
        message=callback.message,
    )
    if entry.kind is EventKind.START and (claimed := _claim(task, entry, settings)) is not None:
        entry = claimed
        if _begins_settled_run(task.settled, entry):
            return _begin_settled_run(task, entry)
    if entry.second < task.settled_until:
        return task, (Counted.TASK_RESTARTED.increment,) if entry.kind is EventKind.START else ()
    place = bisect_right(task.log, entry.second, key=lambda e: e.second)
    log = (*task.log[:place], entry, *task.log[place:])
    if len(log) > MAX_LOG:
        task, measurements = _settle_through(replace(task, log=log), 0)
        return task, measurements
    return _take_in(task, log, entry)


def _claim(task: Task, start: Entry, settings: FoldSettings) -> Entry | None:
    """Return `start` as the start of the inferred run, if it is that run's; None if it is another's.

    A start without a time was overtaken by its run's first file: it happened just before.
    """
    now = task.current
    if not now.running or not now.inferred or now.start is None:
        return None
    if start.has_event_time:
        return start
    if now.played or start.arrival - now.start.arrival > settings.retry:
        return None
    return replace(
        start, ms=now.start.ms - now.start.has_milliseconds, has_milliseconds=now.start.has_milliseconds
    )


def _begins_settled_run(settled: RunState, start: Entry) -> bool:
    if not settled.running or not settled.inferred or settled.start is None:
        return False
    after_exit = settled.exit is None or is_later(start, settled.exit)
    return start.second <= settled.start.second and after_exit


def _begin_settled_run(task: Task, start: Entry) -> tuple[Task, tuple[Measurement, ...]]:
    """The start of an inferred run came after its absence had been told."""
    settled = replace(task.settled, start=start)
    is_restart = settled.exit is not None
    return replace(task, settled=settled, current=state_after(settled, task.log)), (
        Counted.TASK_RESTARTED.increment,
    ) if is_restart else ()


def _take_in(task: Task, log: tuple[Entry, ...], entry: Entry) -> tuple[Task, tuple[Measurement, ...]]:
    """Walk the log with `entry` in it, and tell at once what can't change any more."""
    if log[-1] is entry and (len(log) == 1 or log[-2].second < entry.second):
        mine = last = apply(task.current, entry)  # the usual case: it is the newest
    else:
        transitions = list(apply_log(task.settled, log))
        mine, last = (
            next(transition for transition in transitions if transition.entry is entry),
            transitions[-1],
        )
    measurements: tuple[Measurement, ...] = ()
    emitted = 0
    if mine is last and mine.is_prompt:
        measurements, emitted = mine.observations, EMITTED_OBSERVATIONS
    if mine.is_restart:
        measurements, emitted = (*measurements, Counted.TASK_RESTARTED.increment), emitted | EMITTED_RESTART
    if emitted:
        marked = replace(entry, emitted=emitted)
        log = tuple(marked if e is entry else e for e in log)
    return replace(task, log=log, current=last.state), measurements


def _settle_through(task: Task, last: int) -> tuple[Task, tuple[Measurement, ...]]:
    """Settle the log up to the second of the entry at `last`."""
    settled_until = task.log[last].second
    count = bisect_right(task.log, settled_until, key=lambda e: e.second)
    measurements: list[Measurement] = []
    state = task.settled
    for transition in list(apply_log(state, task.log))[:count]:
        measurements += _not_yet_emitted(transition)
        state = transition.state
    moving = [e.second for e in task.log[:count] if e.kind is not EventKind.FILE_FINISH]
    task = replace(
        task,
        settled=state,
        log=task.log[count:],
        current=state_after(state, task.log[count:]),
        settled_until=max([task.settled_until, *moving]),
    )
    return task, tuple(measurements)


def _not_yet_emitted(transition: Transition) -> list[Measurement]:
    measurements = list(transition.missing)
    if not transition.entry.emitted & EMITTED_OBSERVATIONS:
        measurements += transition.observations
    if transition.is_restart and not transition.entry.emitted & EMITTED_RESTART:
        measurements.append(Counted.TASK_RESTARTED.increment)
    return measurements
