"""What is still known of a task: what its state rests on, and what was counted within the retry window."""

from collections.abc import Iterator

from msgspec import Struct

from exporter.protocol.events import BY_LETTER, EventKind
from exporter.relay.task import Entry, RunState, Task


class HistoryEvent(Struct, frozen=True, gc=False):
    """Something that happened to a task.

    Args:
        ms: when, milliseconds; the arrival where the callback stated no time.
        kind: its event.
        subject: the file, the exit code or the alarm's type.
        message: what an exit said of itself, as far as it is still known.
    """

    ms: int
    kind: EventKind
    subject: str = ""
    message: str = ""


def history(task: Task) -> list[HistoryEvent]:
    """Return what is known to have happened to `task`, the newest first, each thing once."""
    found = {(h.ms, h.kind.letter, h.subject): h for h in _counted(task)}
    found |= {(e.ms, e.kind.letter, e.subject): _happening(e) for e in _standing(task)}
    return [found[key] for key in sorted(found, reverse=True)]


def _standing(task: Task) -> Iterator[Entry]:
    for state in (task.settled, task.current):
        yield from _ends(state)
    yield from task.log


def _ends(state: RunState) -> Iterator[Entry]:
    for entry in (state.start, state.exit, state.file, state.finish):
        if entry is not None:
            yield entry


def _happening(entry: Entry) -> HistoryEvent:
    return HistoryEvent(entry.ms, entry.kind, entry.subject, entry.message)


def _counted(task: Task) -> Iterator[HistoryEvent]:
    """Read the identities; see `deduplication` for their form."""
    for name, came in task.identities.items():
        ms, _, rest = name.partition("|")
        kind, subject = BY_LETTER[rest[:1]], rest[1:]
        if kind is EventKind.START and subject:  # the event_time beside a start's own time
            if task.identities.get(f"{ms}|{kind.letter}") != came:  # that of a run which began at it
                yield HistoryEvent(int(subject[1:]) * 1000, kind)
        else:
            yield HistoryEvent(int(ms) if ms else int(came * 1000), kind, subject)
