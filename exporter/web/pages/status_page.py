"""The content of the status page: its query parameters, summary, task table, failures and callback counts.

Pure functions: no I/O, no clock.
"""

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

#: Rows of one page of the task table.
ROWS = 50
FAILURES = 6
#: Maximum length of the search text, characters.
MAX_TEXT = 256
MAX_PAGE = 1_000_000

#: Columns of the task table, and whether a first click sorts by the largest value first.
SORTS = {"state": False, "task": False, "destination": False, "since": True, "runs": True, "heard": True}
_CHOICES = {"state": STATES, "sort": SORTS, "order": ("asc", "desc"), "refresh": ("on", "off")}
_STATE_WORDS = {ACTIVE: "on air", FAILED: "failed", LOST: "lost"}
_RANKS = {state: rank for rank, state in enumerate(STATES_BY_SEVERITY)}


class Query(Struct, frozen=True, kw_only=True):
    """The query parameters of the status page.

    Args:
        state: show tasks in this state only; empty for all.
        q: show tasks only whose id, destination, stream or account contains this text; empty for all.
        sort, order: the column to sort by, one of SORTS, and `asc` or `desc`.
        page: page number of the task table, from 1.
        refresh: `on` if the page refreshes itself, else `off`.
    """

    state: str = ""
    q: str = ""
    sort: str = "state"
    order: str = "asc"
    page: int = 1
    refresh: str = "on"

    def non_defaults(self) -> dict[str, Any]:
        """Return the parameters that differ from their defaults."""
        return {name: value for name, value in asdict(self).items() if value != getattr(_DEFAULT, name)}

    def link(self, **changes: Any) -> str:
        """Return the URL of this query with `changes`; parameters equal to their defaults are left out."""
        parameters = replace(self, **changes).non_defaults()
        return f"/?{urlencode(parameters)}" if parameters else "/"

    def sorted_by(self, column: str) -> str:
        """Return the URL of the first page sorted by `column`, in reverse order if it already is."""
        largest_first = self.order == "asc" if column == self.sort else SORTS[column]
        return self.link(sort=column, order="desc" if largest_first else "asc", page=1)


_DEFAULT = Query()


def read_query(get: Callable[[str], str | None]) -> Query:
    """Return the query of a request; `get` returns the value of a parameter, None if it is absent.

    Malformed values become defaults: people edit URLs by hand, and need a page rather than an error.
    """
    chosen: dict[str, Any] = {name: get(name) for name, choices in _CHOICES.items() if get(name) in choices}
    page = get("page") or ""
    # The length is checked, since Python's conversion of very long numbers is slow.
    is_number = page.isascii() and page.isdecimal() and len(page) < len(str(MAX_PAGE))
    q = (get("q") or "").strip()[:MAX_TEXT]
    return Query(**chosen, q=q, page=max(int(page), 1) if is_number else 1)


class Summary(Struct, frozen=True):
    """The headline of the status page, as pairs of a state and a text, and the sentences below it."""

    css_class: str
    parts: Sequence[tuple[str, str]]
    detail: str


class Table(Struct, frozen=True):
    """One page of the task table: its rows, beginning with number `first` of all those `found`."""

    rows: Sequence[TaskStatus]
    found: int
    first: int
    page: int
    pages: int


def summarize(counts: Mapping[str, int] | None, tasks: Sequence[TaskStatus] = ()) -> Summary:
    """Return the summary of `tasks`; `counts`, by state, is None if the store does not answer."""
    if counts is None:
        return Summary("down", [("down", "The store does not answer")], "It is unknown what is on air.")
    if not any(counts.get(state) for state in _STATE_WORDS):
        stopped = counts.get(STOPPED, 0)
        detail = f"{number(stopped)} stopped as planned." if stopped else "No task is known yet."
        return Summary("idle", [("stopped", "Nothing on air")], detail)
    parts = [
        (state, f"{number(counts.get(state, 0))} {words}")
        for state, words in _STATE_WORDS.items()
        if counts.get(state) or state == ACTIVE
    ]
    idle = sum(each.plays_nothing_seconds > 0 for each in tasks)
    overdue = sum(each.overdue_seconds > 0 for each in tasks)
    # A sentence applies if its value is above 0.
    sentences = {
        f"{plural(idle, 'active task')} {'plays' if idle == 1 else 'play'} nothing.": idle,
        f"{plural(overdue, 'file')} should have ended by now.": overdue,
        "Failed: ended with an error and not started again.": counts.get(FAILED),
        "Lost: no callback for so long that the state is unknown.": counts.get(LOST),
    }
    detail = " ".join(sentence for sentence, count in sentences.items() if count)
    css_class = "error" if len(parts) > 1 else "warning" if detail else "ok"
    return Summary(css_class, parts, detail or "No task has failed or is lost.")


def failures(tasks: Iterable[TaskStatus], fold_settings: FoldSettings) -> list[TaskStatus]:
    """Return the tasks with the latest failures, including those that are active again."""
    failed = [
        (exit_.ms, each)
        for each in tasks
        if (exit_ := each.task.current.exit) is not None and exit_.subject not in fold_settings.ok_codes
    ]
    return [each for _, each in nlargest(FAILURES, failed, key=itemgetter(0))]


def table(tasks: Iterable[TaskStatus], query: Query) -> Table:
    """Return the page of the task table that `query` asks for, or the last page if there are fewer."""
    found = [each for each in tasks if query.state in ("", each.state)]
    if query.q:
        found = [each for each in found if _has_text(each.task, query.q.lower())]
    found.sort(key=_SORT_KEYS[query.sort], reverse=query.order == "desc")
    pages = max(-(-len(found) // ROWS), 1)  # rounded up
    page = min(query.page, pages)
    before = (page - 1) * ROWS
    return Table(found[before : before + ROWS], len(found), before + 1, page, pages)


def callbacks(fleet: LabelSetValues) -> list[tuple[str, dict[str, int], float]]:
    """Return each event with its callbacks by outcome, and the last arrival in UNIX seconds, 0 if none."""
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
    """Sort key: the worst state first, then tasks that play nothing or too long, then the latest change."""
    is_playing = not (status.overdue_seconds or status.plays_nothing_seconds)
    return _RANKS.get(status.state, len(_RANKS)), is_playing, -status.since


def _by_task(status: TaskStatus) -> Any:
    """Sort key: numeric ids by value, before all others."""
    # By length, then digits: the value without the conversion, which is slow for very long ids.
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
