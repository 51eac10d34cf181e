"""The stack to try: every part of it is there, and all but Grafana run together as the compose file says."""

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
RUNNABLE = ("exporter", "simulator", "prometheus", "alertmanager")  # of Grafana no package is to be had here

# Asks each URL until what is to be true of its answer is, then prints all answers. It runs within the stack:
# nobody outside reaches its ports.
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


def test_everything_that_is_mounted_is_there() -> None:
    """A path of this repository, or a volume that the file declares."""
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


def test_images_have_versions_and_ports_are_of_this_machine_alone() -> None:
    """It is the same stack tomorrow, and nobody else's."""
    for name, service in services().items():
        assert "build" in service or name == "simulator" or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert services()["simulator"]["image"] == services()["exporter"]["image"]


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
    """The stack, with one network namespace for all: a sandbox may have no bridges.

    Args:
        image: the id of the exporter's image.
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
        # Ports can't be published without a network; the tag that takes them away is not of YAML's own.
        text = yaml.safe_dump({"services": override})
        self._override.write_text(
            re.sub(r"^(  (?!simulator)\w+:)$", r"\1\n    ports: !reset []", text, flags=re.M)
        )

    def compose(self, *words: str) -> None:
        """Run a command of podman-compose."""
        files = ("-f", str(COMPOSE), "-f", str(self._override), "-p", self._name, "--in-pod=false")
        run("compose", *files, *words)

    def end(self) -> None:
        """Remove it, with the volume that the image asks for where the compose file gives it none."""
        mounts = ("inspect", "--format={{range .Mounts}}{{.Name}} {{end}}", f"{self._name}_simulator_1")
        nameless = run("podman", *mounts, check=False).stdout.decode().split()
        self.compose("down", "-v", "-t", "1")
        run("podman", "volume", "rm", "--force", *nameless, check=False)

    def ask(self, urls: dict[str, str]) -> dict[str, Any]:
        """Return what services answer, as JSON, once what is to be true of each answer is."""
        command = ("exec", f"{self._name}_exporter_1", "python", "-c", ASK, json.dumps(urls))
        return dict(json.loads(podman(*command)))


@pytest.fixture
def stack(image: str, tmp_path: Path) -> Iterator[Stack]:
    """The running stack, without Grafana."""
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
    told = stack.ask(
        {
            f"{PROMETHEUS}/query?query=sum(css_relay_tasks{{state='active'}})": f"{VALUE} > 10",
            f"{PROMETHEUS}/query?query=up": f"{VALUE} == 1",
            f"{PROMETHEUS}/query?query=count(fleet:css_relay_tasks:max)": f"{VALUE} > 0",
            f"{PROMETHEUS}/rules": "found['data']['groups']",
            f"{PROMETHEUS}/alertmanagers": "found['data']['activeAlertmanagers']",
            f"{ALERTMANAGER}/status": "found['cluster']",
        }
    )
    groups = told[f"{PROMETHEUS}/rules"]["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    alertmanagers = told[f"{PROMETHEUS}/alertmanagers"]["data"]["activeAlertmanagers"]
    assert [a["url"] for a in alertmanagers] == ["http://alertmanager:9093/api/v2/alerts"]
    assert told[f"{ALERTMANAGER}/status"]["cluster"]["status"] in ("disabled", "ready")
