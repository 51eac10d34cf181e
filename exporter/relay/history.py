"""The history of a task: the events of the retry window, and those that its state depends on."""

from collections.abc import Iterator

from msgspec import Struct

from exporter.protocol.events import BY_LETTER, EventKind
from exporter.relay.task import Entry, Task


class HistoryEvent(Struct, frozen=True, gc=False):
    """An event of a task.

    Args:
        ms: its event time, milliseconds; its arrival if the callback stated no time.
        subject: the file, the exit code or the type of the alarm.
        message: the message of an exit, if it is still known.
    """

    ms: int
    kind: EventKind
    subject: str = ""
    message: str = ""


def history(task: Task) -> list[HistoryEvent]:
    """Return the known events of `task`, the newest first, each once."""
    found = {(event.ms, event.kind.letter, event.subject): event for event in _remembered(task)}
    # An entry has more than an identity: the message of an exit.
    for entry in _entries(task):
        event = HistoryEvent(entry.ms, entry.kind, entry.subject, entry.message)
        found[event.ms, event.kind.letter, event.subject] = event
    return [found[key] for key in sorted(found, reverse=True)]


def _entries(task: Task) -> Iterator[Entry]:
    for state in (task.settled, task.current):
        for entry in (state.start, state.exit, state.file, state.finish):
            if entry is not None:
                yield entry
    yield from task.log


def _remembered(task: Task) -> Iterator[HistoryEvent]:
    """Yield the events of the identities; `deduplication` has their form."""
    for identity, arrival in task.identities.items():
        ms, _, rest = identity.partition("|")
        kind, subject = BY_LETTER[rest[:1]], rest[1:]
        if kind is not EventKind.START or not subject:
            yield HistoryEvent(int(ms) if ms else int(arrival * 1000), kind, subject)
        elif task.identities.get(f"{ms}|{kind.letter}") != arrival:
            # A start with two times. The identity with the first of them arrived with another start, so this
            # one is of a run that started at its `event_time`.
            yield HistoryEvent(int(subject[1:]) * 1000, kind)
