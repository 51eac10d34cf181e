"""What is said of one task, in a row of the table and on a page of its own. Pure."""

from collections.abc import Sequence
from urllib.parse import quote

from msgspec import Struct

from exporter.protocol.events import Subject
from exporter.relay import ACTIVE, FAILED, LOST, STOPPED, Entry, Happening, Task, Windows, history, state_of
from exporter.web.phrases import When, code_hint, count, position, span, visible, when

MAX_HISTORY = 100
OVERDUE_SECONDS, OVERDUE_RATIO = 120.0, 1.1
SILENT_SECONDS = 60.0


class Known(Struct, frozen=True, gc=False):
    """A task, its state, and whether it needs a look though it is active: it is `silent` or `overdue`."""

    task: Task
    state: str
    watch: str = ""


class Code(Struct, frozen=True):
    """An exit code, and what it may stand for."""

    code: str
    hint: str
    message: str


class Playing(Struct, frozen=True):
    """The file being played: its name, how far it is, and whether it should have ended."""

    name: str
    at: str
    length: str
    percent: int
    overdue: str
    began: When


class Row(Struct, frozen=True):
    """A task as the table shows it.

    Args:
        appid, task_id, stream, destination: what may be shown; empty where unknown.
        link: the address of its page.
        state: its state.
        since: when it came into it.
        playing: the file being played.
        silence: for how long it has played nothing though it has played before.
        exit: its newest exit, where it does not run.
        runs: runs counted.
        heard: its newest callback.
    """

    appid: int
    task_id: str
    stream: str
    destination: str
    link: str
    state: str
    since: When
    playing: Playing | None
    silence: str
    exit: Code | None
    runs: int
    heard: When


class Step(Struct, frozen=True):
    """Something that happened to a task."""

    at: When
    event: str
    subject: str
    code: Code | None


class TaskView(Struct, frozen=True):
    """The page of a task.

    Args:
        row: what the table says of it.
        source: host of its source.
        inferred: its run is known from a file alone.
        run_began: when its current or last run began.
        last_exit, ended_at: its newest exit, and when that was.
        first_seen: when it was first heard of.
        steps: what is still known of its past, the newest first; `more` is how many are not shown.
    """

    row: Row
    source: str
    inferred: bool
    run_began: When | None
    last_exit: Code | None
    ended_at: When | None
    first_seen: When
    steps: Sequence[Step]
    more: str


def link_to(appid: int, task_id: str) -> str:
    """Return the address of a task's page, whatever its id is made of."""
    if task_id in {".", ".."}:  # a browser would walk up a path
        return f"/tasks/{appid}/?id={task_id}"
    return f"/tasks/{appid}/{quote(task_id, safe='')}"


def look_at(task: Task, windows: Windows, now: float) -> Known:
    """Return a task with what is to be known of it at a glance."""
    state = state_of(task, windows)
    if state != ACTIVE:
        return Known(task, state)
    if overdue_for(task.now.file, now):
        return Known(task, state, "overdue")
    return Known(task, state, "silent" if silent_for(task, now) >= SILENT_SECONDS else "")


def row_of(known: Known, now: float) -> Row:
    """Return what the table says of a task."""
    task, state = known.task, known.state
    course = task.now
    return Row(
        appid=task.appid,
        task_id=visible(task.task_id),
        stream=visible(task.stream_id),
        destination=visible(task.to_url or task.to_host),
        link=link_to(task.appid, task.task_id),
        state=state,
        since=when(since(known), now),
        playing=_playing(course.file, now) if state == ACTIVE and course.file else None,
        silence=span(silent_for(task, now)) if known.watch == "silent" else "",
        exit=code_of(course.exit) if state in (FAILED, STOPPED) and course.exit else None,
        runs=task.runs,
        heard=when(task.heard, now),
    )


def task_view(task: Task, windows: Windows, now: float) -> TaskView:
    """Return the page of a task."""
    course, past = task.now, history(task)
    more = len(past) - MAX_HISTORY
    return TaskView(
        row=row_of(look_at(task, windows, now), now),
        source=visible(task.source_host),
        inferred=course.inferred,
        run_began=when(course.start.ms / 1000, now) if course.start else None,
        last_exit=code_of(course.exit) if course.exit else None,
        ended_at=when(course.exit.ms / 1000, now) if course.exit else None,
        first_seen=when(task.first_seen, now),
        steps=[_step(happening, now) for happening in past[:MAX_HISTORY]],
        more=count(more, "older event") if more > 0 else "",
    )


def since(known: Known) -> float:
    """Return when a task came into its state, seconds."""
    course = known.task.now
    entry = {ACTIVE: course.start, LOST: None}.get(known.state, course.exit)
    return known.task.heard if entry is None else entry.ms / 1000


def silent_for(task: Task, now: float) -> float:
    """Return for how long an active task that has played a file plays none, seconds: dead air."""
    course = task.now
    if course.file is not None or not course.played or course.finish is None:
        return 0.0
    return now - course.finish.ms / 1000


def overdue_for(file: Entry | None, now: float) -> float:
    """Return how far past its length a file is played, seconds; 0 as long as that may be jitter."""
    if file is None or file.duration <= 0:
        return 0.0
    played = now - file.ms / 1000
    late = played - file.duration
    return late if late > OVERDUE_SECONDS and played > file.duration * OVERDUE_RATIO else 0.0


def code_of(exit_: Entry | Happening) -> Code:
    """Return an exit as it is shown."""
    return Code(exit_.subject or "no code", code_hint(exit_.subject), visible(exit_.message))


def _playing(file: Entry, now: float) -> Playing:
    length = file.duration
    played = max(now - file.ms / 1000, 0.0)
    at = min(played, length) if length > 0 else played
    overdue = overdue_for(file, now)
    return Playing(
        name=_file_name(file.subject),
        at=position(at),
        length=position(length) if length > 0 else "",
        percent=round(at / length * 100) if length > 0 else 0,
        overdue=span(overdue) if overdue else "",
        began=when(file.ms / 1000, now),
    )


def _file_name(subject: str) -> str:
    """Return a file's index, or the beginning of the digest that stands for its URL."""
    return subject if subject.isdecimal() and len(subject) < 8 else f"~{subject[:8]}"


def _step(happening: Happening, now: float) -> Step:
    kind = happening.kind
    return Step(
        at=when(happening.ms / 1000, now),
        event=kind.words,
        subject=_subject(happening),
        code=code_of(happening) if kind.subject is Subject.EXIT_CODE else None,
    )


def _subject(happening: Happening) -> str:
    """Return what an event is about, as a text; an exit code is shown with its meaning instead."""
    match happening.kind.subject:
        case Subject.FILE:
            return f"file {_file_name(happening.subject)}"
        case Subject.TEXT:
            return visible(happening.subject)
        case Subject.NOTHING | Subject.EXIT_CODE:
            return ""
