"""docs/benchmarks.md matches docs/benchmarks.json; figures are computed correctly from measurements."""

import re
import sys
from collections.abc import Iterable

import pytest

from bench import __main__, arrivals, budget, page, replicas, throughput
from bench.contenders import BARE_HANDLER, PLAIN_WAY, PUSHGATEWAY, SIDE_BY_SIDE, SIGNED, SQLITE, Cores
from bench.load import K6Result, WrkResult
from bench.plots import PLOTS
from bench.replicas import Cost
from bench.report import Figure
from bench.results import Results, StoredFigure, merged, read
from bench.tables import TABLES
from bench.throughput import RoundResult
from tests.each import each


def test_the_page_is_up_to_date() -> None:
    """`python -m bench.page` updates it; every table is on the page."""
    text = page.PAGE.read_text()
    assert page.text() == text
    assert sorted(re.findall(r"<!-- table: (\w+) -->", text)) == sorted(TABLES)


@each({name: name for name in PLOTS})
def test_a_picture_is_up_to_date(name: str) -> None:
    """The same figures give the same picture, and the page shows it."""
    assert page.plot(name) == (page.DOCS / "pictures" / name).read_text()
    assert f"(pictures/{name})" in page.PAGE.read_text()


def test_the_results_are_complete() -> None:
    """Every section has figures, and there is an earlier budget."""
    results = read(page.RESULTS)
    sections = {"callbacks", "arrivals", "replicas", "burst", "scrape", "memory", "growth", "budget"}
    assert sections <= {figure.name.split()[0] for figure in results.figures}
    assert {figure.name.split()[0] for figure in results.before} == {"budget"}


def values(figures: Iterable[Figure]) -> dict[str, float]:
    """Return the values of figures by their names."""
    return {figure.name: figure.value for figure in figures}


def measured(accepted: int, cost: float = 100.0, p50_ms: float = 5.0, **more: int) -> RoundResult:
    """Return a round of two seconds with so many callbacks answered 200."""
    counts = {"rejected": 0, "failed": 0} | more
    outcome = WrkResult(
        answered=accepted + counts["rejected"],
        **counts,
        seconds=2.0,
        p50_ms=p50_ms,
        p99_ms=3 * p50_ms,
        max_ms=9 * p50_ms,
    )
    return RoundResult(outcome, cost)


