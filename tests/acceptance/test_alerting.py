"""From a callback to an alert: exporter, Prometheus and Alertmanager, with the shipped rules."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from threading import Thread
from typing import Any

import pytest
from msgspec import Struct

from tests.acceptance.scenario_alerts import Sender
from tests.rules import ROOT, RULES
from tests.servers import Alertmanager, Prometheus, hurried
from tests.support import HANG_SECONDS, Exporter, free_port, running, until


class OnCall(Struct):
    """The exporter, Prometheus and Alertmanager, and a sender of callbacks."""

    exporter: Exporter
    sender: Sender
    alertmanager: Alertmanager
    prometheus: Prometheus

    def alerts(self, name: str, **more: str) -> list[dict[str, Any]]:
        """Return the alerts with a name in Alertmanager; `active` and `inhibited` filter them."""
        return self.alertmanager.alerts(filter=f'alertname="{name}"', **more)

    def failed(self, *tasks: str, **more: str) -> dict[str, dict[str, Any]]:
        """Return the alerts of these failed tasks, or of all, by task."""
        alerts = {alert["labels"]["task_id"]: alert for alert in self.alerts("CSSRelayTaskFailed", **more)}
        return {task: alert for task, alert in alerts.items() if not tasks or task in tasks}


@pytest.fixture(scope="module")
def on_call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnCall]:
    """Yield the running programs. `for` is one second; each test uses its own tasks and destination."""
    folder = tmp_path_factory.mktemp("on-call")
    with (
        running(folder, web__listen_address=f"127.0.0.1:{free_port()}") as exporter,
        Alertmanager(folder, ROOT / "deploy" / "alertmanager.yml") as alertmanager,
        Prometheus(
            folder,
            exporter.ports["web"],
            rules=hurried(RULES, folder, "1s"),
            alertmanager=alertmanager,
        ) as prometheus,
    ):
        yield OnCall(exporter, Sender(exporter), alertmanager, prometheus)


def test_a_failed_task_alerts_until_it_restarts_and_a_planned_end_does_not(on_call: OnCall) -> None:
    """The alert has its labels and texts, also for a task without earlier callbacks."""
    host = "single.example.com"
    on_call.sender.start("planned", 200, host)
    on_call.sender.exit("planned", 100, host, code=0)
    on_call.sender.start("118", 200, host)
    on_call.sender.exit("118", 100, host)
    alert = until(lambda: on_call.failed("118", "planned"), "the alert fires")["118"]
    labels = {k: alert["labels"][k] for k in ("severity", "job", "appid", "task_id", "to_host", "code")}
    assert labels == {
        "severity": "page",
        "job": "css-relay",
        "appid": "4",
        "task_id": "118",
        "to_host": host,
        "code": "-22",
    }
    assert alert["annotations"]["summary"] == "Relay task 118 has failed and has not restarted"
    assert alert["annotations"]["runbook_url"].endswith("#cssrelaytaskfailed")
    assert alert["receivers"] == [{"name": "on-call"}]
    assert alert["status"]["state"] == "active"
    assert not on_call.failed("planned")

    on_call.sender.start("118", host=host)
    until(lambda: not on_call.failed("118"), "the alert is resolved")
    query = 'ALERTS{alertname="CSSRelayTaskFailed", alertstate="firing", task_id=~"118|planned"}'
    until(lambda: not on_call.prometheus.query(query), "neither alert fires in Prometheus")


def test_a_failing_destination_mutes_its_tasks_and_no_others(on_call: OnCall) -> None:
    """Three tasks of one host fail, and one of another."""
    many = ("down0", "down1", "down2")
    for task, host in (*dict.fromkeys(many, "down.example.com").items(), ("alone", "up.example.com")):
        on_call.sender.start(task, 200, host)
        on_call.sender.exit(task, 100, host)

    def destinations() -> set[str]:
        alerts = on_call.alerts("CSSRelayDestinationFailing", active="true")
        return {alert["labels"]["to_host"] for alert in alerts}

    until(lambda: "down.example.com" in destinations(), "the destination alert fires")

    def states() -> dict[str, str]:
        return {task: a["status"]["state"] for task, a in on_call.failed(*many, "alone").items()}

    wanted = {**dict.fromkeys(many, "suppressed"), "alone": "active"}
    until(lambda: states() == wanted, "its tasks are inhibited, the other is not")
    assert "up.example.com" not in destinations()
    assert on_call.failed(*many, "alone", inhibited="false").keys() == {"alone"}


def test_a_restart_of_the_exporter_neither_resolves_nor_repeats_an_alert(on_call: OnCall) -> None:
    """It is one alert with the same start before, during and after the restart."""
    host = "restart.example.com"
    on_call.sender.start("119", 200, host)
    on_call.sender.exit("119", 100, host)
    begun = until(lambda: on_call.failed("119"), "the alert fires")["119"]["startsAt"]

    def begins() -> list[str]:
        return [alert["startsAt"] for alert in on_call.failed("119").values()]

    on_call.exporter.stop()
    until(lambda: on_call.prometheus.query("fleet:css_relay_store_silent:age"), "the exporter is down")
    until(lambda: on_call.alerts("CSSRelayExporterAbsent"), "the absent alert fires")
    assert begins() == [begun]

    on_call.exporter.start()
    until(lambda: not on_call.alerts("CSSRelayExporterAbsent"), "the absent alert is resolved")
    assert begins() == [begun]
    on_call.sender.start("119", host=host)
    until(lambda: not on_call.failed("119"), "the alert is resolved")


def simulated() -> list[bytes]:
    """Return the callbacks of a simulated fleet with failures, in the order they were sent."""
    received = []

    class Recorder(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"code":0}')

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            flags = ("--fast", "--tasks=4", "--duration=10m", "--failure-every=2m", "--downtime=1m")
            target = f"--target=http://127.0.0.1:{server.server_port}/callbacks"
            command = [sys.executable, "-m", "exporter", "simulate", target, *flags, "--connections=1"]
            subprocess.run(command, capture_output=True, check=True, timeout=HANG_SECONDS)
        finally:
            server.shutdown()
            thread.join()
    return received


def test_a_task_that_fails_in_the_simulator_alerts_until_it_restarts(on_call: OnCall) -> None:
    """Through the exporter, Prometheus and Alertmanager."""
    bodies = simulated()
    events = [(b["callback_event"], b.get("task_id"), json.loads(b["msg"])) for b in map(json.loads, bodies)]
    failed, task = next(
        (number, task)
        for number, (event, task, msg) in enumerate(events)
        if event == "TaskExit" and msg["code"] < 0 and ("TaskStart", task) in [e[:2] for e in events[number:]]
    )
    back = next(n for n in count(failed) if events[n][:2] == ("TaskStart", task))
    for body in bodies[: failed + 1]:
        assert on_call.sender.send(body) == 200
    alert = until(lambda: on_call.failed(task), "the alert fires")[task]
    assert int(alert["labels"]["code"]) == events[failed][2]["code"]
    for body in bodies[failed + 1 : back + 1]:
        assert on_call.sender.send(body) == 200
    until(lambda: not on_call.failed(task), "the alert is resolved")
    query = f'css_relay_task_state{{state="active", task_id="{task}"}} == 1'
    until(lambda: on_call.prometheus.query(query), "it is on air")
