"""The committed dashboards for tests: their panels, queries, and the selectors in a query."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "grafana" / "dashboards"
DASHBOARDS: dict[str, dict[str, Any]] = {
    p.name: json.loads(p.read_bytes()) for p in sorted(FOLDER.glob("*.json"))
}

SELECTOR = re.compile(r"\b([a-zA-Z_][\w:]*)\{([^}]*)\}")
#: An aggregation with its labels, such as `sum by (le) (`.
GROUPED = re.compile(r"\b(\w+) (by|without) \(([^)]*)\) \(")


class Target(Struct, frozen=True):
    """A query of a panel."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    is_instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.ref}"


class Selector(Struct, frozen=True):
    """A series that a query selects.

    Args:
        matchers: the text between its braces.
        around: the functions and aggregations around it, innermost first.
    """

    name: str
    matchers: str
    around: tuple[str, ...]


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels, without the rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> list[Target]:
    """Return every query of every dashboard."""
    return [
        Target(name, panel["title"], target["refId"], target["expr"], target["instant"])
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def variables(dashboard: dict[str, Any], kind: str = "query") -> dict[str, dict[str, Any]]:
    """Return the variables of a kind, by name."""
    return {v["name"]: v for v in dashboard["templating"]["list"] if v["type"] == kind}


def selectors(expr: str) -> Iterator[Selector]:
    """Yield the selectors of a query."""
    for found in SELECTOR.finditer(expr):
        yield Selector(found[1], found[2], _around(expr[: found.start()]))


def _around(before: str) -> tuple[str, ...]:
    """Return the calls that are not closed at the end of a text, innermost first."""
    text = GROUPED.sub(lambda m: f"{m[1]}_{m[2]}_{m[3].replace(', ', '_')}(", before)
    stack: list[str] = []
    for match in re.finditer(r"(\w*)\(|\)", re.sub(r'"[^"]*"', '""', text)):
        if match[0] == ")":
            stack.pop()
        else:
            stack.append(match[1])
    return tuple(call for call in reversed(stack) if call)
