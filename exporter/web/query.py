"""What a status page was asked for: its filters, order and page, all in the address."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct
from msgspec.structs import asdict, replace

from exporter.relay import STATES

MAX_TEXT = 256
MAX_PAGE = 1_000_000

#: Columns that tasks can be sorted by, and whether their largest values come first when first asked for.
SORTS = {
    "state": False,
    "task": False,
    "destination": False,
    "since": True,
    "runs": True,
    "heard": True,
}


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

    def link(self, **changes: Any) -> str:
        """Return the address of the page with `changes`; what is as by default is left out."""
        wanted = asdict(replace(self, **changes))
        given = {name: value for name, value in wanted.items() if value != getattr(_DEFAULT, name)}
        return f"/?{urlencode(given)}" if given else "/"

    @property
    def is_asked(self) -> bool:
        """Whether certain tasks are asked for, or in a certain order."""
        return replace(self, refresh=_DEFAULT.refresh) != _DEFAULT

    def sorted_by(self, column: str) -> str:
        """Return the address of the first page sorted by `column`; asked again, the other way round."""
        largest_first = SORTS[column]
        if column == self.sort:
            largest_first = self.order == "asc"
        return self.link(sort=column, order="desc" if largest_first else "asc", page=1)


_DEFAULT = Query()


def read_query(get: Callable[[str], str | None]) -> Query:
    """Return what `get` gives for each parameter's name; what is malformed or absent is as by default."""
    sort = _one_of(SORTS, get("sort"), _DEFAULT.sort)
    return Query(
        state=_one_of(STATES, get("state"), ""),
        q=(get("q") or "").strip()[:MAX_TEXT],
        sort=sort,
        order=_one_of(("asc", "desc"), get("order"), "asc"),
        page=_page(get("page") or ""),
        refresh=_one_of(("on", "off"), get("refresh"), "on"),
    )


def _one_of(choices: Any, given: str | None, default: str) -> str:
    return given if given is not None and given in choices else default


def _page(text: str) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) < len(str(MAX_PAGE))
    return max(int(text), 1) if is_number else 1
