"""What the pages and the JSON API say of one task. Pure."""

from urllib.parse import quote

from msgspec import Struct

from exporter.protocol.events import Subject
from exporter.relay import ACTIVE, LOST, Entry, FoldSettings, HistoryEvent, Task, state_of

MAX_HISTORY = 100
OVERDUE_SECONDS, OVERDUE_RATIO = 120.0, 1.1
SILENT_SECONDS = 60.0


class TaskStatus(Struct, frozen=True, gc=False):
    """A task at one moment.

    Args:
        task, state: the task, and its state at that moment.
        played: how much of the file being played has been played, seconds; below 0 if it begins later.
        overdue: how long ago that file should have ended, seconds; 0 while the delay may be jitter.
        silent: for how long an active task that has played a file plays none, seconds; 0 while that is short.
    """

    task: Task
    state: str
    played: float = 0.0
    overdue: float = 0.0
    silent: float = 0.0

    @property
    def file(self) -> Entry | None:
        """The start of the file being played."""
        return self.task.current.file if self.state == ACTIVE else None

    @property
    def exit(self) -> Entry | None:
        """The newest exit, unless the task runs again."""
        return None if self.state == ACTIVE else self.task.current.exit

    @property
    def since(self) -> float:
        """When the task came into its state, UNIX seconds."""
        entry = {ACTIVE: self.task.current.start, LOST: None}.get(self.state, self.task.current.exit)
        return self.task.last_callback_at if entry is None else entry.ms / 1000

    @property
    def link(self) -> str:
        """The address of its page."""
        return link_to(self.task.appid, self.task.task_id)


def status_of(task: Task, fold_settings: FoldSettings, now: float) -> TaskStatus:
    """Return how `task` stands at `now`, UNIX seconds."""
    state, run = state_of(task, fold_settings), task.current
    if state != ACTIVE:
        return TaskStatus(task, state)
    if (file := run.file) is not None:
        played, length = now - file.ms / 1000, file.duration
        if length <= 0 or played <= length:
            return TaskStatus(task, state, played)
        late = played - length
        is_overdue = late > OVERDUE_SECONDS and played > length * OVERDUE_RATIO
        return TaskStatus(task, state, length, late if is_overdue else 0.0)
    silent = now - run.finish.ms / 1000 if run.played and run.finish is not None else 0.0
    return TaskStatus(task, state, silent=silent if silent >= SILENT_SECONDS else 0.0)


def link_to(appid: int, task_id: str) -> str:
    """Return the address of a task's page, whatever its id is made of."""
    if task_id in {".", ".."}:  # a browser would walk up a path
        return f"/tasks/{appid}/?id={task_id}"
    return f"/tasks/{appid}/{quote(task_id, safe='')}"


def file_name(subject: str) -> str:
    """Return a file's index, or the beginning of the digest that stands for its URL."""
    return subject if subject.isdecimal() and len(subject) < 8 else f"~{subject[:8]}"


def event_subject(event: HistoryEvent) -> str:
    """Return what an event is about, as a text; an exit code is shown with its meaning instead."""
    match event.kind.subject:
        case Subject.FILE:
            return f"file {file_name(event.subject)}"
        case Subject.TEXT:
            return event.subject
        case Subject.NOTHING | Subject.EXIT_CODE:
            return ""
