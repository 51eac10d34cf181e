"""The in-order state machine: what a task's callbacks mean when they are read by event time.

`walk` takes callbacks one by one, as they happened, and says for each where the task then stands, what
can be told of it, and what was missing before it. It never asks in which order they came, but for ties.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.events import EventKind, check_complete
from exporter.relay.counted import Counted, Measurement, Observed
from exporter.relay.task import Entry, RunState

PROMPT_SECONDS = 5.0


class Transition(Struct, frozen=True, gc=False):
    """One callback taken in.

    Args:
        entry: the callback.
        course: where the task stands after it.
        observations: durations that end with it, and whether both their ends came promptly.
        gaps: what was missing before it.
        restarted: whether it began again a task that had run before.
    """

    entry: Entry
    state: RunState
    observations: tuple[Measurement, ...] = ()
    is_prompt: bool = False
    missing: tuple[Measurement, ...] = ()
    is_restart: bool = False


def apply_log(state: RunState, log: Sequence[Entry]) -> Iterator[Transition]:
    """Take `log` (sorted by the second) into `course`, entry by entry."""
    begin = 0
    while begin < len(log):
        end = begin + 1
        while end < len(log) and log[end].second == log[begin].second:
            end += 1
        group = log[begin:end] if end == begin + 1 else in_order(log[begin:end], state.file)
        for index, entry in enumerate(group, 1):
            transition = _TRANSITIONS[entry.kind](state, entry, (*group[index:], *log[end:]))
            state = transition.state
            yield transition
        begin = end


def state_after(state: RunState, log: Sequence[Entry]) -> RunState:
    """Return where the task stands when `log` is taken in."""
    for transition in apply_log(state, log):
        state = transition.state
    return state


def apply(state: RunState, entry: Entry) -> Transition:
    """Take one callback that is newer than all before it."""
    return _TRANSITIONS[entry.kind](state, entry, ())


def in_order(group: Sequence[Entry], playing: Entry | None) -> list[Entry]:
    """Return the entries of one second in the order they happened.

    Milliseconds decide where all have them, then arrival. A file event carries whole seconds: it goes
    where it makes sense, so that its arrival does not matter. A finish of what was playing comes first; a
    file begins after the second's start, else before the second's exit; its finish follows it.
    """
    files = [e for e in group if e.kind is EventKind.FILE_START and not e.has_milliseconds]
    finishes = [e for e in group if e.kind is EventKind.FILE_FINISH and not e.has_milliseconds]
    anchors = [e for e in group if e.has_milliseconds or e.kind not in _FILE_EVENTS]
    has_milliseconds = all(e.has_milliseconds for e in anchors)
    anchors.sort(key=lambda e: (e.ms if has_milliseconds else 0, e.arrival))
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


def _start(state: RunState, entry: Entry, rest: Sequence[Entry]) -> Transition:
    missing: tuple[Measurement, ...] = ()
    seen = _NOTHING
    if state.running:
        missing = (Counted.MISSED_EXIT.increment, *_cut_off(state, rest))
    elif not state.lost:
        seen = _observe(Observed.DOWNTIME, state.exit, entry)
    is_restart = state.start is not None or state.exit is not None
    begun = RunState(running=True, start=entry, exit=state.exit, finish=state.finish)
    return Transition(entry, begun, *seen, missing, is_restart)


def _file_start(state: RunState, entry: Entry, rest: Sequence[Entry]) -> Transition:
    if not state.running:
        return _inferred(state, entry)
    missing: tuple[Measurement, ...] = ()
    seen = _NOTHING
    if state.file is not None:
        missing = () if _finish_follows(rest, state.file) else (Counted.MISSED_FINISH.increment,)
    elif state.played:
        seen = _observe(Observed.FILE_GAP, state.finish, entry)
    else:  # the first file of a run that was begun, since an inferred one has had a file
        seen = _observe(Observed.START_TO_FILE, state.start, entry)
    return Transition(entry, replace(state, file=entry), *seen, missing)


def _inferred(state: RunState, entry: Entry) -> Transition:
    """A file begins though nothing runs: there was a start, unless the file is older than the exit."""
    if state.exit is not None and not is_later(entry, state.exit):
        return Transition(entry, state)
    begun = RunState(running=True, start=entry, exit=state.exit, file=entry, finish=state.finish)
    return Transition(entry, begun, missing=(Counted.MISSED_START.increment,))


def _file_finish(state: RunState, entry: Entry, rest: Sequence[Entry]) -> Transition:
    if not state.running or (state.file is not None and not _same(entry, state.file)):
        return Transition(entry, replace(state, finish=entry))
    observations, is_prompt = _observe(Observed.FILE_PLAY, state.file, entry)
    length = (state.file.duration if state.file else 0) or entry.duration
    if observations and length > 0:
        observations += ((Observed.FILE_PLAY_RATIO, "", observations[0][2] / length),)
    return Transition(entry, replace(state, file=None, finish=entry, played=True), observations, is_prompt)


def _exit(state: RunState, entry: Entry, rest: Sequence[Entry]) -> Transition:
    missing: tuple[Measurement, ...] = ()
    seen = _NOTHING
    if state.running:
        missing = _cut_off(state, rest)
        seen = _NOTHING if state.inferred else _observe(Observed.RUN, state.start, entry)
    elif not state.lost:
        missing = (Counted.MISSED_START.increment,)
    ended = RunState(start=state.start, exit=entry, finish=state.finish)
    return Transition(entry, ended, *seen, missing)


#: What each event does to a run: the one place where a task may change its phase.
_TRANSITIONS = check_complete(
    {
        EventKind.START: _start,
        EventKind.FILE_START: _file_start,
        EventKind.FILE_FINISH: _file_finish,
        EventKind.EXIT: _exit,
    }
)
_FILE_EVENTS = (EventKind.FILE_START, EventKind.FILE_FINISH)
_NOTHING: tuple[tuple[Measurement, ...], bool] = ((), False)


def _cut_off(state: RunState, rest: Sequence[Entry]) -> tuple[Measurement, ...]:
    if state.file is None or _finish_follows(rest, state.file):
        return ()
    return (Counted.FILE_INTERRUPTED.increment,)


def _finish_follows(rest: Sequence[Entry], file: Entry) -> bool:
    """Whether a finish of `file` that states no time was merely overtaken.

    One that states its time stands where it belongs; if it stands later, it is of a later play.
    """
    for entry in rest:
        if entry.kind is EventKind.START:
            return False
        if entry.kind in _FILE_EVENTS and entry.subject == file.subject:
            return entry.kind is EventKind.FILE_FINISH and not entry.has_event_time
    return False


def _same(entry: Entry, file: Entry | None) -> bool:
    return file is not None and entry.subject == file.subject


def is_later(a: Entry, b: Entry) -> bool:
    """Whether `a` happened after `b`: by the second, by milliseconds where both have them."""
    return a.ms > b.ms if a.has_milliseconds and b.has_milliseconds else a.second > b.second


def _is_prompt(entry: Entry) -> bool:
    """Whether its arrival stands for the time it happened."""
    return not entry.has_event_time or entry.arrival - entry.ms / 1000 <= PROMPT_SECONDS


def _observe(family: Observed, begin: Entry | None, end: Entry) -> tuple[tuple[Measurement, ...], bool]:
    """Return the time from `begin` to `end`, if it can be known, and whether both ends came promptly."""
    if begin is None:
        return _NOTHING
    if _is_prompt(begin) and _is_prompt(end) and end.arrival >= begin.arrival:
        return ((family, "", end.arrival - begin.arrival),), True
    if begin.has_event_time and end.has_event_time:
        return ((family, "", float(max(end.second - begin.second, 0))),), False
    return _NOTHING
