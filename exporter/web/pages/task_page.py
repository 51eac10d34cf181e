"""The status of one task, as the pages and the JSON API show it. Pure functions: no I/O, no clock."""

from urllib.parse import quote

from msgspec import Struct

from exporter.protocol.events import Subject
from exporter.relay import ACTIVE, LOST, Entry, FoldSettings, HistoryEvent, Task, state_of

MAX_HISTORY = 100
#: A file is overdue when it has played both this much longer than its declared duration, and this many times
#: its duration. Shorter delays are normal. The alert CSSRelayFileOverdue uses the same limits.
OVERDUE_SECONDS, OVERDUE_RATIO = 120.0, 1.1
#: A task that plays nothing between two files for less than this is not mentioned.
MIN_IDLE_SECONDS = 60.0


class TaskStatus(Struct, frozen=True, gc=False):
    """The status of a task at one moment.

    Args:
        task, state: the task, and its state.
        played_seconds: how much of the current file has been played; below 0 if its start is in the future.
        overdue_seconds: how long ago the current file should have ended; 0 while the delay is normal.
        plays_nothing_seconds: how long an active task has played nothing after a file; 0 while that is short.
            It is always 0 for live sources, which send no file events.
    """

    task: Task
    state: str
    played_seconds: float = 0.0
    overdue_seconds: float = 0.0
    plays_nothing_seconds: float = 0.0

    @property
    def file(self) -> Entry | None:
        """The start of the current file; None if no file is being played."""
        return self.task.current.file if self.state == ACTIVE else None

    @property
    def exit(self) -> Entry | None:
        """The last exit; None if the task is active."""
        return None if self.state == ACTIVE else self.task.current.exit

    @property
    def since(self) -> float:
        """When the task entered its state, UNIX seconds."""
        # A lost task has neither a start nor an exit that shows when it was lost: its last callback counts.
        entry = {ACTIVE: self.task.current.start, LOST: None}.get(self.state, self.task.current.exit)
        return self.task.last_callback_at if entry is None else entry.ms / 1000

    @property
    def link(self) -> str:
        """The URL of the task's page."""
        return link_to(self.task.appid, self.task.task_id)


def status_of(task: Task, fold_settings: FoldSettings, now: float) -> TaskStatus:
    """Return the status of a task at `now`, UNIX seconds."""
    state, run = state_of(task, fold_settings), task.current
    if state != ACTIVE:
        return TaskStatus(task, state)
    if (file := run.file) is not None:
        played, length = now - file.ms / 1000, file.duration
        if length <= 0 or played <= length:
            return TaskStatus(task, state, played)
        late = played - length
        is_overdue = late > OVERDUE_SECONDS and played > length * OVERDUE_RATIO
        # The position stops at the end of the file: "12:00 of 10:00" would look like a bug of the page.
        return TaskStatus(task, state, length, late if is_overdue else 0.0)
    idle = now - run.finish.ms / 1000 if run.played and run.finish is not None else 0.0
    return TaskStatus(task, state, plays_nothing_seconds=idle if idle >= MIN_IDLE_SECONDS else 0.0)


def link_to(appid: int, task_id: str) -> str:
    """Return the URL of a task's page, for any task ID."""
    if task_id in {".", ".."}:  # browsers remove such segments from a path, even percent-encoded ones
        return f"/tasks/{appid}/?id={task_id}"
    return f"/tasks/{appid}/{quote(task_id, safe='')}"


def file_name(subject: str) -> str:
    """Return the index of a file, or for a file without one the beginning of its URL's digest."""
    return subject if subject.isdecimal() and len(subject) < 8 else f"~{subject[:8]}"


def event_subject(event: HistoryEvent) -> str:
    """Return the file or alarm type of an event as text; empty for an exit, as templates show its code."""
    match event.kind.subject:
        case Subject.FILE:
            return f"file {file_name(event.subject)}"
        case Subject.TEXT:
            return event.subject
        case Subject.NOTHING | Subject.EXIT_CODE:
            return ""
