"""Every query of every dashboard returns data from a real Prometheus that scraped a complete history."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec import Struct

from exporter.relay import STATES
from grafana.source import queries
from tests.acceptance import scenario
from tests.clock import Clock
from tests.dashboards import DASHBOARDS, ROOT, Target, targets, variables
from tests.servers import Prometheus
from tests.support import running, until

RULES = ROOT / "prometheus" / "rules"

#: The values of Grafana's variables, so long that they include the whole history on any machine.
BUILT_IN = {"__rate_interval": "1h", "__range": "1h"}

#: After the history: both replicas were scraped, twice for rates of new series, and the rules were evaluated.
SETTLED = """
count(up == 1) == 2
and count(css_relay_tasks{state="lost"} > 0) == 2
and count(count_over_time(css_relay_tasks_exited_total{code="-5"}[1h]) >= 2) == 2
and count(fleet:css_relay_tasks:max{state="lost"} > 0) == 1
"""
EVALUATED = 'max(timestamp(fleet:css_relay_tasks:max{state="lost"}))'


class ScrapedHistory(Struct, frozen=True):
    """A Prometheus and the time when it had all data, in UNIX seconds."""

    prometheus: Prometheus
    at: float

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression at that time."""
        return self.prometheus.query(expression, self.at)

    def numbers(self, target: Target, expression: str) -> list[float]:
        """Return the values of a query at that time.

        Raises:
            AssertionError: the query fails.
        """
        if target.is_instant:
            samples = self.query(expression)
        else:
            window = {"start": self.at - 5, "end": self.at, "step": 1}
            answer = self.prometheus.ask("query_range", query=expression, **window)
            assert answer is not None, f"{target} fails: {expression}"
            samples = answer["result"]
        return [float(v) for s in samples for _, v in s.get("values") or [s["value"]]]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScrapedHistory]:
    """A Prometheus with the recording rules that scraped the scenario from two replicas."""
    folder = tmp_path_factory.mktemp("dashboards")
    other_folder = tmp_path_factory.mktemp("replica")
    clock = Clock(folder)
    clock.set(-scenario.SPAN_SECONDS)
    store = f"sqlite:{folder / 'relay.db'}"
    with (
        running(folder, clock=clock, store__url=store) as exporter,
        running(other_folder, clock=clock, store__url=store) as replica,
        Prometheus(folder, exporter.ports["web"], replica.ports["web"], rules=RULES) as server,
    ):
        sender = scenario.Sender(exporter, clock)
        scenario.create_label_sets(sender)
        begun = "count(css_relay_tasks{state='active'} > 0) == 4"
        until(lambda: server.query(begun), "the initial counters of both replicas are scraped")
        scenario.send_history(sender)
        at = until(lambda: settled(server), "the end of the history is scraped and evaluated")
        until(lambda: (server.value(EVALUATED) or 0) > at, "that evaluation has ended")
        yield ScrapedHistory(server, at)


def settled(server: Prometheus) -> float | None:
    """Return the time of the last evaluation of the rules, if all data was scraped by then."""
    evaluated = server.value(EVALUATED)
    return evaluated if evaluated and server.query(SETTLED, evaluated) else None


def without_rules(expression: str) -> str:
    """Return a query as a Prometheus without the recording rules sees it: without recorded series."""
    return re.sub(r"\b(fleet|task):(?=css_relay_)", "no_such_rule:", expression)


def variable_values(history: ScrapedHistory, query: str, chosen: dict[str, str]) -> list[str]:
    """Return the values of a variable, with the variables before it selected."""
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert asked
    where = {"match[]": fill(asked[1], chosen)}
    found: list[str] = history.prometheus.ask(f"label/{asked[2]}/values", **where)
    assert found, query
    return found


def choices(history: ScrapedHistory, name: str) -> list[dict[str, str]]:
    """Return the values of the variables of a dashboard: one set for each task if a task is chosen."""
    made: list[dict[str, str]] = [{}]
    for variable_name, variable in variables(DASHBOARDS[name]).items():
        query = variable["query"]
        made = [
            chosen | {variable_name: value}
            for chosen in made
            for value in selectable(variable, variable_values(history, query, chosen))
        ]
    return made


def selectable(variable: dict[str, Any], values: Sequence[str]) -> Sequence[str]:
    """Return the text for all values of a variable, or for each value of a single choice."""
    if not variable["includeAll"]:
        return values
    return [variable.get("allValue") or f"({'|'.join(map(re.escape, values))})".replace("\\", "\\\\")]


def fill(text: str, values: dict[str, str]) -> str:
    """Return a query with its variables filled in."""
    return re.sub(r"\$(\w+)", lambda found: (BUILT_IN | values)[found[1]], text)


def test_every_query_of_every_panel_has_data_with_and_without_the_recording_rules(
    history: ScrapedHistory,
) -> None:
    """And every variable has values. A query of the task dashboard has data for at least one task."""
    made = {name: choices(history, name) for name in DASHBOARDS}
    empty = [
        f"{target}: {expression}"
        for target in targets()
        for expression in dict.fromkeys((target.expr, without_rules(target.expr)))
        if not any(
            math.isfinite(number)
            for chosen in made[target.dashboard]
            for number in history.numbers(target, fill(expression, chosen))
        )
    ]
    assert empty == []


SHARED = [queries.down, queries.dead_air, queries.overdue, queries.tasks, queries.failed_share]


def test_every_rule_and_its_expression_agree(history: ScrapedHistory) -> None:
    """A panel is right without the recording rules, and shows the values of the alerts with them."""
    (chosen,) = choices(history, "relay-overview.json")

    def series(expression: str) -> dict[frozenset[tuple[str, str]], float]:
        return {
            frozenset((k, v) for k, v in s["metric"].items() if k != "__name__"): float(s["value"][1])
            for s in history.query(expression)
        }

    for shared in SHARED:
        rule, expression = fill(shared(), chosen).split(" or on (job) ")
        assert series(rule), rule
        assert series(rule) == pytest.approx(series(expression)), (rule, expression)
        assert not series(without_rules(rule))


def test_two_replicas_do_not_double_the_values(history: ScrapedHistory) -> None:
    """Each replica exports the whole fleet: tasks by state, and all exits."""
    (chosen,) = choices(history, "relay-overview.json")
    for state in STATES:
        shown = fill(queries.total(queries.tasks(f'state="{state}"')), chosen)
        for expression in (shown, without_rules(shown)):
            expected = f'sum(css_relay_tasks{{state="{state}"}}) / 2'
            assert history.query(f"({expression}) == ({expected})"), f"{expression} is not {expected}"
    (grown,) = history.query(fill(queries.grown("tasks_exited_total"), chosen))
    assert float(grown["value"][1]) == scenario.EXITS
