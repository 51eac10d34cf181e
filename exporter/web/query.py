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
SORTS = {"state": False, "task": False, "destination": False, "since": True, "runs": True, "heard": True}
_CHOICES = {"state": STATES, "sort": SORTS, "order": ("asc", "desc"), "refresh": ("on", "off")}


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
