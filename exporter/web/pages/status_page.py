"""The status page: what it was asked for, and what it shows of tasks and numbers. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest
from operator import itemgetter
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct
from msgspec.structs import asdict, replace

from exporter.metrics.catalogue import EVENT_NAMES, OUTCOMES
from exporter.metrics.values import MICRO, LabelSetValues, series
from exporter.relay import ACTIVE, FAILED, LOST, STATES, STATES_BY_SEVERITY, STOPPED, FoldSettings, Task
from exporter.web.pages.humanize import number, plural
from exporter.web.pages.task_page import TaskStatus

ROWS = 50
FAILURES = 6
MAX_TEXT = 256
MAX_PAGE = 1_000_000

#: Columns that tasks can be sorted by, and whether their largest values come first when first asked for.
SORTS = {"state": False, "task": False, "destination": False, "since": True, "runs": True, "heard": True}
_CHOICES = {"state": STATES, "sort": SORTS, "order": ("asc", "desc"), "refresh": ("on", "off")}
_HEADLINE_WORDS = {ACTIVE: "on air", FAILED: "failed", LOST: "lost"}
_RANKS = {state: rank for rank, state in enumerate(STATES_BY_SEVERITY)}


class Query(Struct, frozen=True, kw_only=True):
    """What is asked for.

    Args:
        state: the state of the tasks shown, empty for all.
        q: what their id, destination or stream contains, empty for anything.
        sort, order: the column they are sorted by, one of SORTS, and `asc` or `desc`.
        page: which page of them, from 1.
        refresh: `on` while the page renews itself, else `off`.
    """

    state: str = ""
    q: str = ""
    sort: str = "state"
    order: str = "asc"
    page: int = 1
    refresh: str = "on"

    def given(self) -> dict[str, Any]:
        """Return the parameters that are not as by default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(_DEFAULT, name)}

    def link(self, **changes: Any) -> str:
        """Return the address of the page with `changes`; what is as by default is left out."""
        given = replace(self, **changes).given()
        return f"/?{urlencode(given)}" if given else "/"

    def sorted_by(self, column: str) -> str:
        """Return the address of the first page sorted by `column`; asked again, the other way round."""
        largest_first = self.order == "asc" if column == self.sort else SORTS[column]
        return self.link(sort=column, order="desc" if largest_first else "asc", page=1)


_DEFAULT = Query()


def read_query(get: Callable[[str], str | None]) -> Query:
    """Return what `get` gives for each parameter's name; what is malformed or absent is as by default."""
    chosen: dict[str, Any] = {name: get(name) for name, choices in _CHOICES.items() if get(name) in choices}
    page = get("page") or ""
    is_number = page.isascii() and page.isdecimal() and len(page) < len(str(MAX_PAGE))
    q = (get("q") or "").strip()[:MAX_TEXT]
    return Query(**chosen, q=q, page=max(int(page), 1) if is_number else 1)


class Headline(Struct, frozen=True):
    """How the fleet stands: a tone for its colour, one line as (state, text), and a sentence about it."""

    tone: str
    parts: Sequence[tuple[str, str]]
    detail: str


class Table(Struct, frozen=True):
    """A page of the tasks that were asked for.

    Args:
        rows: the tasks on it.
        found: how many tasks match.
        first: the place of its first row, from 1.
        page, pages: which page it is, from 1, and how many there are.
    """

    rows: Sequence[TaskStatus]
    found: int
    first: int
    page: int
    pages: int


def headline(counts: Mapping[str, int] | None, tasks: Sequence[TaskStatus] = ()) -> Headline:
    """Return the headline for so many tasks by state, None where the store does not answer.

    Active ones among `tasks` that play nothing, or a file that should have ended, are mentioned.
    """
    if counts is None:
        return Headline("down", [("down", "The store does not answer")], "What is on air can't be told now.")
    if not any(counts.get(state) for state in _HEADLINE_WORDS):
        stopped = counts.get(STOPPED, 0)
        detail = f"{number(stopped)} stopped as planned." if stopped else "No task has been heard of yet."
        return Headline("quiet", [("stopped", "Nothing on air")], detail)
    parts = [
        (state, f"{number(counts.get(state, 0))} {words}")
        for state, words in _HEADLINE_WORDS.items()
        if counts.get(state) or state == ACTIVE
    ]
    silent, overdue = sum(each.silent > 0 for each in tasks), sum(each.overdue > 0 for each in tasks)
    sentences = {
        f"{plural(silent, 'active task')} {'plays' if silent == 1 else 'play'} nothing.": silent,
        f"{plural(overdue, 'file')} should have ended by now.": overdue,
        "Failed: ended with an error and not started again.": counts.get(FAILED),
        "Lost: not heard of for so long that nobody can tell.": counts.get(LOST),
    }
    detail = " ".join(sentence for sentence, holds in sentences.items() if holds)
    tone = "trouble" if len(parts) > 1 else "watch" if detail else "well"
    return Headline(tone, parts, detail or "All is well: nothing has failed, nothing is lost.")


def failures(tasks: Iterable[TaskStatus], fold_settings: FoldSettings) -> list[TaskStatus]:
    """Return the tasks that failed last, those that have come back since included."""
    failed = [
        (exit_.ms, each)
        for each in tasks
        if (exit_ := each.task.current.exit) is not None and exit_.subject not in fold_settings.ok_codes
    ]
    return [each for _, each in nlargest(FAILURES, failed, key=itemgetter(0))]


def table(tasks: Iterable[TaskStatus], query: Query) -> Table:
    """Return the page of `tasks` that was asked for, the last one if there are not so many."""
    found = [each for each in tasks if query.state in ("", each.state)]
    if query.q:
        found = [each for each in found if _has_text(each.task, query.q.lower())]
    found.sort(key=_SORT_KEYS[query.sort], reverse=query.order == "desc")
    pages = max(-(-len(found) // ROWS), 1)
    page = min(query.page, pages)
    before = (page - 1) * ROWS
    return Table(found[before : before + ROWS], len(found), before + 1, page, pages)


def callbacks(fleet: LabelSetValues) -> list[tuple[str, dict[str, int], float]]:
    """Return each event with its callbacks by outcome and the time of the newest, UNIX seconds, 0 if none."""
    return [
        (
            event,
            {each: fleet.values.get(series("callbacks_total", event, each), 0) for each in OUTCOMES},
            fleet.times.get(series("last_callback_timestamp_seconds", event), 0) / MICRO,
        )
        for event in EVENT_NAMES
    ]


def _has_text(task: Task, wanted: str) -> bool:
    texts = (task.task_id, task.to_url, task.to_host, task.stream_id, str(task.appid))
    return any(wanted in text.lower() for text in texts)


def _by_state(status: TaskStatus) -> Any:
    """Sort the worst state first, in it what plays nothing or too long, then by the newest change."""
    return _RANKS.get(status.state, len(_RANKS)), not (status.overdue or status.silent), -status.since


def _by_task(status: TaskStatus) -> Any:
    """Sort numbers by their value, before all other ids."""
    text = status.task.task_id
    value = text.lstrip("0") if text.isascii() and text.isdecimal() else None
    return (1, 0, text) if value is None else (0, len(value), value)


_SORT_KEYS: dict[str, Callable[[TaskStatus], Any]] = {
    "state": _by_state,
    "task": _by_task,
    "destination": lambda status: (status.task.to_url, _by_task(status)),
    "since": lambda status: status.since,
    "runs": lambda status: status.task.runs,
    "heard": lambda status: status.task.last_callback_at,
}
