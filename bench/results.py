"""Results that were written down: figures by name, of one machine, put together from several runs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, convert

Document = Mapping[str, Any]


class Found(Struct, frozen=True):
    """A figure as it was written down.

    Args:
        name, value, unit: as it was measured.
        target: what it was to be, empty if nothing was asked of it.
        met: whether it was that.
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
    """Everything that a page of results is made from.

    Args:
        machine: what the figures depend on.
        figures: what was measured.
        before: what the budget was before, if that was measured.
    """

    machine: dict[str, Any]
    figures: list[Found]
    before: list[Found] = []

    def __getitem__(self, name: str) -> Found:
        return next(figure for figure in self.figures if figure.name == name)

    def numbers_in(self, pattern: str) -> list[int]:
        """Return the numbers in the names that match, in which a group stands for the number."""
        found = (re.fullmatch(pattern, figure.name) for figure in self.figures)
        return sorted(int(match[1]) for match in found if match)

    def earlier(self, name: str) -> Found | None:
        """Return what a figure was before, if that was measured."""
        return next((figure for figure in self.before if figure.name == name), None)


def read(path: Path) -> Results:
    """Return the results in a file."""
    return convert(json.loads(path.read_bytes()), Results)


def merged(kept: Results, runs: Sequence[Results], before: Results | None) -> Results:
    """Return what was kept with the sections of newer runs in place of its own.

    Raises:
        ValueError: sections of different machines would come together.
    """
    sections = {_section(figure): run for run in runs for figure in run.figures}
    old = [figure for figure in kept.figures if _section(figure) not in sections]
    machines = [run.machine for run in runs] + ([kept.machine] if old else [])
    if any(machine != machines[0] for machine in machines):
        names = ", ".join(dict.fromkeys(_section(figure) for figure in old)) or "none"
        raise ValueError(f"these are of different machines, or packages; of those kept: {names}")
    new = [f for run in runs for f in run.figures if sections[_section(f)] is run]
    return Results(machines[0] if machines else kept.machine, [*old, *new], _budget(before) or kept.before)


def brief(value: float) -> str:
    """Return a value with three digits that count, and whole from there on."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _budget(run: Results | None) -> list[Found]:
    return [figure for figure in run.figures if _section(figure) == "budget"] if run else []


def _section(figure: Found) -> str:
    return figure.name.partition(" ")[0]


def targets(results: Results, patterns: Sequence[str]) -> Iterator[Found]:
    """Yield the figures with a target whose names match one of the patterns, in the patterns' order."""
    for pattern in patterns:
        yield from (f for f in results.figures if f.target and re.fullmatch(pattern, f.name))
