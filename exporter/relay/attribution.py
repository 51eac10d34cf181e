"""Whose is an exit that names no task?

It belongs to the only active task with the same account and sources. What has been seen of such exits is
remembered by account and sources, in a task without an id that is never shown.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind
from exporter.relay.counted import Counted, Tale
from exporter.relay.deduplication import Moment, Verdict, judge, remember
from exporter.relay.fold import counts, timing
from exporter.relay.task import Course, Entry, Task, Windows


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
    tales: tuple[Tale, ...] = ()


def attribute(
    nameless: Task, siblings: Sequence[Task], callback: Callback, arrival: float, windows: Windows
) -> Attribution:
    """Find the owner of an exit without a task id among the tasks with its account and sources."""
    judgement = judge(nameless, callback, arrival, windows)
    if judgement.verdict is not Verdict.APPLIED and not _has_started_since(
        nameless, siblings, judgement.moment
    ):
        return Attribution(judgement.verdict, nameless)
    moment = judgement.moment
    entry = Entry(EventKind.EXIT, moment.ms, moment.exact, moment.known, arrival, callback.subject)
    identities, floor = remember(nameless, judgement.identities, arrival, windows)
    seen = replace(
        nameless,
        heard=arrival,
        newest_ms=max(nameless.newest_ms, moment.ms if moment.known else 0),
        identities=identities,
        floor_ms=floor,
        now=Course(exit=entry),
    )
    active = [task for task in siblings if task.now.running]
    if len(active) == 1 and callback.sources:
        return Attribution(Verdict.APPLIED, seen, active[0])
    unattributed = Counted.UNATTRIBUTED_EXIT.tale
    tales = (*counts(callback, windows), unattributed, *timing(callback, moment, arrival))
    return Attribution(Verdict.APPLIED, seen, None, tales)


def _has_started_since(nameless: Task, siblings: Sequence[Task], moment: Moment) -> bool:
    """Whether an exit without a time can be a new one after all: something has started since the last."""
    last = nameless.now.exit
    if moment.known or last is None:
        return False
    return any(t.now.start is not None and t.now.start.arrival > last.arrival for t in siblings)
