"""The container image: built from the Dockerfile as it is, run with as few rights as an engine can give."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support import SAMPLES, Scrape, parse, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "image"
USER = 65532
BUILD_SECONDS = 230  # the base image included, which is made once
PODMAN_SECONDS = 60

# These run inside the container, which has a network of its own: nothing outside reaches its ports.
ASK = """
import sys
from http.client import HTTPConnection

port, path = sys.argv[1:]
body = sys.stdin.buffer.read()
connection = HTTPConnection("127.0.0.1", int(port), timeout=10)
connection.request("POST" if body else "GET", path, body or None)
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""

# Sends a callback in two halves, the second one when it is told to.
HALVES = """
import socket, sys

body = bytes.fromhex(sys.stdin.readline())
head = f"POST /callbacks HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
connection = socket.create_connection(("127.0.0.1", 8314), timeout=30)
connection.sendall(head.encode() + body[:20])
print("half", flush=True)
sys.stdin.readline()
connection.sendall(body[20:])
connection.recv(4096)
"""

# What the main process may do, told by the kernel rather than by the image's settings.
RIGHTS = """
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

# Bytecode that doesn't fit its source would be compiled again at each start: nothing can be written.
COMPILED = """
import json, subprocess, sys

told = subprocess.run([sys.executable, "-v", "-c", "import exporter.server"], capture_output=True, text=True)
code = [line for line in told.stderr.splitlines() if line.startswith("# code object from '/opt/venv/")]
print(json.dumps([len(code), [line for line in code if not line.endswith(".pyc'")]]))
"""

LEFT = """
import json, os
from importlib.metadata import distributions

print(json.dumps({
    "opt": os.listdir("/opt"),
    "files": [path for path in ("/src", "/dist", "/etc/pip.conf") if os.path.exists(path)],
    "installed": [d.name for d in distributions(path=["/opt/venv/lib/python3.11/site-packages"])],
}))
"""


def run(
    *words: str, stdin: bytes = b"", seconds: float = PODMAN_SECONDS, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run .ci/image; show what it said where it failed."""
    done = subprocess.run([SCRIPT, *words], capture_output=True, input=stdin, timeout=seconds)
    assert not check or done.returncode == 0, (words, done.stdout.decode(), done.stderr.decode())
    return done


def podman(*words: str, stdin: bytes = b"") -> str:
    """Run podman and return what it printed."""
    return run("podman", *words, stdin=stdin).stdout.decode()


class Container:
    """A container of the image, locked down.

    Args:
        no_shell: a file that can't be run, to stand where the shells are.
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
        """Run it."""
        podman("run", "--detach", f"--name={self.name}", *self.options, self.image)
        self.wait()

    def wait(self) -> None:
        """Wait until its own health check passes."""
        try:
            until(self.answers, "the health check passes")
        except AssertionError:
            print(run("podman", "logs", self.name, check=False))
            raise

    def answers(self) -> bool:
        """Whether its own health check passes."""
        return run("podman", "healthcheck", "run", self.name, check=False).returncode == 0

    def python(self, program: str, *arguments: str, stdin: bytes = b"") -> str:
        """Run a program inside, as its user."""
        return podman(
            "exec", "--interactive", self.name, "python", "-I", "-c", program, *arguments, stdin=stdin
        )

    def ask(self, port: int, path: str, body: bytes = b"") -> tuple[int, str]:
        """Send a request from inside; return status and body."""
        status, _, text = self.python(ASK, str(port), path, stdin=body).partition(" ")
        return int(status), text

    def scrape(self) -> Scrape:
        """Return a scrape in the text format."""
        status, text = self.ask(10314, "/metrics")
        assert status == 200
        return Scrape(parse(text))

    def state(self) -> str:
        """Return whether it runs, and with which status it ended."""
        return podman("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", self.name).strip()

    def remove(self) -> None:
        """Remove it and its volume."""
        run("podman", "rm", "--force", self.name, check=False)
        run("podman", "volume", "rm", "--force", self.name, check=False)


@pytest.fixture(scope="module")
def image() -> str:
    """The id of the image, built anew where something changed."""
    lacks = run("missing", check=False)
    if lacks.returncode:
        reason = f"THE IMAGE IS NOT TESTED, {lacks.stdout.decode().strip()}: `.ci/image setup` installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return run("build", seconds=BUILD_SECONDS).stdout.decode().strip()


@pytest.fixture(scope="module")
def container(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A running container whose shells are files that can't be run."""
    no_shell = tmp_path_factory.mktemp("image") / "no-shell"
    no_shell.touch(mode=0o644)
    made = Container(image, no_shell)
    try:
        made.create()
        yield made
    finally:
        made.remove()


