"""From a callback to the person on call: exporter, Prometheus, Alertmanager, with the rules as shipped."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.acceptance.scenario_alerts import DOWN, PUSH, Sender
from tests.rules import ROOT, RULES
from tests.servers import Alertmanager, Prometheus, hurried
from tests.support import Exporter, free_port, running, until

pytestmark = pytest.mark.alone


class OnCall(Struct):
    """What the person on call looks at, and the service that makes the trouble."""

    exporter: Exporter
    sender: Sender
    alertmanager: Alertmanager
    prometheus: Prometheus

    def told(self, name: str, **more: str) -> list[dict[str, Any]]:
        """Return the alerts of a name that Alertmanager holds; `active`, `inhibited` choose among them."""
        return self.alertmanager.alerts(filter=f'alertname="{name}"', **more)


@pytest.fixture
def on_call(tmp_path: Path) -> Iterator[OnCall]:
    """The whole chain; alerts wait for a second only."""
    with (
        running(tmp_path, web__listen_address=f"127.0.0.1:{free_port()}") as exporter,
        Alertmanager(tmp_path, ROOT / "deploy" / "alertmanager.yml") as alertmanager,
        Prometheus(
            tmp_path,
            exporter.ports["web"],
            rules=hurried(RULES, tmp_path, "1s"),
            alertmanager=alertmanager,
        ) as prometheus,
    ):
        yield OnCall(exporter, Sender(exporter), alertmanager, prometheus)


def test_a_task_fails_is_told_comes_back_and_is_told_no_more(on_call: OnCall) -> None:
    """With the labels and the text that a person needs; of a task that was never seen before."""
    on_call.sender.start("118", 200)
    on_call.sender.exit("118", 100)
    alert = until(lambda: on_call.told("CSSRelayTaskFailed"), "Alertmanager holds it")[0]
    labels = {k: alert["labels"][k] for k in ("severity", "job", "appid", "task_id", "to_host", "code")}
    assert labels == {
        "severity": "page",
        "job": "css-relay",
        "appid": "4",
        "task_id": "118",
        "to_host": PUSH,
        "code": "-22",
    }
    assert alert["annotations"]["summary"] == "Relay task 118 has failed and is not back"
    assert alert["annotations"]["runbook_url"].endswith("#cssrelaytaskfailed")
    assert alert["receivers"] == [{"name": "on-call"}]
    assert alert["status"]["state"] == "active"

    on_call.sender.start("118")
    until(lambda: not on_call.told("CSSRelayTaskFailed"), "it is resolved")
    assert "CSSRelayTaskFailed" not in on_call.prometheus.firing()


def test_a_planned_end_is_told_to_nobody(on_call: OnCall) -> None:
    """While another task's failure is."""
    on_call.sender.start("planned", 200)
    on_call.sender.exit("planned", 100, code=0)
    on_call.sender.start("failed", 200)
    on_call.sender.exit("failed", 100)
    until(lambda: on_call.told("CSSRelayTaskFailed"), "Alertmanager holds the other")
    assert {a["labels"]["task_id"] for a in on_call.told("CSSRelayTaskFailed")} == {"failed"}


def test_a_destination_in_trouble_silences_its_tasks_and_no_others(on_call: OnCall) -> None:
    """Three tasks of one host fail, and one of another."""
    for number in range(3):
        on_call.sender.start(f"down{number}", 200, DOWN)
        on_call.sender.exit(f"down{number}", 100, DOWN)
    on_call.sender.start("single", 200, PUSH)
    on_call.sender.exit("single", 100, PUSH)
    until(lambda: on_call.told("CSSRelayDestinationFailing", active="true"), "the destination is told")

    def single_ones() -> dict[str, str]:
        return {a["labels"]["task_id"]: a["status"]["state"] for a in on_call.told("CSSRelayTaskFailed")}

    wanted = {**dict.fromkeys(("down0", "down1", "down2"), "suppressed"), "single": "active"}
    until(lambda: single_ones() == wanted, "its tasks are inhibited, the other is not")
    shown = on_call.told("CSSRelayTaskFailed", inhibited="false")
    assert {a["labels"]["task_id"] for a in shown} == {"single"}


def test_a_restart_of_the_exporter_neither_resolves_an_alert_nor_tells_it_again(on_call: OnCall) -> None:
    """It is one alert, begun when it began, before, during and after."""
    on_call.sender.start("118", 200)
    on_call.sender.exit("118", 100)
    begun = until(lambda: on_call.told("CSSRelayTaskFailed"), "Alertmanager holds it")[0]["startsAt"]
    on_call.exporter.stop()
    until(lambda: on_call.prometheus.query("fleet:css_relay_store_silent:age"), "nobody answers")
    until(lambda: on_call.told("CSSRelayExporterAbsent"), "that is told, too")
    assert [a["startsAt"] for a in on_call.told("CSSRelayTaskFailed")] == [begun]

    on_call.exporter.start()
    until(lambda: not on_call.told("CSSRelayExporterAbsent"), "it is back")
    assert [a["startsAt"] for a in on_call.told("CSSRelayTaskFailed")] == [begun]
    on_call.sender.start("118")
    until(lambda: not on_call.told("CSSRelayTaskFailed"), "it is resolved")


def test_a_task_that_the_simulator_breaks_is_told_until_it_is_back(on_call: OnCall) -> None:
    """From a fleet in its own time, past the exporter and Prometheus, to Alertmanager and back."""
    target = f"--target=http://127.0.0.1:{on_call.exporter.ports['callbacks']}/callbacks"
    flags = ("--tasks=8", "--duration=80s", "--failure-every=15s", "--downtime=8s", "--seed=3")
    command = [sys.executable, "-m", "exporter", "simulate", target, *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as fleet:
        told: dict[str, str] = {}

        def one_is_back() -> str | None:
            now = {a["labels"]["task_id"]: a["labels"]["code"] for a in on_call.told("CSSRelayTaskFailed")}
            told.update(now)
            return next((task for task in told if task not in now and is_active(task)), None)

        def is_active(task: str) -> bool:
            found = on_call.prometheus.query(f'css_relay_task_state{{state="active", task_id="{task}"}} == 1')
            return bool(found)

        back = until(one_is_back, "a task was told of, and is back", 75)
        assert int(told[back]) < 0
        fleet.kill()
