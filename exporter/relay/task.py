"""A task and its settings: everything that the fold needs to know, and when a sweep must check it next."""

from math import inf

from msgspec import Struct

from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind

ACTIVE, FAILED, LOST, STOPPED, NONE = "active", "failed", "lost", "stopped", "none"

#: The states of a task, in the order in which a scrape shows tasks when there are too many. The store keeps
#: each state as its place in this order. A task of which no run is known has the state NONE; it is not shown.
STATES = (ACTIVE, FAILED, LOST, STOPPED)

#: The same states, with those first that somebody on call must check.
STATES_BY_SEVERITY = (FAILED, LOST, ACTIVE, STOPPED)


class FoldSettings(Struct, frozen=True, kw_only=True):
    """The settings of the fold: the flags `--relay.*`, all times in seconds.

    Args:
        retry: how long after a callback its redelivery may arrive.
        reorder: how long after a later callback an earlier one may arrive.
        lost_after: an active task is lost when it has had no callback for this long.
        forget_after: how long after its last callback, or its loss, a failed or lost task is deleted.
        forget_stopped_after: how long after its last callback a stopped task is deleted.
        ok_codes: exit codes of a planned end.
    """

    retry: float = 3600.0
    reorder: float = 180.0
    lost_after: float = 31 * 86400.0
    forget_after: float = 7 * 86400.0
    forget_stopped_after: float = 3600.0
    ok_codes: frozenset[str] = frozenset({"0"})


class Entry(Struct, frozen=True, gc=False, array_like=True):
    """A counted callback that starts or ends a run or a file.

    Args:
        kind: its event.
        ms: its event time, milliseconds; its arrival if the event time is unknown.
        has_milliseconds: whether `ms` is exact to the millisecond, not to the second.
        has_event_time: whether `ms` is the event time, not the arrival.
        arrival: when it was received, seconds.
        subject: the file or the exit code.
        duration: the declared duration of the file, seconds.
        emitted: its measurements that are recorded already: the `EMITTED_` flags of `fold`.
        message: the message of an exit.
    """

    kind: EventKind
    ms: int
    has_milliseconds: bool
    has_event_time: bool
    arrival: float
    subject: str = ""
    duration: float = 0.0
    emitted: int = 0
    message: str = ""

    @property
    def second(self) -> int:
        """The whole second of `ms`."""
        return self.ms // 1000


class RunState(Struct, frozen=True, gc=False, array_like=True):
    """The state of a task's current or last run, after some of its callbacks in the order of event times.

    Args:
        active: whether the task is between a start and an exit.
        lost: whether the run ended without an exit: no callback arrived for too long.
        start: the TaskStart of the run; if the run is inferred, the start of its first file.
        exit: the last exit of the task.
        file: the start of the file that plays.
        finish: the last finish of a file.
        played: whether a file has finished in the current run.
    """

    active: bool = False
    lost: bool = False
    start: Entry | None = None
    exit: Entry | None = None
    file: Entry | None = None
    finish: Entry | None = None
    played: bool = False

    @property
    def inferred(self) -> bool:
        """Whether the run is known from a file only, without its TaskStart."""
        return self.start is not None and self.start.kind is EventKind.FILE_START


class Task(Struct, frozen=True, gc=False, kw_only=True, array_like=True):
    """A task: what is shown of it, and what is needed to apply its next callback.

    Args:
        appid, task_id, to_host, source_host, stream_id, to_url, sources: as in `Callback`.
        first_seen: arrival of its first callback, seconds.
        last_callback_at: arrival of its newest counted callback, seconds.
        newest_ms: its newest event time, milliseconds.
        runs: number of TaskStarts counted.
        start_stated: the fields `task_start_time` (ms) and `event_time` (s) of the newest start with both.
        identities: the callbacks counted within the retry window, with their arrivals in seconds.
        dedup_floor_ms: callbacks with an event time up to this one are stale: identities were dropped.
        settled: the run state after all callbacks older than the reorder window.
        log: the callbacks since then, by event time.
        current: the run state after the whole log.
        settled_until: the second up to which callbacks are settled.
    """

    appid: int
    task_id: str
    to_host: str = ""
    source_host: str = ""
    stream_id: str = ""
    to_url: str = ""
    sources: str = ""
    first_seen: float = 0.0
    last_callback_at: float = 0.0
    newest_ms: int = 0
    runs: int = 0
    start_stated: tuple[int, int] | None = None
    identities: dict[str, float] = {}
    dedup_floor_ms: int = 0
    settled: RunState = RunState()
    log: tuple[Entry, ...] = ()
    current: RunState = RunState()
    settled_until: int = 0


def key_of(source: Task | Callback) -> str:
    """Return the key of a task, from the task or from a callback of it.

    A nameless task, see `relay.attribution`, has its sources in the key instead of an ID.
    """
    return f"{source.appid}/{source.task_id}" if source.task_id else f"{source.appid}?{source.sources}"


def state_of(task: Task, settings: FoldSettings) -> str:
    """Return the state of `task`: one of STATES, or NONE if no run of it is known."""
    run = task.current
    if not task.task_id:
        return NONE
    if run.active:
        return ACTIVE
    if run.lost:
        return LOST
    if run.exit is None:
        return NONE
    return STOPPED if run.exit.subject in settings.ok_codes else FAILED


def entry_due(entry: Entry, settings: FoldSettings) -> float:
    """Return the time (seconds) from which on no callback that belongs before `entry` is expected.

    An event time in whole seconds may be any time within that second, so the second must be over. If the
    event time is ahead of the arrival, at most one second more is waited.
    """
    end_of_second = entry.ms // 1000 + 1.0
    return min(max(end_of_second, entry.arrival), entry.arrival + 1.0) + settings.reorder


def lost_at(task: Task, settings: FoldSettings) -> float:
    """Return when an active task is lost if no callback arrives, or when a lost one was lost, seconds."""
    run = task.current
    if run.inferred and run.start is not None:
        # Its callbacks are about files, so the next one is due when the file has played.
        duration = (run.file or run.finish or run.start).duration
        return task.last_callback_at + min(duration + settings.retry, settings.lost_after)
    return task.last_callback_at + settings.lost_after


def forgotten_at(task: Task, settings: FoldSettings) -> float:
    """Return when a sweep may delete `task`, seconds; not before the end of its retry window."""
    state = state_of(task, settings)
    if state == ACTIVE:
        return inf
    since = lost_at(task, settings) if state == LOST else task.last_callback_at
    after = settings.forget_after if state in (FAILED, LOST) else settings.forget_stopped_after
    return since + max(after, settings.retry, settings.reorder + 1.0)


def next_due(task: Task, settings: FoldSettings) -> float:
    """Return when a sweep must check `task` next, if no other callback arrives, seconds."""
    if not task.log:
        return lost_at(task, settings) if task.current.active else forgotten_at(task, settings)
    due = inf
    for entry in task.log:
        due = min(due, entry_due(entry, settings))
    return due
