"""The compose stack: its files exist, and all services except Grafana run together."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests import images
from tests.images import ROOT, podman, run

COMPOSE = ROOT / "deploy" / "compose.yaml"
RUNNABLE = ("exporter", "simulator", "prometheus", "alertmanager")  # there is no package of Grafana for tests

# Requests each URL until the condition of its answer is true, then prints all answers. It runs inside the
# stack, because its ports are not reachable from outside.
ASK = """
import json, sys, time, urllib.request

answers = {}
for url, condition in json.loads(sys.argv[1]).items():
    while url not in answers:
        try:
            found = json.loads(urllib.request.urlopen(url, timeout=600).read())
            if eval(condition):
                answers[url] = found
                break
        except (OSError, LookupError):
            pass
        time.sleep(0.2)
print(json.dumps(answers))
"""
VALUE = "float(found['data']['result'][0]['value'][1])"

image = images.image


def services() -> dict[str, Any]:
    """Return the services of the compose file."""
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def test_every_mounted_path_exists() -> None:
    """It is a path of this repository, or a volume that the file declares."""
    declared = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for name, service in services().items():
        for volume in service.get("volumes", ()):
            source, target, *mode = volume.split(":")
            assert target.startswith("/"), (name, volume)
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), (name, volume)
                assert mode == ["ro"], (name, volume)
            else:
                assert source in declared, (name, volume)


def test_images_have_versions_and_ports_are_local() -> None:
    """The stack does not change with new releases, and is not reachable from other machines."""
    for name, service in services().items():
        assert "build" in service or name == "simulator" or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert services()["simulator"]["image"] == services()["exporter"]["image"]


def test_grafana_provisioning_names_existing_files() -> None:
    """The data source is the Prometheus of the stack, and the dashboards are in the provisioned folder."""
    folder = ROOT / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "css-relay.yml").read_text())["providers"]
    mounts = dict(v.split(":")[:2] for v in services()["grafana"]["volumes"])
    assert source["url"] == "http://prometheus:9090"
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "grafana" / "dashboards" / Path(home).name).exists()


class Stack:
    """The stack in one network namespace, because a sandbox may have no bridges.

    Args:
        folder: the folder for temporary files.
        image: the id of the image of the exporter.
    """

    def __init__(self, folder: Path, image: str) -> None:
        self._name = f"css-relay-{uuid4().hex[:8]}"
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost " + " ".join(RUNNABLE) + "\n")
        shared = {"volumes": [f"{hosts}:/etc/hosts:ro"], "network_mode": "service:exporter"}
        override = {name: dict(shared) for name in RUNNABLE}
        override["exporter"]["network_mode"] = "none"
        for name in ("exporter", "simulator"):
            override[name]["image"] = image
        self._override = folder / "override.yaml"
        # Ports cannot be published without a network. `!reset` removes them; PyYAML cannot write it.
        text = yaml.safe_dump({"services": override})
        self._override.write_text(
            re.sub(r"^(  (?!simulator)\w+:)$", r"\1\n    ports: !reset []", text, flags=re.M)
        )

    def compose(self, *words: str) -> None:
        """Run a command of podman-compose."""
        files = ("-f", str(COMPOSE), "-f", str(self._override), "-p", self._name, "--in-pod=false")
        run("compose", *files, *words)

    def end(self) -> None:
        """Remove the stack, and the anonymous volume of the simulator, which `down -v` does not remove."""
        mounts = ("inspect", "--format={{range .Mounts}}{{.Name}} {{end}}", f"{self._name}_simulator_1")
        anonymous = run("podman", *mounts, check=False).stdout.decode().split()
        self.compose("down", "-v", "-t", "1")
        run("podman", "volume", "rm", "--force", *anonymous, check=False)

    def ask(self, urls: dict[str, str]) -> dict[str, Any]:
        """Return the JSON answers of services, when the condition of each answer is true."""
        command = ("exec", f"{self._name}_exporter_1", "python", "-c", ASK, json.dumps(urls))
        return dict(json.loads(podman(*command)))


@pytest.fixture
def stack(image: str, tmp_path: Path) -> Iterator[Stack]:
    """Yield the running stack, without Grafana."""
    run("peers")
    stack = Stack(tmp_path, image.rpartition(":")[2])
    try:
        stack.compose("up", "--no-build", "-d", *RUNNABLE)
        yield stack
    finally:
        stack.end()


PROMETHEUS, ALERTMANAGER = "http://prometheus:9090/api/v1", "http://alertmanager:9093/api/v2"


def test_the_stack_runs_and_shows_the_simulated_fleet(stack: Stack) -> None:
    """Prometheus scrapes the exporter, evaluates the rules and knows its Alertmanager."""
    found = stack.ask(
        {
            f"{PROMETHEUS}/query?query=sum(css_relay_tasks{{state='active'}})": f"{VALUE} > 10",
            f"{PROMETHEUS}/query?query=up": f"{VALUE} == 1",
            f"{PROMETHEUS}/query?query=count(fleet:css_relay_tasks:max)": f"{VALUE} > 0",
            f"{PROMETHEUS}/rules": "found['data']['groups']",
            f"{PROMETHEUS}/alertmanagers": "found['data']['activeAlertmanagers']",
            f"{ALERTMANAGER}/status": "found['cluster']",
        }
    )
    groups = found[f"{PROMETHEUS}/rules"]["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    alertmanagers = found[f"{PROMETHEUS}/alertmanagers"]["data"]["activeAlertmanagers"]
    assert [a["url"] for a in alertmanagers] == ["http://alertmanager:9093/api/v2/alerts"]
    assert found[f"{ALERTMANAGER}/status"]["cluster"]["status"] in ("disabled", "ready")
