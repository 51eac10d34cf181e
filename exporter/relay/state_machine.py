"""The in-order state machine: what a task's callbacks mean when they are read by event time.

`walk` takes callbacks one by one, as they happened, and says for each where the task then stands, what
can be told of it, and what was missing before it. It never asks in which order they came, but for ties.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.events import EventKind, of_moving_kinds
from exporter.relay.counted import Counted, Observed, Tale
from exporter.relay.task import Course, Entry

PROMPT_SECONDS = 5.0


class Step(Struct, frozen=True, gc=False):
    """One callback taken in.

    Args:
        entry: the callback.
        course: where the task stands after it.
        observations: durations that end with it, and whether both their ends came promptly.
        gaps: what was missing before it.
        restarted: whether it began again a task that had run before.
    """

    entry: Entry
    course: Course
    observations: tuple[Tale, ...] = ()
    prompt: bool = False
    gaps: tuple[Tale, ...] = ()
    restarted: bool = False


def walk(course: Course, log: Sequence[Entry]) -> Iterator[Step]:
    """Take `log` (sorted by the second) into `course`, entry by entry."""
    begin = 0
    while begin < len(log):
        end = begin + 1
        while end < len(log) and log[end].second == log[begin].second:
            end += 1
        group = log[begin:end] if end == begin + 1 else in_order(log[begin:end], course.file)
        for index, entry in enumerate(group, 1):
            step = _TAKE[entry.kind](course, entry, (*group[index:], *log[end:]))
            course = step.course
            yield step
        begin = end


def end_of(course: Course, log: Sequence[Entry]) -> Course:
    """Return where the task stands when `log` is taken in."""
    for step in walk(course, log):
        course = step.course
    return course


def advance(course: Course, entry: Entry) -> Step:
    """Take one callback that is newer than all before it."""
    return _TAKE[entry.kind](course, entry, ())


def in_order(group: Sequence[Entry], playing: Entry | None) -> list[Entry]:
    """Return the entries of one second in the order they happened.

    Milliseconds decide where all have them, then arrival. A file event carries whole seconds: it goes
    where it makes sense, so that its arrival does not matter. A finish of what was playing comes first; a
    file begins after the second's start, else before the second's exit; its finish follows it.
    """
    files = [e for e in group if e.kind is EventKind.FILE_START and not e.exact]
    finishes = [e for e in group if e.kind is EventKind.FILE_FINISH and not e.exact]
    anchors = [e for e in group if e.exact or e.kind not in _FILE_EVENTS]
    exact = all(e.exact for e in anchors)
    anchors.sort(key=lambda e: (e.ms if exact else 0, e.arrival))
    begun = {e.subject for e in files}
    first = [e for e in finishes if _same(e, playing) or e.subject not in begun]
    rest = [e for e in finishes if e not in first]
    ended = {e.subject for e in rest}
    files.sort(key=lambda e: (e.subject not in ended, e.subject))
    inner = [e for f in files for e in (f, *(n for n in rest if n.subject == f.subject))]
    place = _place_of_files(anchors)
    return [*first, *anchors[:place], *inner, *anchors[place:]]


def _place_of_files(anchors: list[Entry]) -> int:
    starts = [i for i, e in enumerate(anchors, 1) if e.kind is EventKind.START]
    exits = [i for i, e in enumerate(anchors) if e.kind is EventKind.EXIT]
    return starts[-1] if starts else exits[0] if exits else len(anchors)


def _start(course: Course, entry: Entry, rest: Sequence[Entry]) -> Step:
    gaps: tuple[Tale, ...] = ()
    seen = _NOTHING
    if course.running:
        gaps = (Counted.MISSED_EXIT.tale, *_cut_off(course, rest))
    elif not course.lost:
        seen = _observe(Observed.DOWNTIME, course.exit, entry)
    restarted = course.start is not None or course.exit is not None
    begun = Course(running=True, start=entry, exit=course.exit, finish=course.finish)
    return Step(entry, begun, *seen, gaps, restarted)


def _file_start(course: Course, entry: Entry, rest: Sequence[Entry]) -> Step:
    if not course.running:
        return _inferred(course, entry)
    gaps: tuple[Tale, ...] = ()
    seen = _NOTHING
    if course.file is not None:
        gaps = () if _finish_follows(rest, course.file) else (Counted.MISSED_FINISH.tale,)
    elif course.played:
        seen = _observe(Observed.FILE_GAP, course.finish, entry)
    else:  # the first file of a run that was begun, since an inferred one has had a file
        seen = _observe(Observed.START_TO_FILE, course.start, entry)
    return Step(entry, replace(course, file=entry), *seen, gaps)


def _inferred(course: Course, entry: Entry) -> Step:
    """A file begins though nothing runs: there was a start, unless the file is older than the exit."""
    if course.exit is not None and not later(entry, course.exit):
        return Step(entry, course)
    begun = Course(running=True, start=entry, exit=course.exit, file=entry, finish=course.finish)
    return Step(entry, begun, gaps=(Counted.MISSED_START.tale,))


def _file_finish(course: Course, entry: Entry, rest: Sequence[Entry]) -> Step:
    if not course.running or (course.file is not None and not _same(entry, course.file)):
        return Step(entry, replace(course, finish=entry))
    observations, prompt = _observe(Observed.FILE_PLAY, course.file, entry)
    length = (course.file.duration if course.file else 0) or entry.duration
    if observations and length > 0:
        observations += ((Observed.FILE_PLAY_RATIO, "", observations[0][2] / length),)
    return Step(entry, replace(course, file=None, finish=entry, played=True), observations, prompt)


def _exit(course: Course, entry: Entry, rest: Sequence[Entry]) -> Step:
    gaps: tuple[Tale, ...] = ()
    seen = _NOTHING
    if course.running:
        gaps = _cut_off(course, rest)
        seen = _NOTHING if course.inferred else _observe(Observed.RUN, course.start, entry)
    elif not course.lost:
        gaps = (Counted.MISSED_START.tale,)
    ended = Course(start=course.start, exit=entry, finish=course.finish)
    return Step(entry, ended, *seen, gaps)


#: What each event does to a run: the one place where a task may change its phase.
_TAKE = of_moving_kinds(
    {
        EventKind.START: _start,
        EventKind.FILE_START: _file_start,
        EventKind.FILE_FINISH: _file_finish,
        EventKind.EXIT: _exit,
    }
)
_FILE_EVENTS = (EventKind.FILE_START, EventKind.FILE_FINISH)
_NOTHING: tuple[tuple[Tale, ...], bool] = ((), False)


def _cut_off(course: Course, rest: Sequence[Entry]) -> tuple[Tale, ...]:
    if course.file is None or _finish_follows(rest, course.file):
        return ()
    return (Counted.FILE_INTERRUPTED.tale,)


def _finish_follows(rest: Sequence[Entry], file: Entry) -> bool:
    """Whether a finish of `file` that states no time was merely overtaken.

    One that states its time stands where it belongs; if it stands later, it is of a later play.
    """
    for entry in rest:
        if entry.kind is EventKind.START:
            return False
        if entry.kind in _FILE_EVENTS and entry.subject == file.subject:
            return entry.kind is EventKind.FILE_FINISH and not entry.known
    return False


def _same(entry: Entry, file: Entry | None) -> bool:
    return file is not None and entry.subject == file.subject


def later(a: Entry, b: Entry) -> bool:
    """Whether `a` happened after `b`: by the second, by milliseconds where both have them."""
    return a.ms > b.ms if a.exact and b.exact else a.second > b.second


def _is_prompt(entry: Entry) -> bool:
    """Whether its arrival stands for the time it happened."""
    return not entry.known or entry.arrival - entry.ms / 1000 <= PROMPT_SECONDS


def _observe(family: Observed, begin: Entry | None, end: Entry) -> tuple[tuple[Tale, ...], bool]:
    """Return the time from `begin` to `end`, if it can be known, and whether both ends came promptly."""
    if begin is None:
        return _NOTHING
    if _is_prompt(begin) and _is_prompt(end) and end.arrival >= begin.arrival:
        return ((family, "", end.arrival - begin.arrival),), True
    if begin.known and end.known:
        return ((family, "", float(max(end.second - begin.second, 0))),), False
    return _NOTHING
