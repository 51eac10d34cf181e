"""The state machine of a task: its callbacks, read in the order of their event times.

Theory of operation
-------------------

Callbacks arrive late, twice and out of order. Two other modules deal with that. `deduplication` drops
redeliveries, so that each callback is counted once. `fold` keeps the counted callbacks of the last few
minutes (the reorder window) in the log of the task, sorted by event time. This module reads such a log from
the oldest entry to the newest. The order of arrival does not matter to it, except for entries of the same
second.

A task is in one of three run states. `RunState` holds it, with what is needed of the past:

    no run         before the first start, after an exit, and after the run was lost
    between files  in a run, while no file plays
    playing        in a run, while a file plays

Each kind of entry has one function below. It returns a `Transition`: the next run state, the durations that
end with the entry, and what is missing before it. A `+` marks a counter that increases because something is
missing:

    entry         no run                   between files                 playing
    ------------  -----------------------  ----------------------------  ------------------------------
    START         between files            between files, +missed_exit   between files, +missed_exit,
                                                                         +files_interrupted
    FILE_START    playing, +missed_start   playing                       playing, +missed_finish
    FILE_FINISH   no run                   between files                 between files; if the finish is
                                                                         of another file: playing
    EXIT          no run, +missed_start    no run                        no run, +files_interrupted

There are three exceptions. An exit after a lost run counts no `missed_start`. The start of a file that is
not later than the last exit changes nothing. A `+` for a file is dropped if the finish of that file follows
in the log without an event time.

A run is *inferred* if its first known entry is the start of a file: there was a TaskStart before it. If
that TaskStart arrives within the reorder window, `fold` reads the log again with it, and nothing is
missing. For the same reason `fold` counts what is missing only when an entry leaves the log: nothing can
arrive before it then.

A worked example: a run with two files. Its exit arrives while the second file still plays.

    >>> def entry(kind, second, subject=""):
    ...     return Entry(kind, second * 1000, False, True, arrival=second + 0.5, subject=subject)
    >>> def read(log):
    ...     for transition in apply_log(RunState(), log):
    ...         state, measured = transition.state, transition.observations + transition.missing
    ...         no_file = "between files" if state.active else "no run"
    ...         line = [f"{transition.entry.kind.name:11}", state.file.subject if state.file else no_file]
    ...         print(*line, *(f"| {family} {value}" for family, _, value in measured))
    >>> log = [
    ...     entry(EventKind.START, 0),
    ...     entry(EventKind.FILE_START, 2, "a.mp4"),
    ...     entry(EventKind.FILE_FINISH, 32, "a.mp4"),
    ...     entry(EventKind.FILE_START, 33, "b.mp4"),
    ...     entry(EventKind.EXIT, 60, "0"),
    ... ]
    >>> read(log)
    START       between files
    FILE_START  a.mp4 | start_to_file_latency_seconds 2.0
    FILE_FINISH between files | file_play_seconds 30.0
    FILE_START  b.mp4 | file_gap_seconds 1.0
    EXIT        no run | run_seconds 60.0 | files_interrupted_total 1

In truth `b.mp4` finished one second before the exit, but its callback arrives later. By its event time it
takes the place before the exit. The log is read again, and no file is interrupted any more:

    >>> log.insert(4, entry(EventKind.FILE_FINISH, 59, "b.mp4"))
    >>> read(log)
    START       between files
    FILE_START  a.mp4 | start_to_file_latency_seconds 2.0
    FILE_FINISH between files | file_play_seconds 30.0
    FILE_START  b.mp4 | file_gap_seconds 1.0
    FILE_FINISH between files | file_play_seconds 26.0
    EXIT        no run | run_seconds 60.0
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.protocol.events import EventKind, check_complete
from exporter.relay.counted import Counted, Measurement, Observed
from exporter.relay.task import Entry, RunState

#: A callback that arrives this soon after its event time is prompt. Its arrival then measures durations
#: better than an event time in whole seconds.
PROMPT_SECONDS = 5.0


class Transition(Struct, frozen=True, gc=False):
    """What one entry does to the run state.

    Args:
        state: the run state after it.
        observations: the durations that end with it.
        is_prompt: whether both callbacks of each duration arrived promptly.
        missing: what is missing before it, as increments.
        is_restart: whether it starts a task that had a run before.
    """

    entry: Entry
    state: RunState
    observations: tuple[Measurement, ...] = ()
    is_prompt: bool = False
    missing: tuple[Measurement, ...] = ()
    is_restart: bool = False


def apply_log(state: RunState, log: Sequence[Entry]) -> Iterator[Transition]:
    """Apply the entries of `log`, sorted by the second, to `state`; yield a transition for each."""
    begin = 0
    while begin < len(log):
        end = begin + 1
        while end < len(log) and log[end].second == log[begin].second:
            end += 1
        group = log[begin:end] if end == begin + 1 else in_order(log[begin:end], state.file)
        for index, entry in enumerate(group, 1):
            transition = TRANSITIONS[entry.kind](state, entry, (*group[index:], *log[end:]))
            state = transition.state
            yield transition
        begin = end


def state_after(state: RunState, log: Sequence[Entry]) -> RunState:
    """Return the run state after all entries of `log`."""
    for transition in apply_log(state, log):
        state = transition.state
    return state


def in_order(group: Sequence[Entry], playing: Entry | None) -> list[Entry]:
    """Return the entries of one second in the order in which they happened.

    Starts and exits are ordered by milliseconds if all of them have them, and else by arrival. File events
    have whole seconds. They take the place where they make sense, so that their arrival does not matter:
    first the finish of the file that was playing, then each file's start and finish, after the start of a run
    in this second, or before its exit.

    Args:
        playing: the file that plays when the second begins.
    """
    files = [e for e in group if e.kind is EventKind.FILE_START and not e.has_milliseconds]
    finishes = [e for e in group if e.kind is EventKind.FILE_FINISH and not e.has_milliseconds]
    anchors = [e for e in group if e.has_milliseconds or e.kind not in _FILE_EVENTS]
    has_milliseconds = all(e.has_milliseconds for e in anchors)
    anchors.sort(key=lambda e: (e.ms if has_milliseconds else 0, e.arrival))
    started = {e.subject for e in files}
    first = [e for e in finishes if _is_of(e, playing) or e.subject not in started]
    rest = [e for e in finishes if e not in first]
    finished = {e.subject for e in rest}
    files.sort(key=lambda e: (e.subject not in finished, e.subject))
    inner = [e for f in files for e in (f, *(n for n in rest if n.subject == f.subject))]
    place = _place_of_files(anchors)
    return [*first, *anchors[:place], *inner, *anchors[place:]]


def _place_of_files(anchors: list[Entry]) -> int:
    starts = [i for i, e in enumerate(anchors, 1) if e.kind is EventKind.START]
    exits = [i for i, e in enumerate(anchors) if e.kind is EventKind.EXIT]
    return starts[-1] if starts else exits[0] if exits else len(anchors)


def _on_start(state: RunState, entry: Entry, rest: Sequence[Entry]) -> Transition:
    missing: tuple[Measurement, ...] = ()
    duration = _NOTHING
    if state.active:
        missing = (Counted.MISSED_EXIT.increment, *_interruption(state, rest))
    elif state.exit is not None and not state.lost:
        # After a lost run it is not known when the downtime began.
        duration = _duration(Observed.DOWNTIME, state.exit, entry)
    is_restart = state.start is not None or state.exit is not None
    started = RunState(active=True, start=entry, exit=state.exit, finish=state.finish)
    return Transition(entry, started, *duration, missing, is_restart)


def _on_file_start(state: RunState, entry: Entry, rest: Sequence[Entry]) -> Transition:
    if not state.active:
        return _infer_run(state, entry)
    missing: tuple[Measurement, ...] = ()
    duration = _NOTHING
    if state.file is not None:
        missing = () if _is_finish_overtaken(rest, state.file) else (Counted.MISSED_FINISH.increment,)
    elif state.played:
        duration = _duration(Observed.FILE_GAP, state.finish, entry)
    else:
        # The first file of its run. The run has a TaskStart: an inferred run begins with a file.
        duration = _duration(Observed.START_TO_FILE, state.start, entry)
    return Transition(entry, replace(state, file=entry), *duration, missing)


def _infer_run(state: RunState, entry: Entry) -> Transition:
    if state.exit is not None and not is_later(entry, state.exit):
        # The file belongs to the run that has exited.
        return Transition(entry, state)
    inferred = RunState(active=True, start=entry, exit=state.exit, file=entry, finish=state.finish)
    return Transition(entry, inferred, missing=(Counted.MISSED_START.increment,))


def _on_file_finish(state: RunState, entry: Entry, rest: Sequence[Entry]) -> Transition:
    if not state.active or (state.file is not None and not _is_of(entry, state.file)):
        return Transition(entry, replace(state, finish=entry))
    observations, is_prompt = _duration(Observed.FILE_PLAY, state.file, entry)
    length = (state.file.duration if state.file else 0) or entry.duration
    if observations and length > 0:
        observations += ((Observed.FILE_PLAY_RATIO, "", observations[0][2] / length),)
    return Transition(entry, replace(state, file=None, finish=entry, played=True), observations, is_prompt)


def _on_exit(state: RunState, entry: Entry, rest: Sequence[Entry]) -> Transition:
    missing: tuple[Measurement, ...] = ()
    duration = _NOTHING
    if state.active:
        missing = _interruption(state, rest)
        duration = _NOTHING if state.inferred else _duration(Observed.RUN, state.start, entry)
    elif not state.lost:
        missing = (Counted.MISSED_START.increment,)
    ended = RunState(start=state.start, exit=entry, finish=state.finish)
    return Transition(entry, ended, *duration, missing)


#: What each event does to the run state. The functions also get the later entries of the log, to find a
#: finish that was overtaken. A task becomes lost, without an event, in `fold.settle`.
TRANSITIONS = check_complete(
    "relay.state_machine.TRANSITIONS",
    {
        EventKind.START: _on_start,
        EventKind.FILE_START: _on_file_start,
        EventKind.FILE_FINISH: _on_file_finish,
        EventKind.EXIT: _on_exit,
    },
)
_FILE_EVENTS = (EventKind.FILE_START, EventKind.FILE_FINISH)
_NOTHING: tuple[tuple[Measurement, ...], bool] = ((), False)


def _interruption(state: RunState, rest: Sequence[Entry]) -> tuple[Measurement, ...]:
    if state.file is None or _is_finish_overtaken(rest, state.file):
        return ()
    return (Counted.FILE_INTERRUPTED.increment,)


def _is_finish_overtaken(rest: Sequence[Entry], file: Entry) -> bool:
    """Return whether a later entry is the finish of `file`, placed too late because it has no event time.

    A finish with an event time is in its right place. If such a finish is in `rest`, it belongs to a later
    play of the file.
    """
    for entry in rest:
        if entry.kind is EventKind.START:
            return False
        if entry.kind in _FILE_EVENTS and entry.subject == file.subject:
            return entry.kind is EventKind.FILE_FINISH and not entry.has_event_time
    return False


def _is_of(entry: Entry, file: Entry | None) -> bool:
    return file is not None and entry.subject == file.subject


def is_later(a: Entry, b: Entry) -> bool:
    """Return whether `a` happened after `b`: by milliseconds if both have them, and else by the second."""
    return a.ms > b.ms if a.has_milliseconds and b.has_milliseconds else a.second > b.second


def _is_prompt(entry: Entry) -> bool:
    return not entry.has_event_time or entry.arrival - entry.ms / 1000 <= PROMPT_SECONDS


def _duration(family: Observed, begin: Entry | None, end: Entry) -> tuple[tuple[Measurement, ...], bool]:
    """Return the duration between two entries, none if it is not known, and whether both were prompt."""
    if begin is None:
        return _NOTHING
    if _is_prompt(begin) and _is_prompt(end) and end.arrival >= begin.arrival:
        return ((family, "", end.arrival - begin.arrival),), True
    if begin.has_event_time and end.has_event_time:
        return ((family, "", float(max(end.second - begin.second, 0))),), False
    return _NOTHING
