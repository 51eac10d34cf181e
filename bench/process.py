"""A server under measurement: a real process on free ports, which its log names."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[1]
START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.01

EXPORTER = ("exporter", "serve")
BARE = ("bench.bare",)


class Process:
    """A server of this project, from entering to leaving the context.

    Args:
        words: the module and its command.
        folder: where its store and its log are.
        flags: flags of `serve`.
    """

    def __init__(self, words: Sequence[str], folder: Path, flags: Sequence[str] = ()) -> None:
        self._log = folder / f"{words[0]}.log"
        self._command = [
            *(sys.executable, "-m", *words),
            "--callback.listen-address=127.0.0.1:0",
            "--web.listen-address=127.0.0.1:0",
            f"--store.url=sqlite:{folder / 'store.db'}",
            *flags,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        #: From the start of the process to its first answer.
        self.start_seconds = 0.0

    def __enter__(self) -> Self:
        environment = {name: v for name, v in os.environ.items() if not name.startswith("CSS_RELAY_")}
        begun = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._await()
        except BaseException:
            self._kill()
            raise
        self.start_seconds = time.perf_counter() - begun
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()

    @property
    def callbacks_url(self) -> str:
        """Where it takes callbacks."""
        return f"http://127.0.0.1:{self._ports['callbacks']}/callbacks"

    def connect(self, listener: str) -> http.client.HTTPConnection:
        """Return a connection to its listener `callbacks` or `web`."""
        return http.client.HTTPConnection("127.0.0.1", self._ports[listener], timeout=60)

    def numbers(self) -> dict[str, float]:
        """Return a scrape: the value of each series by its name and labels as they are written."""
        connection = self.connect("web")
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def worker_mib(self, *, peak: bool = False) -> float:
        """Return the memory that its worker holds, or the most that it ever held, MiB."""
        name = "VmHWM" if peak else "VmRSS"
        found = re.search(rf"^{name}:\s+(\d+) kB$", self._worker("status"), re.MULTILINE)
        if found is None:
            raise RuntimeError("the worker is gone")
        return int(found[1]) / 1024

    def worker_seconds(self) -> float:
        """Return the processor time that its worker has used."""
        user, system = self._worker("stat").rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _worker(self, name: str) -> str:
        """Return what /proc tells of its worker."""
        master = self._running().pid
        worker = Path(f"/proc/{master}/task/{master}/children").read_text().split()[0]
        return Path(f"/proc/{worker}/{name}").read_text()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("it has not been started")
        return self._process

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._running().poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it does not start:\n{self._log.read_text()}")
            time.sleep(POLL_SECONDS)

    def _listens(self) -> bool:
        found = re.findall(r"listener=(\w+) address=\S+:(\d+)", self._log.read_text())
        self._ports = {name: int(port) for name, port in found}
        if len(self._ports) < 2:
            return False
        # A listener takes connections before there is a worker: any answer shows that there is one.
        connection = self.connect("web")
        connection.request("GET", "/-/healthy")
        connection.getresponse()
        connection.close()
        return True

    def _kill(self) -> None:
        process = self._running()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
