"""The fold: applies one callback, or the passing of time, to a task.

`deduplication` decides whether a callback is counted, `state_machine` what it does to the run.

Counters increase immediately. A duration is recorded immediately if it ends with the newest callback of the
task and both callbacks arrived within 5 s of their event time. It is not corrected if a callback from in
between arrives later. All other durations, and everything that was missing, are recorded when the reorder
window has passed, because no callback can arrive in between any more.

The fold is pure: the time is an argument, and no argument is changed.
"""

from bisect import bisect_right

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind
from exporter.relay.counted import Counted, Measurement, Observed
from exporter.relay.deduplication import (
    SKEW_SECONDS,
    DedupResult,
    EventTime,
    Verdict,
    deduplicate,
    remember,
)
from exporter.relay.state_machine import TRANSITIONS, Transition, apply_log, is_later, state_after
from exporter.relay.task import Entry, FoldSettings, RunState, Task, entry_due, forgotten_at, lost_at

#: Maximum number of entries of a log. It limits the size of a task's record and the time to read the log.
MAX_LOG = 128
#: Flags of `Entry.emitted`: the measurements of an entry that are recorded already.
EMITTED_OBSERVATIONS, EMITTED_RESTART = 1, 2


class Folded(Struct, frozen=True, gc=False):
    """A task after a callback or after some time, and the measurements to record."""

    task: Task
    verdict: Verdict
    measurements: tuple[Measurement, ...] = ()


def fold(task: Task, callback: Callback, arrival: float, settings: FoldSettings) -> Folded:
    """Apply `callback`, which arrived at `arrival` (seconds), to `task`.

    What is due before the arrival is settled first. A redelivery or a stale callback changes nothing. A
    callback older than what is settled is counted, but does not change the run state.
    """
    settled = settle(task, arrival, settings)
    task, result = settled.task, deduplicate(settled.task, callback, arrival, settings)
    if result.verdict is not Verdict.APPLIED:
        return Folded(task, result.verdict, settled.measurements)
    task = replace(
        remember(task, callback, result, arrival, settings),
        to_host=callback.to_host or task.to_host,
        source_host=callback.source_host or task.source_host,
        stream_id=callback.stream_id or task.stream_id,
        to_url=callback.to_url or task.to_url,
        sources=callback.sources or task.sources,
        runs=task.runs + (callback.kind is EventKind.START),
    )
    measurements = (*settled.measurements, *measurements_of(callback, result, arrival, settings))
    if callback.kind.changes_state:
        task, changes = _change_run_state(task, callback, result.event_time, arrival, settings)
        measurements += changes
    return Folded(task, Verdict.APPLIED, measurements)


def settle(task: Task, now: float, settings: FoldSettings) -> Folded:
    """Settle the entries of the log whose reorder window has passed at `now` (seconds); mark a lost task.

    Doing it again changes nothing.
    """
    measurements: tuple[Measurement, ...] = ()
    last_due = -1
    for place, entry in enumerate(task.log):
        if entry_due(entry, settings) <= now:
            last_due = place
    if last_due >= 0:
        task, measurements = _settle_through(task, last_due)
    if task.current.active and not task.log and lost_at(task, settings) <= now:
        lost = replace(task.current, active=False, lost=True, file=None)
        task = replace(task, settled=lost, current=lost)
        measurements = (*measurements, Counted.TASK_LOST.increment)
    return Folded(task, Verdict.APPLIED, measurements)


def with_counters_reset(task: Task) -> Task:
    """Return `task` for a store whose counters start at 0: no runs counted, nothing left to record."""
    settled = _settle_through(task, len(task.log) - 1)[0] if task.log else task
    return replace(settled, runs=0)


def is_forgotten(task: Task, now: float, settings: FoldSettings) -> bool:
    """Return whether a sweep must delete `task` at `now` (seconds)."""
    return not task.log and forgotten_at(task, settings) <= now


def measurements_of(
    callback: Callback, result: DedupResult, arrival: float, settings: FoldSettings
) -> tuple[Measurement, ...]:
    """Return what is counted and observed for a callback, whatever it does to its task."""
    kind, event_time = callback.kind, result.event_time
    measurements: list[Measurement] = [(kind.counter, callback.subject if kind.label else "", 1)]
    if kind is EventKind.EXIT and callback.subject not in settings.ok_codes:
        measurements.append(Counted.TASK_FAILED.increment)
    measurements += result.measurements
    if event_time.is_invalid:
        measurements.append(Counted.BAD_TIME.increment)
    if event_time.is_stated:
        delay = arrival - event_time.ms / 1000
        measurements.append((Observed.CALLBACK_DELAY, kind.callback_event, max(delay, 0.0)))
        if delay <= -SKEW_SECONDS:
            measurements.append(Counted.CLOCK_SKEW.increment)
    return tuple(measurements)


