"""Stored results: figures by name, of one machine, merged from several runs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, convert

Document = Mapping[str, Any]


class StoredFigure(Struct, frozen=True):
    """A figure in a file of results.

    Args:
        name, value, unit: the measured value.
        target: the target as text; empty without a target.
        met: whether the value met its target.
    """

    name: str
    value: float
    unit: str = ""
    target: str = ""
    met: bool = True

    def __str__(self) -> str:
        unit = {"us": "µs", "1/s": ""}.get(self.unit, self.unit)
        return f"{brief(self.value)} {unit}".strip()


class Results(Struct, frozen=True):
    """All results for the page.

    Args:
        machine: the description of the machine.
        figures: the figures.
        before: the figures of the section budget from an older checkout; may be empty.
    """

    machine: dict[str, Any]
    figures: list[StoredFigure]
    before: list[StoredFigure] = []

    def __getitem__(self, name: str) -> StoredFigure:
        return next(figure for figure in self.figures if figure.name == name)

    def numbers_in(self, pattern: str) -> list[int]:
        """Return the sorted numbers in the names that match; the group of the pattern is the number."""
        found = (re.fullmatch(pattern, figure.name) for figure in self.figures)
        return sorted(int(match[1]) for match in found if match)

    def earlier(self, name: str) -> StoredFigure | None:
        """Return the figure of the older checkout, None if it was not measured."""
        return next((figure for figure in self.before if figure.name == name), None)


def read(path: Path) -> Results:
    """Return the results in a file."""
    return convert(json.loads(path.read_bytes()), Results)


def merged(kept: Results, runs: Sequence[Results], before: Results | None) -> Results:
    """Return the kept results with their sections replaced by those of newer runs.

    Raises:
        ValueError: the result would have sections of different machines.
    """
    sections = {_section(figure): run for run in runs for figure in run.figures}
    old = [figure for figure in kept.figures if _section(figure) not in sections]
    machines = [run.machine for run in runs] + ([kept.machine] if old else [])
    if any(machine != machines[0] for machine in machines):
        names = ", ".join(dict.fromkeys(_section(figure) for figure in old)) or "none"
        raise ValueError(
            f"the runs are of different machines or package versions; run the kept sections again: {names}"
        )
    new = [f for run in runs for f in run.figures if sections[_section(f)] is run]
    return Results(machines[0] if machines else kept.machine, [*old, *new], _budget(before) or kept.before)


def brief(value: float) -> str:
    """Return a value with three significant digits, or as a whole number from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _budget(run: Results | None) -> list[StoredFigure]:
    return [figure for figure in run.figures if _section(figure) == "budget"] if run else []


def _section(figure: StoredFigure) -> str:
    return figure.name.partition(" ")[0]


def targets(results: Results, patterns: Sequence[str]) -> Iterator[StoredFigure]:
    """Yield the figures with a target whose names match one of the patterns, in the patterns' order."""
    for pattern in patterns:
        yield from (f for f in results.figures if f.target and re.fullmatch(pattern, f.name))
