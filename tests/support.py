"""A real exporter process for tests: it listens on free ports, which are read from its log."""

import http.client
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.clock import Clock

T = TypeVar("T")
SAMPLES = Path(__file__).parent / "samples"
#: A limit that only a hang exceeds. No test has a shorter deadline, so that a slow machine fails no test.
HANG_SECONDS = 600.0

#: Returns the store URL for the folder of an exporter; None: an SQLite file in the folder.
store_of: Callable[[Path], str] | None = None

Answer = tuple[int, dict[str, str], bytes]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def sample(name: str) -> bytes:
    """Return a sample callback to the byte, such as `documented/task_start`."""
    return (SAMPLES / f"{name}.json").read_bytes()


def until(condition: Callable[[], T | None], what: str) -> T:
    """Poll until `condition` returns a true value, and return it.

    Args:
        what: a description of the condition, for the message after HANG_SECONDS.
    """
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not reached within {HANG_SECONDS:g} s: {what}"
        time.sleep(0.02)


def until_read(connection: socket.socket) -> None:
    """Wait until the server (on this machine) has read everything that was sent, or closed the connection."""
    until(lambda: not _unread_bytes(connection), "the server reads what was sent")


def _unread_bytes(connection: socket.socket) -> int:
    """Return the number of bytes that were sent and not read yet, from the kernel's table of connections."""
    try:
        ours, theirs = (_in_table(*end) for end in (connection.getsockname(), connection.getpeername()))
    except OSError:
        return 0
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = {(row[1], row[2]): row[4].split(":") for row in rows}
    sent, _ = queues.get((ours, theirs), ("0", "0"))
    _, received = queues.get((theirs, ours), ("0", "0"))
    return int(sent, 16) + int(received, 16)


def _in_table(host: str, port: int) -> str:
    """Return an address in the format of the kernel's table."""
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def store_url(folder: Path) -> str:
    """Return the URL of the default store of an exporter in a folder."""
    return f"sqlite:{folder / 'data' / 'css-relay.db'}" if store_of is None else store_of(folder)


def environment_of(folder: Path) -> dict[str, str]:
    """Return the environment of an exporter in a folder, and of commands on its store."""
    return {**os.environ, **({} if store_of is None else {"CSS_RELAY_STORE_URL": store_of(folder)})}


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Answer:
    """Send one HTTP request to this machine, over TLS if it is given, and return status, headers and body."""
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=HANG_SECONDS, context=tls)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def parse(text: str) -> Samples:
    """Return every sample of a scrape in the text format, by name and labels."""
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


class Scrape:
    """A scrape; for example `scrape.value("tasks", state="active")` sums the samples with that label."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of css_relay_`name` that have at least those labels."""
        wanted = set(labels.items())
        return sum(v for (n, ls), v in self.samples.items() if n == f"css_relay_{name}" and wanted <= ls)

    def has(self, name: str, **labels: str) -> bool:
        """Return whether there is a sample of css_relay_`name` with at least those labels."""
        wanted = set(labels.items())
        return any(n == f"css_relay_{name}" and wanted <= ls for n, ls in self.samples)