def test_it_runs_without_root_capabilities_shell_or_a_writable_root(container: Container) -> None:
    rights = json.loads(container.python(RIGHTS))
    assert set(rights["uids"]) == set(rights["gids"]) == {USER}
    assert set(rights["capabilities"].values()) == {0}
    assert "ro" in rights["root"].split(",")
    assert rights["shells"] == []
    # /data alone takes a file, and belongs to that user.
    assert rights["refused"] == dict.fromkeys(("/", "/opt/venv", "/etc", "/tmp"), "EROFS")
    assert rights["data"] == [USER, USER]


def test_the_first_process_is_the_server_itself(container: Container) -> None:
    assert json.loads(container.python(RIGHTS))["command"] == ["/opt/venv/bin/css-relay-exporter", "serve"]


def test_everything_installed_is_compiled(container: Container) -> None:
    count, compiled_again = json.loads(container.python(COMPILED))
    assert count > 50
    assert compiled_again == []


def test_it_says_what_it_is(image: str, container: Container) -> None:
    (told,) = json.loads(podman("inspect", "--type=image", image))
    settings = told["Config"]
    assert settings["User"] == f"{USER}:{USER}"
    assert settings["Entrypoint"] == ["css-relay-exporter"]
    assert settings["Cmd"] == ["serve"]
    assert set(settings["ExposedPorts"]) == {"8314/tcp", "10314/tcp"}
    assert set(settings["Volumes"]) == {"/data"}
    # In exec form: with a shell the first word would be CMD-SHELL.
    assert told["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    revision = settings["Labels"]["org.opencontainers.image.revision"]
    assert f"(revision {revision}, Python 3.11" in podman(
        "exec", container.name, "css-relay-exporter", "version"
    )
    assert container.scrape().has("exporter_build_info", revision=revision)


def test_nothing_of_the_build_is_left_in_it(image: str, container: Container) -> None:
    left = json.loads(container.python(LEFT))
    assert left["opt"] == ["venv"]
    assert left["files"] == []
    assert "css-relay-exporter" in left["installed"]
    assert not {"pip", "setuptools", "hatchling", "pytest"} & set(left["installed"])
    # Where the building machine finds packages is nobody else's business.
    environment = json.loads(podman("inspect", "--type=image", "--format={{json .Config.Env}}", image))
    assert [entry for entry in environment if entry.lower().startswith(("pip_", "http", "ssl"))] == []


def test_its_health_check_fails_where_nothing_listens(image: str) -> None:
    (told,) = json.loads(podman("inspect", "--type=image", image))
    _, program, *arguments = told["Healthcheck"]["Test"]
    isolated = ("--rm", "--network=none", "--read-only", f"--entrypoint={program}")
    done = run("podman", "run", *isolated, image, *arguments, check=False)
    assert done.returncode == 1
    assert b"Connection refused" in done.stderr


def test_a_callback_is_counted_and_outlives_the_container(image: str, container: Container) -> None:
    body = (SAMPLES / "documented" / "task_start.json").read_bytes()
    status, text = container.ask(8314, "/callbacks", body)
    assert (status, json.loads(text)) == (200, {"code": 0})
    assert container.scrape().value("callbacks_total", event="TaskStart", outcome="applied") == 1
    assert "active" in podman("exec", container.name, "css-relay-exporter", "tasks", "list")

    podman("stop", "--time=30", container.name)
    assert container.state() == "exited 0"
    podman("start", container.name)
    container.wait()
    assert container.scrape().value("callbacks_total", event="TaskStart", outcome="applied") == 1
    assert container.ask(10314, "/-/ready")[0] == 200


def test_sigterm_reaches_the_server_which_finishes_what_it_began(container: Container) -> None:
    body = (SAMPLES / "documented" / "vod_source_file_start.json").read_bytes()
    command = [str(SCRIPT), "podman", "exec", "--interactive", container.name, "python", "-I", "-c", HALVES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write(body.hex().encode() + b"\n")
        sender.stdin.flush()
        assert sender.stdout.readline() == b"half\n"
        podman("kill", "--signal=TERM", container.name)
        time.sleep(0.5)
        assert container.state() == "running 0"
        sender.stdin.write(b"\n")
    # The status of the sender tells nothing: it ends with the container.
    until(lambda: container.state() == "exited 0", "it ends with status 0")
    podman("start", container.name)
    container.wait()
    assert container.scrape().value("callbacks_total", event="VodSourceFileStart", outcome="applied") == 1
