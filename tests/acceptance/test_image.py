"""The container image, built from the Dockerfile and run with minimal privileges."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests import images
from tests.images import SCRIPT, podman, run
from tests.support import HANG_SECONDS, SAMPLES, Scrape, parse, until

USER = 65532

# The programs below run inside the container, because its ports are not reachable from outside.
ASK = """
import sys
from http.client import HTTPConnection

port, path = sys.argv[1:]
body = sys.stdin.buffer.read()
connection = HTTPConnection("127.0.0.1", int(port), timeout=600)
connection.request("POST" if body else "GET", path, body or None)
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""

# Ends when the server answers.
WAIT = """
import time
from http.client import HTTPConnection

while True:
    try:
        connection = HTTPConnection("127.0.0.1", 10314, timeout=600)
        connection.request("GET", "/-/healthy")
        if connection.getresponse().status == 200:
            break
    except OSError:
        time.sleep(0.05)
"""

# Sends a callback in two halves, the second one when the server no longer accepts connections. The first
# half has a time limit, and the time of the stop is unknown. So the program sends a new first half every 2 s.
# It closes the older connection when the server has read the new half and still accepts connections.
SPLIT = """
import socket, sys, time

def unread():
    rows = [line.split() for line in open("/proc/net/tcp").read().splitlines()[1:]]
    return any(row[4] != "00000000:00000000" for row in rows if row[1].endswith(":207A") and row[3] == "01")

body = bytes.fromhex(sys.argv[1])
head = f"POST /callbacks HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"

def connected():
    return socket.create_connection(("127.0.0.1", 8314), timeout=600)

def half():
    connection = connected()
    connection.sendall(b"GET /callbacks HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 405")
    connection.sendall(head.encode() + body[:20])
    while unread():
        time.sleep(0.02)
    return connection

begun, connection, newer = time.monotonic(), half(), None
print("half", flush=True)
while True:
    try:
        connected().close()
        if newer:
            connection.close()
            connection, newer = newer, None
        if time.monotonic() - begun > 2:
            begun, newer = time.monotonic(), half()
    except ConnectionRefusedError:
        break
    except (OSError, AssertionError):
        pass  # the server stops at this moment
    time.sleep(0.02)
connection.sendall(body[20:])
connection.recv(4096)
"""

# Prints the privileges of the main process, as the kernel reports them.
PRIVILEGES = """
import errno, json, os

status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines())
refused = {}
for folder in ("/", "/opt/venv", "/etc", "/tmp", "/data"):
    try:
        with open(os.path.join(folder, "probe"), "w"):
            os.unlink(os.path.join(folder, "probe"))
    except OSError as exc:
        refused[folder] = errno.errorcode[exc.errno]
print(json.dumps({
    "uids": [int(n) for n in status["Uid"].split()],
    "gids": [int(n) for n in status["Gid"].split() + status["Groups"].split()],
    "capabilities": {name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")},
    "root": next(line.split()[3] for line in open("/proc/1/mounts") if line.split()[1] == "/"),
    "command": open("/proc/1/cmdline").read().split("\\0")[1:-1],
    "data": [os.stat("/data").st_uid, os.stat("/data").st_gid],
    "shells": [p for p in ("/bin/sh", "/bin/bash", "/bin/dash") if os.access(p, os.X_OK)],
    "refused": refused,
}))
"""

# Prints files left in the image. Outdated bytecode would be compiled at each start: the root is read-only.
LEFTOVERS = """
import json, os, subprocess, sys
from importlib.metadata import distributions

told = subprocess.run([sys.executable, "-v", "-c", "import exporter.cli"], capture_output=True, text=True)
code = [line for line in told.stderr.splitlines() if line.startswith("# code object from '/opt/venv/")]
print(json.dumps({
    "opt": os.listdir("/opt"),
    "files": [path for path in ("/src", "/dist", "/etc/pip.conf") if os.path.exists(path)],
    "installed": [d.name for d in distributions(path=["/opt/venv/lib/python3.11/site-packages"])],
    "loaded": len(code),
    "compiled again": [line for line in code if not line.endswith(".pyc'")],
}))
"""

image = images.image


class Container:
    """A container of the image with minimal privileges.

    Args:
        image: the image.
        no_shell: a file that is not executable, mounted over the shells.
    """

    def __init__(self, image: str, no_shell: Path) -> None:
        self.name = f"css-relay-exporter-{uuid4().hex[:12]}"
        self.options = (
            *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--network=none"),
            *("--security-opt=no-new-privileges", f"--volume={self.name}:/data"),
            *(f"--volume={no_shell}:/usr/bin/{shell}:ro" for shell in ("dash", "bash")),
        )
        self.image = image

    def create(self) -> None:
        """Run the container."""
        podman("run", "--detach", f"--name={self.name}", *self.options, self.image)
        self.wait()

    def wait(self) -> None:
        """Wait until the server answers and the health check passes."""
        try:
            self.python(WAIT)
            until(self.is_healthy, "the health check passes")
        except (AssertionError, subprocess.TimeoutExpired):
            print(run("podman", "logs", self.name, check=False))
            raise

    def is_healthy(self) -> bool:
        """Return whether the health check of the image passes."""
        return run("podman", "healthcheck", "run", self.name, check=False).returncode == 0

    def python(self, program: str, *arguments: str, stdin: bytes = b"") -> str:
        """Run a Python program in the container, as its user; return the output."""
        return podman(
            "exec", "--interactive", self.name, "python", "-I", "-c", program, *arguments, stdin=stdin
        )

    def ask(self, port: int, path: str, body: bytes = b"") -> tuple[int, str]:
        """Send a request from inside the container; return status and body."""
        status, _, text = self.python(ASK, str(port), path, stdin=body).partition(" ")
        return int(status), text

    def scrape(self) -> Scrape:
        """Return a scrape in the text format."""
        status, text = self.ask(10314, "/metrics")
        assert status == 200
        return Scrape(parse(text))

    def state(self) -> str:
        """Return the state of the container and its exit status."""
        return podman("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", self.name).strip()

    def remove(self) -> None:
        """Remove the container and its volume."""
        run("podman", "rm", "--force", self.name, check=False)
        run("podman", "volume", "rm", "--force", self.name, check=False)


