"""The benchmarks measure what they say: a short real run of each section, of programs that really count."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from bench import arrivals, budget, burst, growth, memory, replicas, scrapes, throughput
from bench.contenders import (
    ANYWHERE,
    BARE_HANDLER,
    DURABLE,
    GUARDED,
    PLAIN_WAY,
    PUSHGATEWAY,
    SIDE_BY_SIDE,
    SQLITE,
    TWO_ON_VALKEY,
    VALKEY,
    Contender,
    Cores,
    running,
)
from bench.load import CONNECTIONS, LIVES, Aim, send, send_exactly
from bench.peers import Pushgateway, Valkey
from bench.process import Process
from bench.report import Figure
from bench.results import Found, Results, merged
from tests.support import tool

pytestmark = pytest.mark.alone

DESTINATIONS = 3


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """What sends, and what is measured."""
    for name in ("wrk", "prometheus-pushgateway", "taskset"):
        tool(name)


@pytest.fixture(scope="module")
def contenders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Contender]]:
    """All that are measured side by side, running."""
    with running(tmp_path_factory.mktemp("bench"), (), [*SIDE_BY_SIDE, GUARDED]) as found:
        yield found


def counted(contender: Contender) -> float:
    """Return how many callbacks it has counted by itself, or pushes."""
    server = contender.servers[0]
    if isinstance(server, Pushgateway):
        return server.numbers().get(
            'pushgateway_http_requests_total{code="200",handler="push",method="post"}', 0
        )
    numbers = cast(Process, server).numbers()
    if contender.name == PLAIN_WAY:
        return sum(value for name, value in numbers.items() if name.startswith("plain_callbacks_total{"))
    return numbers[throughput.APPLIED]


@pytest.mark.parametrize("name", [*DURABLE, GUARDED, PLAIN_WAY, PUSHGATEWAY])
def test_whoever_is_measured_counts_what_it_is_sent(contenders: Mapping[str, Contender], name: str) -> None:
    """Speed without the work would be none."""
    contender = contenders[name]
    before = counted(contender)
    outcome = send_exactly(contender.aim(DESTINATIONS), 500)
    assert (outcome.taken, outcome.refused, outcome.broken) == (500, 0, 0)
    assert counted(contender) - before == 500


def test_load_is_shared_out_among_replicas(contenders: Mapping[str, Contender]) -> None:
    """Each takes its share, and what both count is what both answered."""
    contender = contenders[TWO_ON_VALKEY]
    before = counted(contender), [server.busy_seconds() for server in contender.servers]
    outcome = send(contender.aim(DESTINATIONS), 1)
    assert 0 <= counted(contender) - before[0] - outcome.taken <= CONNECTIONS
    for server, busy in zip(contender.servers, before[1], strict=True):
        assert server.busy_seconds() - busy > 0.05


def test_the_plain_way_refuses_what_is_not_valid(contenders: Mapping[str, Contender]) -> None:
    """Validation is part of its work."""
    connection = cast(Process, contenders[PLAIN_WAY].servers[0]).connect("callbacks")
    body = {"callback_event": "TaskStart", "msg": '{"task_start_time": "soon"}', "source_urls": "[]"}
    connection.request("POST", "/callbacks", json.dumps(body), {"Content-Type": "application/json"})
    assert connection.getresponse().status == 400
    connection.close()


def test_an_answer_other_than_200_ends_the_run(contenders: Mapping[str, Contender]) -> None:
    """What was refused is no callback taken."""
    bare = cast(Process, contenders[BARE_HANDLER].servers[0])
    astray = Contender("astray", [bare], urls=(bare.callbacks_url + "/astray",))
    with pytest.raises(RuntimeError, match="astray did not answer 200"):
        throughput.once(astray, 1, DESTINATIONS)
    with pytest.raises(RuntimeError, match="astray did not answer 200"):
        arrivals.once(astray, 1, DESTINATIONS)


def test_the_closed_loop_compares_all(contenders: Mapping[str, Contender]) -> None:
    """Each has a rate, and what must not be refused, lost or doubled was not."""
    figures = named(throughput.compare(contenders, rounds=1, seconds=1, destinations=DESTINATIONS))
    for name in SIDE_BY_SIDE:
        assert figures[f"callbacks {name}"].value > 100
        assert 0 < figures[f"callbacks {name} p50"].value <= figures[f"callbacks {name} p99"].value
    for name in (BARE_HANDLER, PLAIN_WAY, PUSHGATEWAY):
        ratio = figures[f"callbacks {SQLITE}"].value / figures[f"callbacks {name}"].value
        assert figures[f"callbacks sqlite / {name}"].value == pytest.approx(ratio)
        assert figures[f"callbacks sqlite / {name}"].target
    for what in ("refused or broken", "answered 200 and not counted", "counted past those answered 200"):
        assert figures[f"callbacks {what}"].is_met


@pytest.mark.parametrize("name", [SQLITE, PUSHGATEWAY])
def test_the_open_loop_keeps_its_rate(contenders: Mapping[str, Contender], name: str) -> None:
    """As many arrive as are asked for, and what is dropped is told."""
    before = counted(contenders[name])
    found = arrivals.once(contenders[name], 1, DESTINATIONS)
    assert found.answered + found.dropped == pytest.approx(arrivals.RATE, rel=0.05)
    assert counted(contenders[name]) - before == found.answered
    figures = named(arrivals.figures(name, found))
    assert 0 < figures[f"arrivals {name} p50"].value <= figures[f"arrivals {name} longest"].value
    assert bool(figures[f"arrivals {name} p99"].target) == (name in DURABLE)


def test_what_each_part_of_a_shared_store_needs_of_a_core_is_told(
    contenders: Mapping[str, Contender],
) -> None:
    """So that it can be told what limits a second replica."""
    one, two = (
        replicas.once(contenders[name], ANYWHERE, 1, DESTINATIONS) for name in (VALKEY, TWO_ON_VALKEY)
    )
    figures = named(replicas.figures([one], [two], cores=4))
    for number in (1, 2):
        for part in ("processor time", "Valkey's", "the load's"):
            assert 1 < figures[f"replicas {number}, {part} each"].value < 10_000
    assert figures["replicas 2 / 1"].value == pytest.approx(two.rate / one.rate)
    assert figures["replicas 2 / 1"].target


def test_each_replica_has_a_core_of_its_own_where_there_are_enough(tmp_path: Path) -> None:
    """The store and the load share the rest; a program stays where it was put."""
    assert replicas.shared_out([0, 1, 2, 3], 2) == Cores((0, 1), (2, 3))
    assert replicas.shared_out([0, 1], 1) == Cores((0,), (1,))
    assert replicas.shared_out([0, 1], 2) == Cores((0, 1), (0, 1))
    core = min(os.sched_getaffinity(0))
    with Valkey(tmp_path, [core]) as server:
        assert os.sched_getaffinity(server.workers()[0]) == {core}


def test_a_burst_is_counted(tmp_path: Path) -> None:
    """None of it is lost or counted twice."""
    figures = named(burst.measure(tmp_path, (), callbacks=300, destinations=DESTINATIONS))
    assert figures["burst callbacks lost"].value == figures["burst callbacks miscounted"].value == 0


def test_scrapes_are_measured_on_both_stores(tmp_path: Path) -> None:
    """With their sizes."""
    figures = named(scrapes.measure(tmp_path, (), fleets=(10,), times=1))
    for store in ("sqlite", "valkey"):
        name = f"scrape {store} 10 tasks, default series"
        assert 0 < figures[f"{name}, text gzip, size"].value < figures[f"{name}, text, size"].value
        assert figures[f"{name}, openmetrics gzip"].value > 0


def test_the_start_and_memory_are_measured_on_both_stores(tmp_path: Path) -> None:
    """The start comes before it is ready, and no memory is more than the most."""
    figures = named(memory.measure(tmp_path, (), tasks=20, callbacks=40))
    for store in ("sqlite", "valkey"):
        first, ready = (figures[f"memory {store} start to {what}"].value for what in ("first 200", "ready"))
        assert 0 < first < ready
        held, peak = (figures[f"memory {store} {when}"] for when in ("after callbacks", "at its highest"))
        assert 10 < held.value <= peak.value
        assert peak.target


def test_the_parts_of_a_callback_are_part_of_the_whole(
    contenders: Mapping[str, Contender], tmp_path: Path
) -> None:
    """None is left out, and with what is left they are the whole.

    The parts are measured in this process, which may be watched for coverage, the whole in another, so that
    what is left says nothing here.
    """
    two = {name: contenders[name] for name in (BARE_HANDLER, SQLITE)}
    parts_alone = budget.parts_of(tmp_path, batches=20)
    figures = named(budget.figures(parts_alone, budget.costs_of(two, rounds=1, seconds=1)))
    assert figures[f"budget {budget.DISK}"].value > 0
    parts = [figures[f"budget {name}"].value for name in (*budget.PARTS, "everything else")]
    assert sum(parts) == pytest.approx(figures["budget the whole"].value)
    assert min(figures[f"budget {name}"].value for name in ("fold", "write", "the whole", "bare")) > 0


def test_tasks_that_come_and_go_leave_the_fleet_as_it_was(tmp_path: Path) -> None:
    """Growth sends whole lives, which are forgotten before it looks."""
    figures = named(growth.measure(tmp_path, (), marks=()))
    for what in ("rate", "scrape", "memory", "store"):
        assert figures[f"growth 0 {what}"].value > 0


def test_whole_lives_are_what_they_say(contenders: Mapping[str, Contender]) -> None:
    """Ten thousand callbacks are 200 tasks with sixteen files each, each of whose starts came twice."""
    exporter = cast(Process, contenders[SQLITE].servers[0])
    before = exporter.numbers()
    send_exactly(Aim((exporter.callbacks_url,), LIVES, DESTINATIONS), growth.WHOLE_LIVES)
    after = exporter.numbers()

    def grown(event: str, outcome: str) -> float:
        name = f'css_relay_callbacks_total{{event="{event}",outcome="{outcome}"}}'
        return after[name] - before[name]

    assert [grown(event, "applied") for event in ("TaskStart", "TaskExit")] == [200, 200]
    assert grown("VodSourceFileStart", "applied") == grown("VodSourceFileStart", "duplicate") == 3200
    assert grown("VodSourceFileFinish", "applied") == 3200


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


def test_an_unknown_section_is_refused() -> None:
    """With the names of those that are known."""
    command = [sys.executable, "-m", "bench", "--only", "speed"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "callbacks, arrivals" in done.stderr


def named(figures: Iterator[Figure]) -> dict[str, Figure]:
    """Return figures by their names."""
    return {figure.name: figure for figure in figures}
