"""Attribution: finds the task of an exit that has no task ID.

The exit belongs to the only active task with the same account and sources. What is needed to recognize its
redeliveries is kept per account and sources, in a nameless task: a task without an ID. It has no state, is
never shown, and only remembers exits.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind
from exporter.relay.counted import Counted, Measurement
from exporter.relay.deduplication import EventTime, Verdict, deduplicate, remember
from exporter.relay.fold import measurements_of
from exporter.relay.task import Entry, FoldSettings, RunState, Task


class Attribution(Struct, frozen=True, gc=False):
    """The result for one exit without a task ID.

    Args:
        verdict: whether it is counted.
        nameless: the nameless task after it.
        owner: the task that it belongs to; None if there is none, or more than one.
        measurements: what is counted and observed for an exit without an owner.
    """

    verdict: Verdict
    nameless: Task
    owner: Task | None = None
    measurements: tuple[Measurement, ...] = ()


def attribute_exit(
    nameless: Task,
    candidates: Sequence[Task],
    callback: Callback,
    arrival: float,
    settings: FoldSettings,
) -> Attribution:
    """Find the owner of an exit without a task ID.

    Args:
        nameless: the nameless task of its account and sources.
        candidates: the tasks with its account and sources.
        arrival: when it was received, seconds.
    """
    result = deduplicate(nameless, callback, arrival, settings)
    event_time = result.event_time
    if result.verdict is not Verdict.APPLIED and not _has_started_since(nameless, candidates, event_time):
        return Attribution(result.verdict, nameless)
    entry = Entry(
        EventKind.EXIT,
        event_time.ms,
        event_time.has_milliseconds,
        event_time.is_stated,
        arrival,
        callback.subject,
    )
    remembered = remember(nameless, callback, result, arrival, settings)
    remembered = replace(remembered, current=RunState(exit=entry))
    active = [task for task in candidates if task.current.active]
    # Without sources the account alone is not enough: any of its tasks could have exited.
    if len(active) == 1 and callback.sources:
        return Attribution(Verdict.APPLIED, remembered, active[0])
    measurements = measurements_of(callback, result, arrival, settings)
    unattributed = Counted.UNATTRIBUTED_EXIT.increment
    return Attribution(Verdict.APPLIED, remembered, None, (*measurements, unattributed))


def _has_started_since(nameless: Task, candidates: Sequence[Task], event_time: EventTime) -> bool:
    """Return whether an exit without an event time is a new one: a task has started since the last exit."""
    last = nameless.current.exit
    if event_time.is_stated or last is None:
        return False
    starts = [task.current.start for task in candidates]
    return any(start is not None and start.arrival > last.arrival for start in starts)
