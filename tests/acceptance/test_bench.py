"""The benchmarks measure programs that really count: few callbacks per contender, a run of every section.

tests/unit/test_benchmarks.py tests the computation of figures on made-up measurements. `make bench` measures
the speed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from bench import arrivals, budget, burst, growth, memory, replicas, scrapes, throughput
from bench.contenders import (
    ANYWHERE,
    BARE_HANDLER,
    PLAIN_WAY,
    PUSHGATEWAY,
    SIDE_BY_SIDE,
    SIGNED,
    SQLITE,
    TWO_ON_VALKEY,
    Contender,
    running,
)
from bench.load import LIFE_CYCLES, Load, send, send_exactly
from bench.peers import Pushgateway, Valkey
from bench.process import Process
from bench.report import Figure
from bench.stores import STORES
from bench.throughput import RoundResult
from tests.clock import Clock
from tests.support import HANG_SECONDS, tool

DESTINATIONS = 3
NUMBER = 200
#: Requests per second, far fewer than any machine can answer.
RATE = 50
#: Longer than every time window of the fold.
DAY_SECONDS = 86400.0


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """Check that the programs for the benchmarks are installed; otherwise skip the tests."""
    for name in ("wrk", "prometheus-pushgateway", "taskset"):
        tool(name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Contender]]:
    """Yield the bare handler and the exporter on a store file, both running."""
    with running(tmp_path_factory.mktemp("bench"), (), (BARE_HANDLER, SQLITE)) as found:
        yield found


def numbers(contender: Contender) -> Mapping[str, float]:
    """Return the samples of its first server."""
    return cast(Process | Pushgateway, contender.servers[0]).samples()


def counted(contender: Contender) -> float:
    """Return the number of callbacks, or of pushes, in the metrics of a contender."""
    found = numbers(contender)
    if contender.name == PUSHGATEWAY:
        return found.get('pushgateway_http_requests_total{code="200",handler="push",method="post"}', 0)
    if contender.name == PLAIN_WAY:
        return sum(value for name, value in found.items() if name.startswith("plain_callbacks_total{"))
    return found[throughput.APPLIED]


def assert_counts_what_it_is_sent(contender: Contender) -> None:
    """Check that a contender does the work that is measured."""
    before = counted(contender)
    outcome = throughput.measure_once(contender, 0, DESTINATIONS, NUMBER).outcome
    assert (outcome.accepted, outcome.rejected) == (NUMBER, 0)
    assert counted(contender) - before == NUMBER


def test_the_exporter_beside_the_bare_handler_counts_what_both_are_sent(
    pair: Mapping[str, Contender],
) -> None:
    """The exact number of callbacks; and the exporter has all samples that the figures need."""
    before = numbers(pair[SQLITE])
    done = throughput.in_turns(pair, 2, 0, DESTINATIONS, NUMBER)
    grown = {name: value - before.get(name, 0) for name, value in numbers(pair[SQLITE]).items()}
    assert {name: [r.outcome.accepted for r in found] for name, found in done.items()} == {
        BARE_HANDLER: [NUMBER] * 2,
        SQLITE: [NUMBER] * 2,
    }
    assert grown[throughput.APPLIED] == 2 * NUMBER
    assert pair[SQLITE].cpu_seconds() > 0
    # The processor time of so few callbacks can be below the clock's resolution.
    rounds = {name: [RoundResult(r.outcome, 1.0) for r in found] for name, found in done.items()}
    others = dict.fromkeys((*SIDE_BY_SIDE, SIGNED), rounds[BARE_HANDLER])
    figures = named(throughput.figures(others | rounds, grown))
    assert figures["callbacks answered 200 and not counted"].value == 0
    assert figures["callbacks counted past those answered 200"].value == 0
    assert figures["callbacks commit p99"].value > 0
    assert 1 <= figures["callbacks in a commit"].value <= NUMBER


def test_a_closed_loop_ends_with_its_time(pair: Mapping[str, Contender]) -> None:
    """Callbacks that were unanswered at the end may be counted in addition to the answered ones."""
    before = counted(pair[SQLITE])
    outcome = send(pair[SQLITE].load(DESTINATIONS), 1, connections=2)
    assert outcome.seconds >= 1
    assert outcome.rejected == 0
    assert 0 <= counted(pair[SQLITE]) - before - outcome.accepted <= 2


def test_an_open_loop_reports_answered_and_dropped_requests(pair: Mapping[str, Contender]) -> None:
    """The exporter counts the answered ones."""
    before = counted(pair[SQLITE])
    found = arrivals.measure_once(pair[SQLITE], 1, DESTINATIONS, RATE)
    assert counted(pair[SQLITE]) - before == found.answered > 0
    assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms <= found.max_ms


def test_an_open_loop_is_planned_with_the_requested_rate_and_time() -> None:
    """Whether it reaches the rate depends on the machine."""
    script = Path(arrivals.__file__).with_name("arrivals.js")
    variables = {"URLS": "http://127.0.0.1:1", "SCRIPT": "callbacks", "RATE": "50", "SECONDS": "3"}
    command = [str(Path(sys.executable).with_name("k6")), "inspect", "--include-system-env-vars", str(script)]
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, check=True, timeout=HANG_SECONDS
    )
    plan = json.loads(done.stdout)["scenarios"]["arrivals"]
    assert (plan["executor"], plan["rate"], plan["timeUnit"]) == ("constant-arrival-rate", 50, "1s")
    assert plan["duration"] == "3s"


def test_an_answer_other_than_200_ends_the_run(pair: Mapping[str, Contender]) -> None:
    """A rejected request is not an accepted callback, in either loop."""
    bare = cast(Process, pair[BARE_HANDLER].servers[0])
    astray = Contender("astray", [bare], urls=(bare.callbacks_url + "/astray",))
    with pytest.raises(RuntimeError, match="astray did not answer 200"):
        throughput.measure_once(astray, 0, DESTINATIONS, NUMBER)
    with pytest.raises(RuntimeError, match="astray did not answer 200"):
        arrivals.measure_once(astray, 1, DESTINATIONS, RATE)


def test_life_cycles_have_the_stated_events(pair: Mapping[str, Contender]) -> None:
    """A thousand callbacks are 20 tasks with sixteen files each, and two deliveries of each file start."""
    exporter = cast(Process, pair[SQLITE].servers[0])
    before = exporter.samples()
    send_exactly(Load((exporter.callbacks_url,), LIFE_CYCLES, DESTINATIONS, tasks=20), 20 * growth.PER_TASK)
    after = exporter.samples()

    def grown(event: str, outcome: str) -> float:
        name = f'css_relay_callbacks_total{{event="{event}",outcome="{outcome}"}}'
        return after[name] - before[name]

    assert [grown(event, "applied") for event in ("TaskStart", "TaskExit")] == [20, 20]
    assert grown("VodSourceFileStart", "applied") == grown("VodSourceFileStart", "duplicate") == 320
    assert grown("VodSourceFileFinish", "applied") == 320


def test_signed_callbacks_with_a_token_are_counted(tmp_path: Path) -> None:
    """The exporter requires both."""
    with running(tmp_path, (), [SIGNED]) as found:
        assert_counts_what_it_is_sent(found[SIGNED])


def test_load_is_divided_among_replicas_and_counted_together(tmp_path: Path) -> None:
    """Each replica gets its share; the costs of replicas, store and load generator are separate."""
    with running(tmp_path, (), [TWO_ON_VALKEY]) as found:
        contender = found[TWO_ON_VALKEY]
        cost = replicas.measure_once(contender, ANYWHERE, 0, DESTINATIONS, NUMBER)
        assert counted(contender) == 2 * NUMBER
        accepted = [
            cast(Process, server).samples()['css_relay_exporter_request_seconds_count{status="200"}']
            for server in contender.servers
        ]
        assert accepted == [NUMBER, NUMBER]
        assert cost.load_us > 0


def test_the_plain_way_counts_valid_callbacks_and_rejects_invalid_ones(tmp_path: Path) -> None:
    """Validation is part of its work."""
    with running(tmp_path, (), [PLAIN_WAY]) as found:
        assert_counts_what_it_is_sent(found[PLAIN_WAY])
        connection = cast(Process, found[PLAIN_WAY].servers[0]).connect("callbacks")
        body = {"callback_event": "TaskStart", "msg": '{"task_start_time": "soon"}', "source_urls": "[]"}
        connection.request("POST", "/callbacks", json.dumps(body), {"Content-Type": "application/json"})
        assert connection.getresponse().status == 400
        connection.close()


def test_the_pushgateway_accepts_pushes_in_both_loops(tmp_path: Path) -> None:
    """The pushes have the text format of metrics."""
    with running(tmp_path, (), [PUSHGATEWAY]) as found:
        assert_counts_what_it_is_sent(found[PUSHGATEWAY])
        answered = arrivals.measure_once(found[PUSHGATEWAY], 1, DESTINATIONS, RATE).answered
        assert counted(found[PUSHGATEWAY]) == NUMBER + answered


def test_a_program_stays_on_the_core_it_is_pinned_to(tmp_path: Path) -> None:
    """Its worker too."""
    core = min(os.sched_getaffinity(0))
    with Valkey(tmp_path, [core]) as server:
        assert os.sched_getaffinity(server.workers()[0]) == {core}


def test_a_burst_is_counted(tmp_path: Path) -> None:
    """No callback of it is lost or counted twice."""
    figures = named(burst.measure(tmp_path, (), callbacks=NUMBER, destinations=DESTINATIONS))
    assert figures["burst callbacks"].value == NUMBER
    assert figures["burst callbacks lost"].value == figures["burst callbacks miscounted"].value == 0


def test_scrapes_are_measured_with_their_sizes(tmp_path: Path) -> None:
    """In each format; a compressed scrape is smaller."""
    stores = {"sqlite": STORES["sqlite"]}
    figures = named(scrapes.measure(tmp_path, (), fleets=(10,), times=1, stores=stores))
    name = "scrape sqlite 10 tasks, default series"
    assert 0 < figures[f"{name}, text gzip, size"].value < figures[f"{name}, text, size"].value
    assert figures[f"{name}, openmetrics gzip"].value > 0


def test_the_start_and_memory_are_measured(tmp_path: Path) -> None:
    """The first answer comes before readiness, and no memory is above the peak."""
    figures = named(memory.measure(tmp_path, (), tasks=20, callbacks=40, stores={"valkey": STORES["valkey"]}))
    first, ready = (figures[f"memory valkey start to {what}"].value for what in ("first 200", "ready"))
    assert 0 < first < ready
    held, peak = (figures[f"memory valkey {when}"] for when in ("after callbacks", "peak"))
    assert 10 < held.value <= peak.value
    assert peak.target


def test_every_stage_of_a_callback_is_measured(tmp_path: Path) -> None:
    """Each stage takes some processor time."""
    parts = budget.stage_costs(tmp_path, batches=3)
    assert parts.keys() == {*budget.STAGES, budget.DISK}
    assert min(parts[name] for name in ("validate", "redact", "fold", "write")) > 0


def test_tasks_that_come_and_go_leave_the_fleet_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growth sends complete life cycles and measures after these tasks are forgotten."""
    clock = Clock(tmp_path)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    figures = {}
    for figure in growth.measure(tmp_path, (), marks=(), fleet=10, lanes=20, scrapes=2, fold_settings=()):
        figures[figure.name] = figure
        if figure.name == "growth 0 rate":  # all callbacks are sent
            clock.advance(DAY_SECONDS)
    for what in ("rate", "scrape", "memory", "store"):
        assert figures[f"growth 0 {what}"].value > 0


def named(figures: Iterable[Figure]) -> dict[str, Figure]:
    """Return figures by name."""
    return {figure.name: figure for figure in figures}