#: Three rounds of each contender; the exporter is slow in one, the bare handler in another.
ROUNDS = {name: [measured(1000)] * 3 for name in (*SIDE_BY_SIDE, SIGNED)} | {
    SQLITE: [measured(600, 200), measured(100, 300, 50), measured(800, 200)],
    BARE_HANDLER: [measured(1000, 100), measured(1000, 90), measured(400, 80)],
    SIGNED: [measured(540), measured(90), measured(800)],
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
    """The median of the ratios is used, because a disturbance slows both contenders of a round."""
    found = values(throughput.figures(ROUNDS, GROWN))
    assert found["callbacks sqlite / bare"] == 0.6
    assert (
        found["callbacks sqlite / bare, lowest round"],
        found["callbacks sqlite / bare, highest round"],
    ) == (0.1, 2.0)
    assert found["callbacks sqlite / bare, by processor time"] == 0.4
    assert found["callbacks sqlite / pushgateway"] == found["callbacks sqlite / plain"] == 0.6
    assert found["callbacks sqlite signed / sqlite"] == 0.9


def test_each_contender_has_its_rate_its_cost_and_its_times() -> None:
    """Medians of the rounds, and the longest time of all rounds."""
    found = values(throughput.figures(ROUNDS, GROWN))
    assert found["callbacks sqlite"] == 300  # 600 in two seconds
    assert found["callbacks sqlite, processor time"] == 200
    assert (found["callbacks sqlite p50"], found["callbacks sqlite p99"]) == (5, 15)
    assert found["callbacks sqlite longest"] == 450
    assert {f"callbacks {name}" for name in ROUNDS} <= found.keys()


def test_a_commit_has_its_mean_its_99th_percentile_and_its_callbacks() -> None:
    """The percentile by linear interpolation within the buckets, as Prometheus does."""
    found = values(throughput.figures(ROUNDS, GROWN))
    assert found["callbacks commit mean"] == pytest.approx(3)
    assert found["callbacks commit p99"] == pytest.approx(6)
    assert found["callbacks in a commit"] == 15


EXACT = {
    "everything is counted once": (1500.0, measured(800), (0, 0, 0), True),
    "some were rejected, some failed": (1500.0, measured(800, rejected=2, failed=3), (5, 0, 0), False),
    "some were answered and not counted": (1499.0, measured(800), (0, 1, 0), False),
    "as many are counted as were unanswered at three ends": (1692.0, measured(800), (0, 0, 192), True),
    "more are counted than were unanswered": (1693.0, measured(800), (0, 0, 193), False),
}


@each(EXACT)
def test_lost_and_double_counts_are_reported(
    counted: float, last: RoundResult, wanted: tuple[int, ...], is_met: bool
) -> None:
    """As figures that miss their targets."""
    rounds = ROUNDS | {SQLITE: [*ROUNDS[SQLITE][:2], last]}
    grown = GROWN | {throughput.APPLIED: counted}
    names = ("rejected or failed", "answered 200 and not counted", "counted past those answered 200")
    found = {figure.name: figure for figure in throughput.figures(rounds, grown)}
    figures = [found[f"callbacks {name}"] for name in names]
    assert tuple(figure.value for figure in figures) == wanted
    assert all(figure.is_met for figure in figures) is is_met


def test_only_the_exporter_has_targets() -> None:
    """Its ratios, its times and its dropped requests have targets."""
    found = {figure.name: figure for figure in throughput.figures(ROUNDS, GROWN)}
    for name in (BARE_HANDLER, PLAIN_WAY, PUSHGATEWAY):
        assert found[f"callbacks sqlite / {name}"].target
        assert not found[f"callbacks {name} p99"].target
    assert found["callbacks sqlite p99"].target
    result = K6Result(answered=990, rejected=0, dropped=10, p50_ms=1, p95_ms=2, p99_ms=3, max_ms=4)
    for name in (SQLITE, PUSHGATEWAY):
        by_name = {figure.name: figure for figure in arrivals.figures(name, result)}
        for what in ("p99", "dropped"):
            assert bool(by_name[f"arrivals {name} {what}"].target) == (name == SQLITE)
    assert values(arrivals.figures(SQLITE, result)) == {
        "arrivals sqlite answered": 990,
        "arrivals sqlite dropped": 10,
        "arrivals sqlite p50": 1,
        "arrivals sqlite p95": 2,
        "arrivals sqlite p99": 3,
        "arrivals sqlite longest": 4,
    }


def test_a_second_replica_is_compared_with_one() -> None:
    """Round by round, and by the processor time of a callback, as if each had a core."""
    one = [Cost(1000, 200, 50, 30), Cost(100, 200, 50, 30), Cost(1000, 220, 60, 40)]
    two = [Cost(1500, 250, 70, 30), Cost(190, 250, 70, 30), Cost(1600, 250, 70, 30)]
    found = values(replicas.figures(one, two, cores=4))
    assert found["replicas 2 / 1"] == 1.6
    assert found["replicas 2 / 1, by processor time of the replicas"] == 1.6
    assert [
        found[f"replicas 1{what}"] for what in ("", ", processor time", ", processor time of Valkey")
    ] == [1000, 200, 50]
    assert found["replicas 2, processor time of the load"] == 30
    for cores in (2, 4):
        targets = {figure.name: figure.target for figure in replicas.figures(one, two, cores)}
        assert bool(targets["replicas 2 / 1"]) == (cores == 4)


def test_each_replica_has_a_core_of_its_own_where_there_are_enough() -> None:
    """The store and the load generator share the rest."""
    assert replicas.assign_cores([0, 1, 2, 3], 2) == Cores((0, 1), (2, 3))
    assert replicas.assign_cores([0, 1], 1) == Cores((0,), (1,))
    assert replicas.assign_cores([0, 1], 2) == Cores((0, 1), (0, 1))


def test_the_stages_of_a_callback_and_the_rest_are_the_total() -> None:
    """Waiting for the disk is not part of the sum."""
    parts = dict.fromkeys(budget.STAGES, 10.0) | {budget.DISK: 500.0}
    costs = budget.total_costs({SQLITE: ROUNDS[SQLITE], BARE_HANDLER: ROUNDS[BARE_HANDLER]})
    assert costs == {SQLITE: 200, BARE_HANDLER: 90}
    found = values(budget.figures(parts, costs))
    assert found["budget total"] == 200
    assert found["budget everything else"] == 200 - 10 * len(budget.STAGES)
    assert found["budget bare / total"] == 0.45
    assert found[f"budget {budget.DISK}"] == 500


def test_results_of_different_machines_are_not_merged() -> None:
    """Their figures cannot be compared."""
    kept = Results(
        {"cores": 2},
        [StoredFigure("callbacks bare", 1), StoredFigure("burst time", 1)],
        [StoredFigure("budget read", 9)],
    )
    newer = Results({"cores": 2}, [StoredFigure("callbacks bare", 2)])
    found = merged(kept, [newer], None)
    assert (found["callbacks bare"].value, found["burst time"].value) == (2, 1)
    assert found.earlier("budget read") == StoredFigure("budget read", 9)
    with pytest.raises(ValueError, match="burst"):
        merged(kept, [Results({"cores": 4}, newer.figures)], None)


def test_an_unknown_section_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the names of the known sections."""
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "speed"])
    assert __main__.main() == 2
    assert "callbacks, arrivals" in capsys.readouterr().err
