"""What the status page shows, worked out from tasks, numbers and the present. Pure: no I/O, no clock."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from exporter.catalogue import EVENT_NAMES, OUTCOMES
from exporter.ledger import MICRO, Ledger, series
from exporter.relay import ACTIVE, FAILED, LOST, STATES_BY_SEVERITY, STOPPED, Entry, Windows
from exporter.web.phrases import When, count, number, visible, when
from exporter.web.query import Query
from exporter.web.taskview import Code, Known, Row, code_of, link_to, row_of, since

ROWS = 50
FAILURES = 6


class Headline(Struct, frozen=True):
    """The answer: how it stands, in parts of (state, text), and a sentence about it."""

    tone: str
    parts: Sequence[tuple[str, str]]
    detail: str

    @property
    def text(self) -> str:
        """The answer in one line."""
        return ", ".join(text for _, text in self.parts)


class Failure(Struct, frozen=True):
    """A run that failed: whose, when and why, and what its task is now."""

    task_id: str
    link: str
    destination: str
    at: When
    exit: Code
    state: str


class Tile(Struct, frozen=True):
    """A state, or all of them: how many tasks, and the address that shows them alone."""

    state: str
    number: str
    is_chosen: bool
    link: str


class Table(Struct, frozen=True):
    """A page of the tasks that were asked for.

    Args:
        query: what was asked for, with the page that is shown.
        rows: the tasks.
        known: how many tasks there are in all.
        found: how many match.
        first: the place of the first row, from 1; 0 if there is none.
        pages: how many pages there are.
        unread: how many tasks are known beyond those that were looked through.
    """

    query: Query
    rows: Sequence[Row]
    known: int
    found: int
    first: int
    pages: int
    unread: int


class Outcomes(Struct, frozen=True):
    """Callbacks of one event: how many by outcome, and when the newest came."""

    event: str
    counts: Sequence[int]
    newest: When | None


def headline(counts: Mapping[str, int] | None, watches: Counter[str]) -> Headline:
    """Return the answer for so many tasks by state, and so many active ones that need a look.

    Without any numbers the store is down.
    """
    if counts is None:
        return Headline("down", [("down", "The store does not answer")], "What is on air can't be told now.")
    stopped = counts.get(STOPPED, 0)
    if not any(counts.get(state) for state in _STANDING):
        detail = f"{number(stopped)} stopped as planned." if stopped else "No task has been heard of yet."
        return Headline("quiet", [("stopped", "Nothing on air")], detail)
    parts = [
        (state, f"{number(counts.get(state, 0))} {word}")
        for state, word in _STANDING.items()
        if counts.get(state) or state == ACTIVE
    ]
    worries = [text for text in (*_watches(watches), *_worries(counts)) if text]
    tone = "trouble" if len(parts) > 1 else "watch" if worries else "well"
    return Headline(tone, parts, " ".join(worries) or "All is well: nothing has failed, nothing is lost.")


def _worries(counts: Mapping[str, int]) -> Iterator[str]:
    if counts.get(FAILED):
        yield "Failed: ended with an error and not started again."
    if counts.get(LOST):
        yield "Lost: not heard of for so long that nobody can tell."


def _watches(watches: Counter[str]) -> Iterator[str]:
    if silent := watches["silent"]:
        yield f"{count(silent, 'active task')} {'plays' if silent == 1 else 'play'} nothing."
    if overdue := watches["overdue"]:
        yield f"{count(overdue, 'file')} should have ended by now."


def failures(tasks: Iterable[Known], windows: Windows, now: float) -> list[Failure]:
    """Return the newest failures, those of tasks that have come back since included."""
    failed = [
        (exit_.ms, known, exit_)
        for known in tasks
        if (exit_ := known.task.now.exit) is not None and exit_.subject not in windows.ok_codes
    ]
    newest = nlargest(FAILURES, failed, key=lambda found: found[0])
    return [_failure(known, exit_, now) for _, known, exit_ in newest]


def _failure(known: Known, exit_: Entry, now: float) -> Failure:
    task = known.task
    return Failure(
        task_id=visible(task.task_id),
        link=link_to(task.appid, task.task_id),
        destination=visible(task.to_url or task.to_host),
        at=when(exit_.ms / 1000, now),
        exit=code_of(exit_),
        state=known.state,
    )


def tiles(counts: Mapping[str, int], query: Query) -> list[Tile]:
    """Return a tile for all tasks and one for each state; choosing one keeps what else is asked for."""
    numbers = {"": sum(counts.values())} | {state: counts.get(state, 0) for state in STATES_BY_SEVERITY}
    return [
        Tile(state, number(n), query.state == state, query.link(state=state, page=1))
        for state, n in numbers.items()
    ]


def table(tasks: Sequence[Known], query: Query, *, known: int, now: float) -> Table:
    """Return the page of `tasks` that was asked for, the last one if there are not so many.

    Args:
        tasks: those that were read.
        query: what is asked for.
        known: how many tasks there are in all.
        now: the present, seconds.
    """
    found = [each for each in tasks if _matches(each, query)]
    found.sort(key=_KEYS[query.sort], reverse=query.order == "desc")
    pages = max(-(-len(found) // ROWS), 1)
    page = min(query.page, pages)
    shown = found[(page - 1) * ROWS : page * ROWS]
    return Table(
        query=replace(query, page=page),
        rows=[row_of(each, now) for each in shown],
        known=known,
        found=len(found),
        first=(page - 1) * ROWS + 1 if shown else 0,
        pages=pages,
        unread=max(known - len(tasks), 0),
    )


def outcomes(fleet: Ledger, now: float) -> list[Outcomes]:
    """Return the callbacks answered 200, by event and outcome."""
    return [
        Outcomes(
            event,
            [fleet.values.get(series("callbacks_total", event, outcome), 0) for outcome in OUTCOMES],
            when(newest / MICRO, now)
            if (newest := fleet.marks.get(series("last_callback_timestamp_seconds", event)))
            else None,
        )
        for event in EVENT_NAMES
    ]


def _matches(known: Known, query: Query) -> bool:
    if query.state and known.state != query.state:
        return False
    if not query.q:
        return True
    task, wanted = known.task, query.q.lower()
    texts = (task.task_id, task.to_url, task.to_host, task.stream_id, str(task.appid))
    return any(wanted in text.lower() for text in texts)


def _by_state(known: Known) -> Any:
    """In trouble first, then what needs a look; the newest change before older ones."""
    return _RANKS.get(known.state, len(_RANKS)), not known.watch, -since(known)


def _by_task(known: Known) -> Any:
    """Numbers by their value, before all others."""
    text = known.task.task_id
    value = text.lstrip("0") if text.isascii() and text.isdecimal() else None
    return (1, 0, text) if value is None else (0, len(value), value)


_STANDING = {ACTIVE: "on air", FAILED: "failed", LOST: "lost"}
_RANKS = {state: rank for rank, state in enumerate(STATES_BY_SEVERITY)}
_KEYS: dict[str, Callable[[Known], Any]] = {
    "state": _by_state,
    "task": _by_task,
    "destination": lambda known: (known.task.to_url, _by_task(known)),
    "since": since,
    "runs": lambda known: known.task.runs,
    "heard": lambda known: known.task.heard,
}
