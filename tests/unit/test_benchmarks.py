"""docs/benchmarks.md says what docs/benchmarks.json says; figures are computed right of what was measured."""

import re
import sys
from collections.abc import Iterable

import pytest

from bench import __main__, arrivals, budget, page, replicas, throughput
from bench.contenders import (
    BARE_HANDLER,
    GUARDED,
    PLAIN_WAY,
    PUSHGATEWAY,
    SIDE_BY_SIDE,
    SQLITE,
    Cores,
)
from bench.load import Arrivals, Outcome
from bench.plots import PLOTS
from bench.replicas import Cost
from bench.report import Figure
from bench.results import Found, Results, merged, read
from bench.tables import TABLES
from bench.throughput import Measured
from tests.each import each


def test_the_page_is_as_made() -> None:
    """`python -m bench.page` brings it up to date; no table is made for nothing."""
    text = page.PAGE.read_text()
    assert page.text() == text
    assert sorted(re.findall(r"<!-- table: (\w+) -->", text)) == sorted(TABLES)


@each({name: name for name in PLOTS})
def test_a_picture_is_as_made(name: str) -> None:
    """The same figures make the same picture, which the page shows."""
    assert page.plot(name) == (page.DOCS / "pictures" / name).read_text()
    assert f"(pictures/{name})" in page.PAGE.read_text()


def test_what_was_measured_is_whole() -> None:
    """Every section is there, by the first word of its figures, and the budget of before."""
    results = read(page.RESULTS)
    sections = {"callbacks", "arrivals", "replicas", "burst", "scrape", "memory", "growth", "budget"}
    assert sections <= {figure.name.split()[0] for figure in results.figures}
    assert {figure.name.split()[0] for figure in results.before} == {"budget"}


def values(figures: Iterable[Figure]) -> dict[str, float]:
    """Return the values of figures by their names."""
    return {figure.name: figure.value for figure in figures}


def measured(taken: int, cost: float = 100.0, p50_ms: float = 5.0, **more: int) -> Measured:
    """Return a round of two seconds, in which so many callbacks were answered 200."""
    told = {"refused": 0, "broken": 0} | more
    outcome = Outcome(
        answered=taken + told["refused"],
        **told,
        seconds=2.0,
        p50_ms=p50_ms,
        p99_ms=3 * p50_ms,
        max_ms=9 * p50_ms,
    )
    return Measured(outcome, cost)


#: Three rounds of each; of one of them the exporter was slow, of another the bare handler.
ROUNDS = {name: [measured(1000)] * 3 for name in (*SIDE_BY_SIDE, GUARDED)} | {
    SQLITE: [measured(600, 200), measured(100, 300, 50), measured(800, 200)],
    BARE_HANDLER: [measured(1000, 100), measured(1000, 90), measured(400, 80)],
    GUARDED: [measured(540), measured(90), measured(800)],
}
GROWN = {
    throughput.APPLIED: 1500.0,
    f"{throughput.COMMIT}_sum": 0.3,
    f"{throughput.COMMIT}_count": 100.0,
    f'{throughput.COMMIT}_bucket{{le="0.002"}}': 50.0,
    f'{throughput.COMMIT}_bucket{{le="0.004"}}': 98.0,
    f'{throughput.COMMIT}_bucket{{le="0.008"}}': 100.0,
    f'{throughput.COMMIT}_bucket{{le="+Inf"}}': 100.0,
    f"{throughput.BATCH}_sum": 1500.0,
    f"{throughput.BATCH}_count": 100.0,
}


def test_contenders_are_compared_round_by_round() -> None:
    """By the median of the ratios, not by the ratio of the medians: what slows a round down slows both."""
    found = values(throughput.figures(ROUNDS, GROWN))
    assert found["callbacks sqlite / bare"] == 0.6
    assert (
        found["callbacks sqlite / bare, lowest round"],
        found["callbacks sqlite / bare, highest round"],
    ) == (
        0.1,
        2.0,
    )
    assert found["callbacks sqlite / bare, by processor time"] == 0.4
    assert found["callbacks sqlite / pushgateway"] == found["callbacks sqlite / plain"] == 0.6
    assert found["callbacks sqlite guarded / sqlite"] == 0.9


def test_each_contender_has_its_rate_its_cost_and_its_times() -> None:
    """Medians of the rounds, and the longest of all."""
    found = values(throughput.figures(ROUNDS, GROWN))
    assert found["callbacks sqlite"] == 300  # 600 in two seconds
    assert found["callbacks sqlite, processor time each"] == 200
    assert (found["callbacks sqlite p50"], found["callbacks sqlite p99"]) == (5, 15)
    assert found["callbacks sqlite longest"] == 450
    assert {f"callbacks {name}" for name in ROUNDS} <= found.keys()


def test_a_commit_has_its_mean_its_99th_percentile_and_its_callbacks() -> None:
    """The percentile by straight lines within the buckets, as Prometheus does it."""
    found = values(throughput.figures(ROUNDS, GROWN))
    assert found["callbacks commit mean"] == pytest.approx(3)
    assert found["callbacks commit p99"] == pytest.approx(6)
    assert found["callbacks in a commit"] == 15


