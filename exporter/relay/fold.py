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
from exporter.relay.counted import Counted, Observed, Tale
from exporter.relay.deduplication import SKEW_SECONDS, Judgement, Moment, Verdict, judge, remember
from exporter.relay.state_machine import Step, advance, end_of, later, walk
from exporter.relay.task import Course, Entry, Task, Windows, entry_due, forgotten_at, lost_at

MAX_LOG = 128
TOLD_OBSERVATIONS, TOLD_RESTART = 1, 2


class Folded(Struct, frozen=True, gc=False):
    """A task after a callback or after some time, and what is to be told."""

    task: Task
    verdict: Verdict
    tales: tuple[Tale, ...] = ()


def fold(task: Task, callback: Callback, arrival: float, windows: Windows) -> Folded:
    """Take `callback`, which came at `arrival` (seconds), into `task`.

    A redelivery or a stale one changes nothing. One that is older than what is settled counts without
    moving anything. Whatever was due before the arrival is settled first.
    """
    settled = settle(task, arrival, windows)
    judgement = judge(settled.task, callback, arrival, windows)
    if judgement.verdict is not Verdict.APPLIED:
        return Folded(settled.task, judgement.verdict, settled.tales)
    known, moment = settled.task, judgement.moment
    identities, floor = remember(known, judgement.identities, arrival, windows)
    counted = replace(
        known,
        to_host=callback.to_host or known.to_host,
        source_host=callback.source_host or known.source_host,
        stream_id=callback.stream_id or known.stream_id,
        to_url=callback.to_url or known.to_url,
        sources=callback.sources or known.sources,
        heard=max(arrival, known.heard),
        newest_ms=max(known.newest_ms, moment.ms if moment.known else 0),
        runs=known.runs + (callback.kind is EventKind.START),
        start_stated=_start_stated(known, callback, judgement),
        identities=identities,
        floor_ms=floor,
    )
    told = (*settled.tales, *counts(callback, windows), *judgement.tales, *timing(callback, moment, arrival))
    moved, tales = _move(counted, callback, moment, arrival, windows)
    return Folded(moved, Verdict.APPLIED, (*told, *tales))


def settle(task: Task, now: float, windows: Windows) -> Folded:
    """Take the log into what is settled, as far as the reorder window has passed at `now` (seconds).

    Doing it again changes nothing.
    """
    tales: tuple[Tale, ...] = ()
    if task.log:
        ripe = [i for i, entry in enumerate(task.log) if entry_due(entry, windows) <= now]
        if ripe:
            task, tales = _settle_through(task, ripe[-1])
    if not task.log and lost_at(task, windows) <= now:
        course = replace(task.now, running=False, lost=True, file=None)
        task = replace(task, settled=course, now=course)
        tales = (*tales, Counted.TASK_LOST.tale)
    return Folded(task, Verdict.APPLIED, tales)


def renewed(task: Task) -> Task:
    """Return `task` as a new generation of counters begins with it: no runs counted, nothing left to tell."""
    settled = _settle_through(task, len(task.log) - 1)[0] if task.log else task
    return replace(settled, runs=0)


def is_forgotten(task: Task, now: float, windows: Windows) -> bool:
    """Whether nothing is left to know of `task` at `now` (seconds)."""
    return not task.log and forgotten_at(task, windows) <= now


def counts(callback: Callback, windows: Windows) -> tuple[Tale, ...]:
    """Return what a callback counts for, wherever it stands in its task."""
    kind = callback.kind
    counted: Tale = (kind.counts, callback.subject if kind.label else "", 1)
    if kind is EventKind.EXIT and callback.subject not in windows.ok_codes:
        return counted, Counted.TASK_FAILED.tale
    return (counted,)


def timing(callback: Callback, moment: Moment, arrival: float) -> tuple[Tale, ...]:
    """Return what a callback's times tell: its delay, a clock that is ahead, a time that can't be."""
    bad: tuple[Tale, ...] = (Counted.BAD_TIME.tale,) if moment.bad else ()
    if not moment.known:
        return bad
    delay = arrival - moment.ms / 1000
    told: Tale = (Observed.CALLBACK_DELAY, callback.kind.callback_event, max(delay, 0.0))
    return (*bad, told, Counted.CLOCK_SKEW.tale) if delay <= -SKEW_SECONDS else (*bad, told)


