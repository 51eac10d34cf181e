"""What is still known of a task: what its state rests on, and what was counted within the retry window."""

from collections.abc import Iterator

from msgspec import Struct

from exporter.relay.task import Course, Entry, Task


class Happening(Struct, frozen=True, gc=False, order=True):
    """Something that happened to a task.

    Args:
        ms: when, milliseconds; the arrival where the callback stated no time.
        letter: its event: S(tart), F(ile start), N (file finish), E(xit), A(larm), R(eset).
        subject: the file, the exit code or the alarm's type.
        message: what an exit said of itself, as far as it is still known.
    """

    ms: int
    letter: str
    subject: str = ""
    message: str = ""


def history(task: Task) -> list[Happening]:
    """Return what is known to have happened to `task`, the newest first, each thing once."""
    found = {(h.ms, h.letter, h.subject): h for h in _counted(task)}
    found |= {(e.ms, e.letter, e.subject): _happening(e) for e in _standing(task)}
    return sorted(found.values(), reverse=True)


def _standing(task: Task) -> Iterator[Entry]:
    for course in (task.settled, task.now):
        yield from _ends(course)
    yield from task.log


def _ends(course: Course) -> Iterator[Entry]:
    for entry in (course.start, course.exit, course.file, course.finish):
        if entry is not None:
            yield entry


def _happening(entry: Entry) -> Happening:
    return Happening(entry.ms, entry.letter, entry.subject, entry.message)


def _counted(task: Task) -> Iterator[Happening]:
    """Read the identities; see `identity` for their form."""
    for name, came in task.identities.items():
        ms, _, rest = name.partition("|")
        letter, subject = rest[:1], rest[1:]
        if letter == "S" and subject:  # the event_time beside a start's own time
            if task.identities.get(f"{ms}|S") != came:  # that of a run which began at it
                yield Happening(int(subject[1:]) * 1000, "S")
        else:
            yield Happening(int(ms) if ms else int(came * 1000), letter, subject)