def _change_run_state(
    task: Task, callback: Callback, event_time: EventTime, arrival: float, settings: FoldSettings
) -> tuple[Task, tuple[Measurement, ...]]:
    """Put the callback into the log of `task`; return the changed task, and the measurements."""
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
    if entry.kind is EventKind.START and not entry.has_event_time:
        entry = _with_time_of_inferred_run(task.current, entry, settings)
    if entry.kind is EventKind.START and task.settled.active and _is_its_start(task.settled, entry):
        return _start_settled_run(task, entry)
    if entry.second < task.settled_until:
        # Too late to change the run state. A start still counts as a restart: the task has had a later run.
        return task, (Counted.TASK_RESTARTED.increment,) if entry.kind is EventKind.START else ()
    place = bisect_right(task.log, entry.second, key=lambda e: e.second)
    log = (*task.log[:place], entry, *task.log[place:])
    if len(log) > MAX_LOG:
        return _settle_through(replace(task, log=log), 0)
    return _insert(task, log, entry)


def _with_time_of_inferred_run(run: RunState, start: Entry, settings: FoldSettings) -> Entry:
    """Return a `start` without event time, with one just before the inferred run that it may belong to."""
    if not run.active or not run.inferred or run.start is None:
        return start
    # The first file of the run overtook it.
    if run.played or start.arrival - run.start.arrival > settings.retry:
        return start
    ms = run.start.ms - run.start.has_milliseconds
    return replace(start, ms=ms, has_milliseconds=run.start.has_milliseconds)


def _is_its_start(settled: RunState, start: Entry) -> bool:
    """Return whether `start` is the missing start of an active run."""
    if not settled.inferred or settled.start is None:
        return False
    is_after_exit = settled.exit is None or is_later(start, settled.exit)
    return start.second <= settled.start.second and is_after_exit


def _start_settled_run(task: Task, start: Entry) -> tuple[Task, tuple[Measurement, ...]]:
    """Give the inferred run its start, after it was counted as missing."""
    settled = replace(task.settled, start=start)
    changed = replace(task, settled=settled, current=state_after(settled, task.log))
    return changed, (Counted.TASK_RESTARTED.increment,) if settled.exit is not None else ()


def _insert(task: Task, log: tuple[Entry, ...], entry: Entry) -> tuple[Task, tuple[Measurement, ...]]:
    """Read the log with `entry` in it, and record what later callbacks can't change."""
    if log[-1] is entry and (len(log) == 1 or log[-2].second < entry.second):
        # The usual case: the entry is the newest, so the log need not be read again.
        own = last = TRANSITIONS[entry.kind](task.current, entry, ())
    else:
        transitions = list(apply_log(task.settled, log))
        own, last = next(t for t in transitions if t.entry is entry), transitions[-1]
    measurements: tuple[Measurement, ...] = ()
    emitted = 0
    if own is last and own.is_prompt:
        measurements, emitted = own.observations, EMITTED_OBSERVATIONS
    if own.is_restart:
        measurements = (*measurements, Counted.TASK_RESTARTED.increment)
        emitted |= EMITTED_RESTART
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
    # All of the log is read: later entries decide whether a finish was only overtaken.
    for transition in list(apply_log(state, task.log))[:count]:
        measurements += _not_yet_emitted(transition)
        state = transition.state
    # A finish starts and ends no run, so callbacks from before it may still change the run.
    changing = [e.second for e in task.log[:count] if e.kind is not EventKind.FILE_FINISH]
    task = replace(
        task,
        settled=state,
        log=task.log[count:],
        current=state_after(state, task.log[count:]),
        settled_until=max([task.settled_until, *changing]),
    )
    return task, tuple(measurements)


def _not_yet_emitted(transition: Transition) -> list[Measurement]:
    measurements = list(transition.missing)
    if not transition.entry.emitted & EMITTED_OBSERVATIONS:
        measurements += transition.observations
    if transition.is_restart and not transition.entry.emitted & EMITTED_RESTART:
        measurements.append(Counted.TASK_RESTARTED.increment)
    return measurements
