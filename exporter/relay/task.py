"""What is remembered of a task, as plain values.

Everything that a decision of the fold rests on is here; nothing here decides.
"""

from math import inf

from msgspec import Struct

from exporter.protocol.events import EventKind

ACTIVE, FAILED, LOST, STOPPED, NONE = "active", "failed", "lost", "stopped", "none"

#: The states a task can be seen in, those kept longest first. NONE is a task no run is known of.
STATES = (ACTIVE, FAILED, LOST, STOPPED)

#: The same states in the order in which somebody on call looks at them.
STATES_BY_SEVERITY = (FAILED, LOST, ACTIVE, STOPPED)


class FoldSettings(Struct, frozen=True, kw_only=True):
    """How long the fold waits and remembers, all in seconds; see `--relay.*`.

    Args:
        retry: for how long the sender may repeat a callback.
        reorder: for how long a callback may be overtaken by later ones.
        lost_after: an active task without any callback for so long is lost.
        forget_after, forget_stopped_after: when a failed or lost task, and a stopped one, is forgotten.
        ok_codes: exit codes of a planned end.
    """

    retry: float = 3600.0
    reorder: float = 180.0
    lost_after: float = 31 * 86400.0
    forget_after: float = 7 * 86400.0
    forget_stopped_after: float = 3600.0
    ok_codes: frozenset[str] = frozenset({"0"})


class Entry(Struct, frozen=True, gc=False, array_like=True):
    """A counted callback that begins or ends something.

    Args:
        kind: its event, one that moves its task.
        ms: its event time, milliseconds; the arrival stands in where it is unknown.
        has_milliseconds: whether `ms` is more than a whole second.
        has_event_time: whether `ms` is the callback's own.
        arrival: when it came, seconds.
        subject: the file or the exit code.
        duration: the declared length of the file, seconds.
        emitted: what has been told of it already (see `state_machine`).
        message: what an exit says of itself.
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
        return self.ms // 1000


class RunState(Struct, frozen=True, gc=False, array_like=True):
    """Where a task stands after some of its callbacks, taken in the order of their event times.

    Args:
        running: it is between a start and an exit.
        lost: its run was given up.
        start: what began its current or last run; a file's start if that run was inferred.
        exit: its last exit.
        file: the file being played.
        finish: the last file that finished.
        played: a file finished in the current run.
    """

    running: bool = False
    lost: bool = False
    start: Entry | None = None
    exit: Entry | None = None
    file: Entry | None = None
    finish: Entry | None = None
    played: bool = False

    @property
    def inferred(self) -> bool:
        """Whether the current or last run is known from a file alone."""
        return self.start is not None and self.start.kind is EventKind.FILE_START


class Task(Struct, frozen=True, gc=False, kw_only=True, array_like=True):
    """A task: what is shown of it, and what it takes to judge its next callback.

    Args:
        appid, task_id, to_host, source_host, stream_id, to_url, sources: as in `Callback`.
        first_seen, last_callback_at: arrival of its first and of its newest counted callback, seconds.
        newest_ms: the newest event time known of it.
        runs: TaskStarts counted.
        start_stated: the time in milliseconds and the event_time of the newest start that stated both.
        identities: what has been counted within the retry window, by arrival.
        dedup_floor_ms: event times up to here can't be told from redeliveries: identities were given up.
        settled: where it stood when everything older than the reorder window was taken in.
        log: the counted callbacks since then, by event time.
        current: `settled` with the log taken in: where it stands.
        settled_until: the second up to which `settled` reaches.
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


def state_of(task: Task, settings: FoldSettings) -> str:
    """Return the state of `task`, NONE while no run of it is known."""
    now = task.current
    if not task.task_id:
        return NONE
    if now.running:
        return ACTIVE
    if now.lost:
        return LOST
    if now.exit is None:
        return NONE
    return STOPPED if now.exit.subject in settings.ok_codes else FAILED


def entry_due(entry: Entry, settings: FoldSettings) -> float:
    """Return when nothing can come before `entry` any more, seconds.

    A time in whole seconds may stand for anything within that second, so that it must be over; a time
    ahead of the arrival is not waited for.
    """
    over = entry.ms // 1000 + 1.0
    if over <= entry.arrival:
        return entry.arrival + settings.reorder
    return min(over, entry.arrival + 1.0) + settings.reorder


def lost_at(task: Task, settings: FoldSettings) -> float:
    """Return when `task` is lost unless another callback comes, seconds; infinity if it is not running."""
    return _silent_until(task, settings) if task.current.running else inf


def _silent_until(task: Task, settings: FoldSettings) -> float:
    """Return up to when a run may go on without a callback, seconds."""
    now = task.current
    if now.inferred and now.start is not None:
        length = (now.file or now.finish or now.start).duration
        return task.last_callback_at + min(length + settings.retry, settings.lost_after)
    return task.last_callback_at + settings.lost_after


def forgotten_at(task: Task, settings: FoldSettings) -> float:
    """Return when `task` is forgotten, seconds; never before its redeliveries can be told no more."""
    state = state_of(task, settings)
    if state == ACTIVE:
        return inf
    # A lost task is first known to be one when it is given up, not when it was last heard of.
    since = _silent_until(task, settings) if state == LOST else task.last_callback_at
    after = settings.forget_after if state in (FAILED, LOST) else settings.forget_stopped_after
    return since + max(after, settings.retry, settings.reorder + 1.0)


def next_due(task: Task, settings: FoldSettings) -> float:
    """Return when time alone next changes something about `task`, seconds."""
    if task.log:
        return min([entry_due(entry, settings) for entry in task.log])
    return min(lost_at(task, settings), forgotten_at(task, settings))
