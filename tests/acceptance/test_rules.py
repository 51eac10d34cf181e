"""The rules are valid, pass their test cases, and have data in a real Prometheus."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec import Struct

from tests.acceptance.scenario_alerts import SPAN_SECONDS, Sender, old_store, prepare, send_problems
from tests.clock import Clock
from tests.rules import ALERTS, CASE_FILES, RECORDED, ROOT, RULES, page_queries
from tests.servers import Prometheus, hurried
from tests.support import HANG_SECONDS, Exporter, running, tool, until

#: Alerts that a test cannot wait for or cannot cause: their queries are tested without the comparison.
STRIPPED = {"CSSRelayAnswersSlow", "CSSRelayScrapeSlow"}


def run_successfully(*command: str) -> None:
    """Run a command that must succeed; show its output if it fails."""
    program, *words = command
    done = subprocess.run(
        [tool(program), *words], capture_output=True, text=True, check=False, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_and_amtool_report_nothing() -> None:
    """The rules and the example configurations of Prometheus and Alertmanager are valid."""
    run_successfully("promtool", "check", "rules", *map(str, sorted(RULES.iterdir())))
    run_successfully("promtool", "check", "config", str(ROOT / "prometheus" / "prometheus.yml"))
    run_successfully("amtool", "check-config", str(ROOT / "deploy" / "alertmanager.yml"))


@pytest.mark.parametrize("path", CASE_FILES, ids=lambda path: path.stem)
def test_the_rule_test_cases_pass(path: Path) -> None:
    """Each alert fires at the times stated in the case file, and at no other."""
    run_successfully("promtool", "test", "rules", str(path))


class Scene(Struct):
    """Two replicas on one store, and a Prometheus that scrapes both.

    Args:
        fired: the names of the alerts that have fired so far.
    """

    clock: Clock
    first: Exporter
    second: Exporter
    store: Path
    prometheus: Prometheus
    fired: set[str] = set()

    def until_fired(self, *alerts: str) -> None:
        """Wait until these alerts have fired."""

        def have_fired() -> bool:
            self.fired |= self.prometheus.firing()
            return set(alerts) <= self.fired

        try:
            until(have_fired, "these alerts fire")
        except AssertionError:
            pytest.fail(f"not fired: {set(alerts) - self.fired}")

    def until_data(self, queries: Mapping[str, str]) -> None:
        """Wait until these queries, by name, all have data at the same time."""

        def silent() -> list[str]:
            return [name for name, query in queries.items() if not self.prometheus.query(query)]

        try:
            until(lambda: not silent(), "these queries have data")
        except AssertionError:
            pytest.fail(f"no data: {silent()}")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Yield the scene without problems, after all counters were scraped once."""
    with ExitStack() as stack:
        clock = Clock(tmp_path)
        clock.set(-SPAN_SECONDS)
        # A public address without access control, so that CSSRelayCallbackListenerOpen fires.
        flags = {"store__url": old_store(tmp_path), "callback__listen_address": "0.0.0.0:0"}
        replicas = [
            stack.enter_context(running(_made(tmp_path / name), clock=clock, **flags))
            for name in ("first", "second")
        ]
        ports = [replica.ports["web"] for replica in replicas]
        rules = hurried(RULES, tmp_path)
        prometheus = stack.enter_context(Prometheus(tmp_path, *ports, rules=rules))
        _restart_worker_of(replicas[1], prometheus, ports[1])
        prepare(Sender(replicas[0], clock.now))
        seen = "count(css_relay_tasks{state='active'} > 0) == 6"
        until(lambda: prometheus.query(seen), "three destinations of both replicas are scraped")
        yield Scene(clock, replicas[0], replicas[1], tmp_path / "relay.db", prometheus)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _restart_worker_of(exporter: Exporter, prometheus: Prometheus, port: int) -> None:
    """Kill its worker three times, each time after a scrape of the last one."""
    begun = f"process_start_time_seconds{{instance='127.0.0.1:{port}'}}"
    for _ in range(3):
        before = until(lambda: prometheus.value(begun), "a scrape")
        os.kill(exporter.worker, signal.SIGKILL)
        until(lambda: prometheus.query(f"{begun} > {before}"), "the next worker is scraped")  # noqa: B023


def test_every_rule_has_data(scene: Scene) -> None:
    """Each alert fires, each recorded series has data, and each query of the runbook is valid."""
    prometheus = scene.prometheus
    send_problems(Sender(scene.first, scene.clock.now), scene.clock)
    later = {"CSSRelayReplicaDown", "CSSRelayStoreDown", "CSSRelayExporterAbsent"}
    scene.until_fired(*(ALERTS.keys() - later - STRIPPED))
    queries = {name: name for name in RECORDED.keys() - {"fleet:css_relay_store_silent:age"}}
    queries |= {name: re.sub(r" > [\d.]+", "", ALERTS[name]["expr"]) for name in STRIPPED}
    scene.until_data(queries)
    for query in page_queries():
        prometheus.query(query)

    scene.second.kill()
    scene.until_fired("CSSRelayReplicaDown")
    for path in scene.store.parent.glob("relay.db*"):
        path.unlink()
    scene.until_fired("CSSRelayStoreDown")
    scene.first.kill()
    scene.until_fired("CSSRelayExporterAbsent")
    until(
        lambda: prometheus.query("fleet:css_relay_store_silent:age"), "the age of the last scrape is recorded"
    )
    known = {"CSSRelayTaskFailed", "CSSRelayDestinationFailing", "CSSRelayDeadAir"}
    until(lambda: known <= prometheus.firing(), "alerts of tasks still fire without an exporter")

    _assert_that_no_rule_fails(prometheus)


def _assert_that_no_rule_fails(prometheus: Prometheus) -> None:
    groups = prometheus.ask("rules")["groups"]
    rules = [(rule["name"], rule["health"], rule.get("lastError", "")) for g in groups for rule in g["rules"]]
    assert {name for name, _, _ in rules} == ALERTS.keys() | RECORDED.keys()
    assert [rule for rule in rules if rule[1:] != ("ok", "")] == []
