"""Every query of every dashboard gives data from a real Prometheus that scraped a history of everything."""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from exporter.catalogue import STATE_NAMES
from grafana.source import queries
from tests.acceptance import scenario
from tests.dashboards import DASHBOARDS, ROOT, Target, targets, variables
from tests.servers import Prometheus
from tests.support import running, until

RULES = ROOT / "prometheus" / "rules"

#: What Grafana fills in for scrapes every second and a range of five minutes.
BUILT_IN = {"__rate_interval": "60s", "__range": "300s"}


@pytest.fixture(scope="module", params=[None, RULES], ids=["bare", "with rules"])
def prometheus(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that scraped the scenario from two replicas, without and with the recording rules."""
    folder = tmp_path_factory.mktemp("dashboards")
    other_folder = tmp_path_factory.mktemp("replica")
    flags = scenario.FLAGS | {"store__url": f"sqlite:{folder / 'relay.db'}"}
    with running(folder, **flags) as exporter, running(other_folder, **flags) as replica:
        ports = exporter.ports["web"], replica.ports["web"]
        with Prometheus(folder, *ports, rules=request.param) as server:
            scenario.begin(exporter)
            until(lambda: (server.value("min(sum_over_time(up[1m]))") or 0) >= 3, "what counters begin from")
            scenario.everything(exporter)
            until(lambda: server.value('sum(css_relay_tasks{state="lost"}) > 0'), "the end of the history")
            yield server


def offered(prometheus: Prometheus, query: str, chosen: dict[str, str]) -> list[str]:
    """Return the values that a variable offers, with those before it chosen."""
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert asked
    found: list[str] = prometheus.ask(f"label/{asked[2]}/values", **{"match[]": fill(asked[1], chosen)})
    assert found, query
    return found


def choices(prometheus: Prometheus, dashboard: dict[str, Any]) -> list[dict[str, str]]:
    """Return what stands for each variable in a query: one choice for each task where one is chosen."""
    made: list[dict[str, str]] = [{}]
    for name, variable in variables(dashboard).items():
        query = variable["query"]
        made = [
            chosen | {name: value}
            for chosen in made
            for value in written(variable, offered(prometheus, query, chosen))
        ]
    return made


def written(variable: dict[str, Any], values: Sequence[str]) -> Sequence[str]:
    """Return how a query says all values of a variable, or each by itself where one is chosen."""
    if not variable["includeAll"]:
        return values
    return [variable.get("allValue") or f"({'|'.join(map(re.escape, values))})".replace("\\", "\\\\")]


def fill(text: str, values: dict[str, str]) -> str:
    """Return a query with its variables filled in."""
    return re.sub(r"\$(\w+)", lambda found: (BUILT_IN | values)[found[1]], text)


def has_data(prometheus: Prometheus, target: Target, expr: str) -> bool:
    """Whether a query gives a number; a query that fails is an error."""
    now = time.time()
    when: dict[str, Any] = {"time": now} if target.is_instant else {"start": now - 60, "end": now, "step": 1}
    answer = prometheus.ask("query" if target.is_instant else "query_range", query=expr, **when)
    assert answer is not None, f"{target} fails: {expr}"
    numbers = [float(v) for s in answer["result"] for _, v in s.get("values") or [s["value"]]]
    return any(math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("target", targets(), ids=str)
def test_every_query_has_data(prometheus: Prometheus, target: Target) -> None:
    """And every variable has values. Of the dashboard for one task: for one of the tasks at least."""
    made = choices(prometheus, DASHBOARDS[target.dashboard])
    until(
        lambda: any(has_data(prometheus, target, fill(target.expr, chosen)) for chosen in made),
        f"data for {target.expr}",
        seconds=10,
    )


SHARED = [queries.down, queries.dead_air, queries.overdue, queries.tasks, queries.failed_share]


@pytest.mark.parametrize("shared", SHARED, ids=lambda function: function.__name__)
def test_a_rule_and_its_expression_agree(
    prometheus: Prometheus, shared: Callable[[], str], request: pytest.FixtureRequest
) -> None:
    """So that a panel is right without the recording rules, and shows what the alerts see with them."""
    (chosen,) = choices(prometheus, DASHBOARDS["relay-overview.json"])
    rule, expression = fill(shared(), chosen).split(" or on (job) ")

    def series(expr: str) -> dict[frozenset[tuple[str, str]], float]:
        found = prometheus.ask("query", query=expr)["result"]
        return {
            frozenset((k, v) for k, v in s["metric"].items() if k != "__name__"): float(s["value"][1])
            for s in found
        }

    def agree() -> bool:
        recorded, computed = series(rule), series(expression)
        if "bare" in request.node.name:
            return not recorded and bool(computed)
        within = all(abs(recorded.get(key, math.inf) - value) < 3 for key, value in computed.items())
        return recorded.keys() == computed.keys() and within

    until(agree, f"{rule} and {expression} agree")


@pytest.mark.parametrize("state", STATE_NAMES)
def test_two_replicas_do_not_double_the_tasks(prometheus: Prometheus, state: str) -> None:
    """Each tells of the whole fleet."""
    (chosen,) = choices(prometheus, DASHBOARDS["relay-overview.json"])
    shown = fill(queries.total(queries.tasks(f'state="{state}"')), chosen)
    told = f'sum(css_relay_tasks{{state="{state}"}}) / count(up == 1)'
    until(lambda: prometheus.value(f"({shown}) == ({told})") is not None, f"{shown} is {told}")


def test_two_replicas_do_not_double_what_is_counted(prometheus: Prometheus) -> None:
    """And a series' first step is seen."""
    (chosen,) = choices(prometheus, DASHBOARDS["relay-overview.json"])
    assert prometheus.value(fill(queries.grown("tasks_exited_total"), chosen)) == scenario.EXITS