class Exporter:
    """A running `css-relay-exporter serve`.

    Args:
        folder: its current directory, with its store by default.
        environment: environment variables, in addition to those of this process.
        clock: a clock that the test can move; by default the machine's.
        preexec: a function to call in the new process before the exporter starts.
        flags: flags by name, with `_` for `-` and `__` for `.`.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        preexec: Callable[[], None] | None = None,
        **flags: str,
    ) -> None:
        self.folder = folder
        self.preexec = preexec
        self.log_path = folder / "exporter.log"
        given = {"callback__listen_address": "127.0.0.1:0", "web__listen_address": "127.0.0.1:0", **flags}
        self.arguments = [f"--{k.replace('__', '.').replace('_', '-')}={v}" for k, v in given.items()]
        self.environment = {
            **environment_of(folder),
            **(clock.environment if clock else {}),
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        #: The TLS contexts of clients, by listener.
        self.tls: dict[str, ssl.SSLContext] = {}
        self.ports: dict[str, int] = {}

    def start(self) -> "Exporter":
        """Start it and wait until it answers."""
        offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "exporter", "serve", *self.arguments],
                cwd=self.folder,
                env=self.environment,
                stderr=log,
                stdout=log,
                start_new_session=True,
                preexec_fn=self.preexec,
            )

        def listening() -> bool:
            assert self.process is not None
            text = self.log_path.read_bytes()[offset:].decode()
            assert self.process.poll() is None, text
            found = re.findall(r'listener"?[=:] ?"?(\w+)"?,? "?address"?[=:] ?"?\S+:(\d+)', text)
            if len(found) == 2:
                self.ports = {name: int(port) for name, port in found}
            return len(found) == 2 and self._answers()

        until(listening, "the exporter answers")
        return self

    def _answers(self) -> bool:
        try:
            return self.get("/-/healthy")[0] in (200, 401)
        except OSError:
            return False

    @property
    def log(self) -> str:
        """Everything it has logged."""
        return self.log_path.read_text()

    @property
    def worker(self) -> int:
        """The process id of its worker."""
        return until(self.workers, "a worker")[0]

    def workers(self) -> list[int]:
        """Return the process ids of its workers: one, or none if the worker has just ended."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in children.read_text().split()]

    def post(self, body: bytes, path: str = "/callbacks", **headers: str) -> Answer:
        """Send a callback."""
        return request(self.ports["callbacks"], "POST", path, body, tls=self.tls.get("callbacks"), **headers)

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET request to the web listener."""
        return request(self.ports["web"], "GET", path, tls=self.tls.get("web"), **headers)

    def is_ready(self) -> bool:
        """Return whether it answers and is ready."""
        try:
            return self.get("/-/ready")[0] == 200
        except OSError:
            return False

    def until_ready(self) -> None:
        """Wait until it is ready; on a machine that stalls, its check of the store can time out."""
        until(lambda: self.get("/-/ready")[0] == 200, "it is ready")

    def scrape(self) -> Scrape:
        """Return a scrape in the text format."""
        status, _, body = self.get("/metrics")
        assert status == 200
        return Scrape(parse(body.decode()))

    def raw(self, *parts: bytes) -> bytes:
        """Send raw bytes to the callback listener, each part after the part before has been read.

        Return everything that is received until the connection is closed; the last request must ask for that.
        """
        address = "127.0.0.1", self.ports["callbacks"]
        with socket.create_connection(address, timeout=HANG_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number, part in enumerate(parts):
                if number:
                    until_read(connection)
                connection.sendall(part)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def stop(self, sign: int = signal.SIGTERM) -> int:
        """Send a signal to the master and return its exit status."""
        assert self.process is not None
        self.process.send_signal(sign)
        return self.process.wait(HANG_SECONDS)

    def kill(self) -> None:
        """Kill all its processes, as a power cut would, and wait until they hold no file and no port."""
        if self.process is not None and self.process.poll() is None:
            workers = self.workers()
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(HANG_SECONDS)
            until(lambda: not any(map(is_running, workers)), "its workers are gone")


def is_running(process: int) -> bool:
    """Return whether a process exists and is not a zombie.

    It checks each thread: until the last thread has ended, the process holds files and locks.
    """
    try:
        threads = [(thread / "stat").read_text() for thread in Path(f"/proc/{process}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):  # a thread or the process ended during the check
        return Path(f"/proc/{process}").exists() and is_running(process)
    return any(thread.rpartition(")")[2].split()[0] not in ("Z", "X") for thread in threads)


@contextmanager
def running(
    folder: Path,
    tls: Mapping[str, ssl.SSLContext] | None = None,
    clock: Clock | None = None,
    environment: Mapping[str, str] | None = None,
    **flags: str,
) -> Iterator[Exporter]:
    """Yield a running exporter and kill it afterwards; `tls` has the TLS contexts of clients, by listener."""
    exporter = Exporter(folder, clock=clock, environment=environment, **flags)
    exporter.tls.update(tls or {})
    try:
        yield exporter.start()
    finally:
        exporter.kill()


def tool(name: str) -> str:
    """Return the path of a program that a test needs; without it the test is skipped, in CI it fails."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed; `make test` installs it if it has the right to"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


#: Below the kernel's range for outgoing connections: no connection can use the port of a server that is down
#: for a while. A node of a cluster also listens on its port plus 10,000.
PORTS, BUS = range(12_000, 22_000), 10_000
#: Claims of this process on ports, until it ends: other test processes do not use these ports.
_claims: list[socket.socket] = []


def free_port() -> int:
    """Return a port that no other test uses or gets, also while nothing listens on it."""
    for port in random.sample(PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0css-relay-exporter-test-{port}")
            for each in (port, port + BUS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            claim.close()
        else:
            _claims.append(claim)
            return port
    raise OSError("no port is free")