EXACT = {
    "nothing is wrong": (1500.0, measured(800), (0, 0, 0), True),
    "some were refused, some broken": (1500.0, measured(800, refused=2, broken=3), (5, 0, 0), False),
    "some were answered and not counted": (1499.0, measured(800), (0, 1, 0), False),
    "as many are counted as were on their way at three ends": (1692.0, measured(800), (0, 0, 192), True),
    "more are counted than were on their way": (1693.0, measured(800), (0, 0, 193), False),
}


@each(EXACT)
def test_what_is_lost_or_doubled_is_told(
    counted: float, last: Measured, wanted: tuple[int, ...], is_met: bool
) -> None:
    """And misses its target."""
    rounds = ROUNDS | {SQLITE: [*ROUNDS[SQLITE][:2], last]}
    grown = GROWN | {throughput.APPLIED: counted}
    names = ("refused or broken", "answered 200 and not counted", "counted past those answered 200")
    found = {figure.name: figure for figure in throughput.figures(rounds, grown)}
    figures = [found[f"callbacks {name}"] for name in names]
    assert tuple(figure.value for figure in figures) == wanted
    assert all(figure.is_met for figure in figures) is is_met


def test_what_is_asked_of_the_exporter_is_asked_of_nobody_else() -> None:
    """Of its ratios, its times, and of what it drops."""
    found = {figure.name: figure for figure in throughput.figures(ROUNDS, GROWN)}
    for name in (BARE_HANDLER, PLAIN_WAY, PUSHGATEWAY):
        assert found[f"callbacks sqlite / {name}"].target
        assert not found[f"callbacks {name} p99"].target
    assert found["callbacks sqlite p99"].target
    came = Arrivals(answered=990, refused=0, dropped=10, p50_ms=1, p95_ms=2, p99_ms=3, max_ms=4)
    for name in (SQLITE, PUSHGATEWAY):
        told = {figure.name: figure for figure in arrivals.figures(name, came)}
        for what in ("p99", "dropped"):
            assert bool(told[f"arrivals {name} {what}"].target) == (name == SQLITE)
    assert values(arrivals.figures(SQLITE, came)) == {
        "arrivals sqlite answered": 990,
        "arrivals sqlite dropped": 10,
        "arrivals sqlite p50": 1,
        "arrivals sqlite p95": 2,
        "arrivals sqlite p99": 3,
        "arrivals sqlite longest": 4,
    }


def test_a_second_replica_is_compared_with_one() -> None:
    """Round by round; and by what a callback costs, as if each had a core."""
    one = [Cost(1000, 200, 50, 30), Cost(100, 200, 50, 30), Cost(1000, 220, 60, 40)]
    two = [Cost(1500, 250, 70, 30), Cost(190, 250, 70, 30), Cost(1600, 250, 70, 30)]
    found = values(replicas.figures(one, two, cores=4))
    assert found["replicas 2 / 1"] == 1.6
    assert found["replicas 2 / 1, by processor time of the replicas"] == 1.6
    assert [found[f"replicas 1{what}"] for what in ("", ", processor time each", ", Valkey's each")] == [
        1000,
        200,
        50,
    ]
    assert found["replicas 2, the load's each"] == 30
    for cores in (2, 4):
        targets = {figure.name: figure.target for figure in replicas.figures(one, two, cores)}
        assert bool(targets["replicas 2 / 1"]) == (cores == 4)


def test_each_replica_has_a_core_of_its_own_where_there_are_enough() -> None:
    """The store and the load share the rest."""
    assert replicas.shared_out([0, 1, 2, 3], 2) == Cores((0, 1), (2, 3))
    assert replicas.shared_out([0, 1], 1) == Cores((0,), (1,))
    assert replicas.shared_out([0, 1], 2) == Cores((0, 1), (0, 1))


def test_the_parts_of_a_callback_and_what_is_left_are_the_whole() -> None:
    """None is left out; the disk is waited for, which costs nothing."""
    parts = dict.fromkeys(budget.PARTS, 10.0) | {budget.DISK: 500.0}
    costs = budget.costs_of({SQLITE: ROUNDS[SQLITE], BARE_HANDLER: ROUNDS[BARE_HANDLER]})
    assert costs == {SQLITE: 200, BARE_HANDLER: 90}
    found = values(budget.figures(parts, costs))
    assert found["budget the whole"] == 200
    assert found["budget everything else"] == 200 - 10 * len(budget.PARTS)
    assert found["budget bare / the whole"] == 0.45
    assert found[f"budget {budget.DISK}"] == 500


def test_results_of_different_machines_are_not_put_together() -> None:
    """Their figures can't be compared."""
    kept = Results(
        {"cores": 2}, [Found("callbacks bare", 1), Found("burst time", 1)], [Found("budget read", 9)]
    )
    newer = Results({"cores": 2}, [Found("callbacks bare", 2)])
    found = merged(kept, [newer], None)
    assert (found["callbacks bare"].value, found["burst time"].value) == (2, 1)
    assert found.earlier("budget read") == Found("budget read", 9)
    with pytest.raises(ValueError, match="burst"):
        merged(kept, [Results({"cores": 4}, newer.figures)], None)


def test_an_unknown_section_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the names of those that are known."""
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "speed"])
    assert __main__.main() == 2
    assert "callbacks, arrivals" in capsys.readouterr().err
