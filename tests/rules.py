"""The rules of `prometheus/`, for tests that compare them with the catalogue, the cases and the page.

`faults` finds wrong uses of metrics in a query, by the scope of the families. It is not a full parser of
PromQL, but enough for the queries of this project.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from exporter.metrics.catalogue import CATALOGUE, PREFIX, Family, Scope

ROOT = Path(__file__).parents[1]
RULES = ROOT / "prometheus" / "rules"
CASE_FILES = tuple(sorted((ROOT / "prometheus" / "tests").glob("*.yml")))
PAGE = ROOT / "docs" / "alerts.md"

#: Metrics that the rules use and that are not in the catalogue: Prometheus' own, and one of the process.
FOREIGN = {"up", "scrape_duration_seconds", "process_start_time_seconds"}
WORDS = {"and", "or", "unless", "on", "ignoring", "by", "without", "time"}

Rule = dict[str, Any]


class Case(Struct, frozen=True):
    """A test case of promtool.

    Args:
        name: its name.
        step: the seconds between two evaluations.
        told: by alert: the times in seconds, and whether the alert must fire then.
    """

    name: str
    step: int
    told: dict[str, list[tuple[int, bool]]]


def read(name: str) -> list[Rule]:
    """Return the rules of a file, in order."""
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in read("alerts.yml")}
RECORDED = {rule["record"]: rule for rule in read("recording.yml")}


def seconds(text: str) -> int:
    """Return a duration of Prometheus, such as `1h30m`, in seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))


@cache
def cases() -> tuple[Case, ...]:
    """Return the cases of all files."""
    documents = [yaml.load(path.read_bytes(), yaml.CSafeLoader) for path in CASE_FILES]
    return tuple(
        _case(case, seconds(document["evaluation_interval"]))
        for document in documents
        for case in document["tests"]
    )


def _case(case: dict[str, Any], step: int) -> Case:
    told: dict[str, list[tuple[int, bool]]] = {}
    for asked in case.get("alert_rule_test", []):
        told.setdefault(asked["alertname"], []).append(
            (seconds(asked["eval_time"]), bool(asked["exp_alerts"]))
        )
    return Case(case["name"], step, {alert: sorted(moments) for alert, moments in told.items()})


def metrics(query: str) -> set[str]:
    """Return the metric names in a query."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', "", query)
    bare = re.sub(r"\b(on|ignoring|by|without) ?\([^)]*\)", "", bare)
    names = re.findall(r"\b[a-zA-Z_][\w:]*\b(?!\s*\()", bare)
    return {name for name in names if name not in WORDS}


def family(name: str) -> Family | None:
    """Return the family of a metric, None if it is not in the catalogue."""
    short = name.removeprefix(PREFIX)
    return CATALOGUE.get(short) or CATALOGUE.get(re.sub(r"_(bucket|sum|count)$", "", short))


def faults(query: str) -> Iterator[str]:
    """Yield the wrong uses of metrics in a query, by their scope and type."""
    query = re.sub(r"\s+", " ", re.sub(r'"[^"]*"', '""', query))
    for name in metrics(query):
        for use in re.finditer(rf"(?<![\w:]){re.escape(name)}(?![\w:])", query):
            before = re.sub(r"\( ", "(", query[: use.start()])
            if not _is_right(name, before):
                yield f"{name} after {before[-60:]!r}"


def _is_right(name: str, before: str) -> bool:
    ranged = re.search(r"\b(rate|increase)\($", before)
    if name in FOREIGN:
        return True
    if name in RECORDED:
        return not ranged  # the rate of a recorded max is wrong
    known = family(name)
    if known is None:
        return False
    if re.search(r"last_over_time\($", before):
        return known.kind == "gauge"
    if bool(ranged) is (known.kind == "gauge"):
        return False
    before = re.sub(r"\b(rate|increase)\($", "", before)
    if known.scope is Scope.PROCESS:
        return not ranged or _is_sum_over_replicas(before)
    # Once for all replicas; or a check whether a replica reports the store at all.
    return before.endswith(("max without (instance, pod) (", "unless on (job, namespace, instance, pod) "))


def _is_sum_over_replicas(before: str) -> bool:
    found = re.search(r"\bsum(?: (by|without) \(([^)]*)\) )?\($", before)
    if not found:
        return False
    labels = {label.strip() for label in (found[2] or "").split(",")}
    return {"instance", "pod"} <= labels if found[1] == "without" else not labels & {"instance", "pod"}


def windows(query: str) -> set[int]:
    """Return the windows, in seconds, over which a query takes the increase of counters of the store."""
    used = re.findall(r"(?:rate|increase)\((\w+)(?:\{[^}]*\})?\[(\w+)\]\)", re.sub(r"\s+", " ", query))
    return {
        seconds(window) for name, window in used if getattr(family(name), "scope", None) is not Scope.PROCESS
    }


def page_queries() -> list[str]:
    """Return the queries on the page about alerts."""
    return [
        q
        for q in re.findall(r"`([^`]*)`", PAGE.read_text())
        if re.search(r"css_relay_\w+.*[(=<>]|:css_relay_", q)
    ]