@pytest.fixture(scope="module")
def settings(image: str) -> dict[str, Any]:
    """Return the configuration of the image."""
    (told,) = json.loads(podman("inspect", "--type=image", image))
    return dict(told)


@pytest.fixture(scope="module")
def container(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Yield a running container without usable shells."""
    no_shell = tmp_path_factory.mktemp("image") / "no-shell"
    no_shell.touch(mode=0o644)
    made = Container(image, no_shell)
    try:
        made.create()
        yield made
    finally:
        made.remove()


def test_the_server_runs_as_the_first_process_without_root_capabilities_shell_or_a_writable_root(
    container: Container,
) -> None:
    """Only /data is writable, and belongs to the user of the process."""
    rights = json.loads(container.python(PRIVILEGES))
    assert rights["command"] == ["/opt/venv/bin/css-relay-exporter", "serve"]
    assert set(rights["uids"]) == set(rights["gids"]) == {USER}
    assert set(rights["capabilities"].values()) == {0}
    assert "ro" in rights["root"].split(",")
    assert rights["shells"] == []
    assert rights["refused"] == dict.fromkeys(("/", "/opt/venv", "/etc", "/tmp"), "EROFS")
    assert rights["data"] == [USER, USER]


def test_the_image_states_its_version_and_settings(settings: dict[str, Any], container: Container) -> None:
    """In the labels of the image, at the command line, and in the metrics."""
    config = settings["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"] == ["css-relay-exporter"]
    assert config["Cmd"] == ["serve"]
    assert set(config["ExposedPorts"]) == {"8314/tcp", "10314/tcp"}
    assert set(config["Volumes"]) == {"/data"}
    # In exec form: with a shell the first word would be CMD-SHELL.
    assert settings["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    revision = config["Labels"]["org.opencontainers.image.revision"]
    assert f"(revision {revision}, Python 3.11" in podman(
        "exec", container.name, "css-relay-exporter", "version"
    )
    assert container.scrape().has("exporter_build_info", revision=revision)


def test_the_image_contains_no_build_files_and_is_compiled(
    settings: dict[str, Any], container: Container
) -> None:
    """It has no installer, no source, and no package settings of the build machine."""
    left = json.loads(container.python(LEFTOVERS))
    assert left["opt"] == ["venv"]
    assert left["files"] == []
    assert "css-relay-exporter" in left["installed"]
    assert not {"pip", "setuptools", "hatchling", "pytest"} & set(left["installed"])
    assert left["loaded"] > 50
    assert left["compiled again"] == []
    environment = settings["Config"]["Env"]
    assert [entry for entry in environment if entry.lower().startswith(("pip_", "http", "ssl"))] == []


def test_its_health_check_fails_where_nothing_listens(image: str, settings: dict[str, Any]) -> None:
    """Its status 1 means unhealthy."""
    _, program, *arguments = settings["Healthcheck"]["Test"]
    isolated = ("--rm", "--network=none", "--read-only", f"--entrypoint={program}")
    done = run("podman", "run", *isolated, image, *arguments, check=False)
    assert done.returncode == 1
    assert b"Connection refused" in done.stderr


def test_a_stop_finishes_open_requests_and_counters_survive(
    container: Container,
) -> None:
    """After SIGTERM the server answers a callback received in part, and ends with status 0."""
    body = (SAMPLES / "documented" / "task_start.json").read_bytes()
    status, text = container.ask(8314, "/callbacks", body)
    assert (status, json.loads(text)) == (200, {"code": 0})
    assert "active" in podman("exec", container.name, "css-relay-exporter", "tasks", "list")

    body = (SAMPLES / "documented" / "vod_source_file_start.json").read_bytes()
    command = [str(SCRIPT), "podman", "exec", container.name, "python", "-I", "-c", SPLIT, body.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        assert sender.stdout.readline() == b"half\n"
        podman("stop", f"--time={HANG_SECONDS:g}", container.name)
    # The exit status of the sender is not checked, because it is killed with the container.
    assert container.state() == "exited 0"

    podman("start", container.name)
    container.wait()
    scrape = container.scrape()
    for event in ("TaskStart", "VodSourceFileStart"):
        assert scrape.value("callbacks_total", event=event, outcome="applied") == 1, event
    assert container.ask(10314, "/-/ready")[0] == 200