def _start_stated(task: Task, callback: Callback, judgement: Judgement) -> tuple[int, int] | None:
    if callback.kind is not EventKind.START:
        return task.start_stated
    if callback.stated_ms is None or callback.event_time_seconds is None:
        return task.start_stated
    stated = (callback.stated_ms, callback.event_time_seconds)
    return max(stated, task.start_stated or stated)


def _move(
    task: Task, callback: Callback, moment: Moment, arrival: float, windows: Windows
) -> tuple[Task, tuple[Tale, ...]]:
    if not callback.kind.moves:
        return task, ()
    entry = Entry(
        callback.kind,
        moment.ms,
        moment.exact,
        moment.known,
        arrival,
        callback.subject,
        callback.duration_seconds,
        message=callback.message,
    )
    if entry.kind is EventKind.START and (claimed := _claim(task, entry, windows)) is not None:
        entry = claimed
        if _begins_settled_run(task.settled, entry):
            return _begin_settled_run(task, entry)
    if entry.second < task.edge:
        return task, (Counted.TASK_RESTARTED.tale,) if entry.kind is EventKind.START else ()
    place = bisect_right(task.log, entry.second, key=lambda e: e.second)
    log = (*task.log[:place], entry, *task.log[place:])
    if len(log) > MAX_LOG:
        task, tales = _settle_through(replace(task, log=log), 0)
        return task, tales
    return _take_in(task, log, entry)


def _claim(task: Task, start: Entry, windows: Windows) -> Entry | None:
    """Return `start` as the start of the inferred run, if it is that run's; None if it is another's.

    A start without a time was overtaken by its run's first file: it happened just before.
    """
    now = task.now
    if not now.running or not now.inferred or now.start is None:
        return None
    if start.known:
        return start
    if now.played or start.arrival - now.start.arrival > windows.retry:
        return None
    return replace(start, ms=now.start.ms - now.start.exact, exact=now.start.exact)


def _begins_settled_run(settled: Course, start: Entry) -> bool:
    if not settled.running or not settled.inferred or settled.start is None:
        return False
    after_exit = settled.exit is None or later(start, settled.exit)
    return start.second <= settled.start.second and after_exit


def _begin_settled_run(task: Task, start: Entry) -> tuple[Task, tuple[Tale, ...]]:
    """The start of an inferred run came after its absence had been told."""
    settled = replace(task.settled, start=start)
    restarted = settled.exit is not None
    return replace(task, settled=settled, now=end_of(settled, task.log)), (
        Counted.TASK_RESTARTED.tale,
    ) if restarted else ()


def _take_in(task: Task, log: tuple[Entry, ...], entry: Entry) -> tuple[Task, tuple[Tale, ...]]:
    """Walk the log with `entry` in it, and tell at once what can't change any more."""
    if log[-1] is entry and (len(log) == 1 or log[-2].second < entry.second):
        mine = last = advance(task.now, entry)  # the usual case: it is the newest
    else:
        steps = list(walk(task.settled, log))
        mine, last = next(step for step in steps if step.entry is entry), steps[-1]
    tales: tuple[Tale, ...] = ()
    told = 0
    if mine is last and mine.prompt:
        tales, told = mine.observations, TOLD_OBSERVATIONS
    if mine.restarted:
        tales, told = (*tales, Counted.TASK_RESTARTED.tale), told | TOLD_RESTART
    if told:
        marked = replace(entry, told=told)
        log = tuple(marked if e is entry else e for e in log)
    return replace(task, log=log, now=last.course), tales


def _settle_through(task: Task, last: int) -> tuple[Task, tuple[Tale, ...]]:
    """Settle the log up to the second of the entry at `last`."""
    edge = task.log[last].second
    count = bisect_right(task.log, edge, key=lambda e: e.second)
    tales: list[Tale] = []
    course = task.settled
    for step in list(walk(course, task.log))[:count]:
        tales += _untold(step)
        course = step.course
    moving = [e.second for e in task.log[:count] if e.kind is not EventKind.FILE_FINISH]
    task = replace(
        task,
        settled=course,
        log=task.log[count:],
        now=end_of(course, task.log[count:]),
        edge=max([task.edge, *moving]),
    )
    return task, tuple(tales)


def _untold(step: Step) -> list[Tale]:
    tales = list(step.gaps)
    if not step.entry.told & TOLD_OBSERVATIONS:
        tales += step.observations
    if step.restarted and not step.entry.told & TOLD_RESTART:
        tales.append(Counted.TASK_RESTARTED.tale)
    return tales
