"""The stack to try: every part of it is there, and all but Grafana run together as the compose file says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.support import until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose.yaml"
IMAGE = ROOT / ".ci" / "image"
RUNNABLE = ("exporter", "simulator", "prometheus", "alertmanager")  # of Grafana no package is to be had here

ASK = """
import sys, urllib.request

print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
"""


def services() -> dict[str, Any]:
    """Return the services of the compose file."""
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


@pytest.mark.parametrize("name", services())
def test_everything_that_is_mounted_is_there(name: str) -> None:
    """A path of this repository, or a volume that the file declares."""
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for volume in services()[name].get("volumes", ()):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (COMPOSE.parent / source).exists(), source
            assert mode == ["ro"]
        else:
            assert source in declared


def test_images_have_versions_and_ports_are_of_this_machine_alone() -> None:
    """It is the same stack tomorrow, and nobody else's."""
    for name, service in services().items():
        assert "build" in service or name == "simulator" or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_grafana_is_provisioned_with_what_is_there() -> None:
    """Its data source is the stack's Prometheus, and its dashboards are where they are looked for."""
    folder = ROOT / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "css-relay.yml").read_text())["providers"]
    mounts = dict(v.split(":")[:2] for v in services()["grafana"]["volumes"])
    assert source["url"] == "http://prometheus:9090"
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "grafana" / "dashboards" / Path(home).name).exists()


class Stack:
    """The stack, with one network namespace for all: this sandbox has no bridges."""

    def __init__(self, folder: Path) -> None:
        self._name = f"css-relay-{uuid4().hex[:8]}"
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost " + " ".join(RUNNABLE) + "\n")
        shared = {"volumes": [f"{hosts}:/etc/hosts:ro"], "network_mode": "service:exporter"}
        override = {name: dict(shared) for name in RUNNABLE}
        override["exporter"]["network_mode"] = "none"
        self._override = folder / "override.yaml"
        # Ports can't be published without a network; the tag that takes them away is not of YAML's own.
        text = yaml.safe_dump({"services": override})
        self._override.write_text(
            re.sub(r"^(  (?!simulator)\w+:)$", r"\1\n    ports: !reset []", text, flags=re.M)
        )

    def compose(self, *words: str) -> str:
        """Run a command of podman-compose."""
        files = ("-f", str(COMPOSE), "-f", str(self._override), "-p", self._name, "--in-pod=false")
        return run("compose", *files, *words)

    def ask(self, url: str) -> Any:
        """Return what a service answers, as JSON, asked from within."""
        command = ("podman", "exec", f"{self._name}_exporter_1", "python", "-c", ASK, url)
        done = subprocess.run([IMAGE, *command], capture_output=True, check=False, timeout=60)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def value(self, expression: str) -> float:
        """Return the value of an expression at its Prometheus, 0 while there is none."""
        answer = self.ask(f"http://prometheus:9090/api/v1/query?query={expression}")
        result = answer["data"]["result"] if answer else ()
        return float(result[0]["value"][1]) if result else 0.0


def run(*words: str) -> str:
    """Run .ci/image with this environment's programs; show what it said where it failed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [IMAGE, *words],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PATH": path},
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """The running stack, without Grafana."""
    done = subprocess.run([IMAGE, "missing"], capture_output=True, text=True, check=False)
    if done.returncode and "CI" not in os.environ:
        pytest.skip(done.stdout.strip())
    image = run("build").strip().rpartition(":")[2]
    run("peers")
    run("podman", "tag", image, "css-relay-exporter:latest")
    stack = Stack(tmp_path)
    try:
        stack.compose("up", "--no-build", "-d", *RUNNABLE)
        yield stack
    finally:
        stack.compose("down", "-v", "-t", "1")


def test_the_stack_runs_and_shows_the_simulated_fleet(stack: Stack) -> None:
    """Prometheus scrapes the exporter, evaluates the rules and knows its Alertmanager."""
    until(lambda: stack.value("sum(css_relay_tasks{state='active'})") > 10, "a fleet on air", 90)
    assert stack.value("up") == 1
    until(lambda: stack.value("count(fleet:css_relay_tasks:max)") > 0, "recorded series", 60)
    groups = stack.ask("http://prometheus:9090/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    alertmanagers = stack.ask("http://prometheus:9090/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    assert [a["url"] for a in alertmanagers] == ["http://alertmanager:9093/api/v2/alerts"]
    assert stack.ask("http://alertmanager:9093/api/v2/status")["cluster"]["status"] in ("disabled", "ready")
