"""Whose is an exit that names no task?

It belongs to the only active task with the same account and sources. What has been seen of such exits is
remembered by account and sources, in a task without an id that is never shown.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind
from exporter.relay.counted import Counted, Measurement
from exporter.relay.deduplication import EventTime, Verdict, judge, remember
from exporter.relay.fold import counts, timing
from exporter.relay.task import Entry, FoldSettings, RunState, Task


class Attribution(Struct, frozen=True, gc=False):
    """Whose an exit is.

    Args:
        verdict: whether it counts.
        nameless: what is now remembered of exits without a task from these sources.
        owner: the task it belongs to, None if there is none or more than one.
        tales: what is told of an exit without an owner.
    """

    verdict: Verdict
    nameless: Task
    owner: Task | None = None
    measurements: tuple[Measurement, ...] = ()


def attribute(
    nameless: Task,
    tasks_with_sources: Sequence[Task],
    callback: Callback,
    arrival: float,
    settings: FoldSettings,
) -> Attribution:
    """Find the owner of an exit without a task id among the tasks with its account and sources."""
    result = judge(nameless, callback, arrival, settings)
    if result.verdict is not Verdict.APPLIED and not _has_started_since(
        nameless, tasks_with_sources, result.event_time
    ):
        return Attribution(result.verdict, nameless)
    event_time = result.event_time
    entry = Entry(
        EventKind.EXIT,
        event_time.ms,
        event_time.has_milliseconds,
        event_time.is_stated,
        arrival,
        callback.subject,
    )
    identities, floor = remember(nameless, result.identities, arrival, settings)
    seen = replace(
        nameless,
        last_callback_at=arrival,
        newest_ms=max(nameless.newest_ms, event_time.ms if event_time.is_stated else 0),
        identities=identities,
        dedup_floor_ms=floor,
        current=RunState(exit=entry),
    )
    active = [task for task in tasks_with_sources if task.current.running]
    if len(active) == 1 and callback.sources:
        return Attribution(Verdict.APPLIED, seen, active[0])
    unattributed = Counted.UNATTRIBUTED_EXIT.increment
    measurements = (*counts(callback, settings), unattributed, *timing(callback, event_time, arrival))
    return Attribution(Verdict.APPLIED, seen, None, measurements)


def _has_started_since(nameless: Task, tasks_with_sources: Sequence[Task], event_time: EventTime) -> bool:
    """Whether an exit without a time can be a new one after all: something has started since the last."""
    last = nameless.current.exit
    if event_time.is_stated or last is None:
        return False
    return any(
        t.current.start is not None and t.current.start.arrival > last.arrival for t in tasks_with_sources
    )
