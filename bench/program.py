"""A program under measurement: a real process, from its start to its end."""

import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[1]
#: Only a hang takes as long.
START_SECONDS = STOP_SECONDS = 600.0
POLL_SECONDS = 0.01
#: Below what the kernel gives to connections, of which a crowd takes many.
PORTS = range(11_000, 12_000)
_unused_ports = iter(random.sample(PORTS, len(PORTS)))


class Program:
    """A program, from entering to leaving the context.

    Args:
        command: what it is started with.
        folder: where its log is.
        cores: those it may run on, all if none are given.
        variables: of its environment, beside those of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        cores: Sequence[int] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.log = folder / f"{type(self).__name__.lower()}.log"
        self._command = [*pinned(cores), *command]
        self._variables = variables or {}
        self._process: subprocess.Popen[bytes] | None = None
        #: From the start of the process to its first answer.
        self.start_seconds = 0.0

    def is_ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        environment = {name: v for name, v in os.environ.items() if not name.startswith("CSS_RELAY_")}
        begun = time.perf_counter()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=environment | dict(self._variables),
                stdout=log,
                stderr=log,
                start_new_session=True,
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

    def busy_seconds(self) -> float:
        """Return the processor time that those of its processes have used that do its work."""
        return sum(_busy_seconds(number) for number in self.workers())

    def held_mib(self, *, peak: bool = False) -> float:
        """Return the memory that they hold, or the most that each ever held, MiB."""
        return sum(_held_mib(number, "VmHWM" if peak else "VmRSS") for number in self.workers())

    def workers(self) -> list[int]:
        """Return the numbers of the processes that do its work."""
        return [self._running().pid]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("it has not been started")
        return self._process

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self._running().poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it does not start:\n{self.log.read_text()}")
            time.sleep(POLL_SECONDS)

    def _kill(self) -> None:
        process = self._running()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)


def pinned(cores: Sequence[int]) -> list[str]:
    """Return what is to stand before a command so that it runs on these cores alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []


def free_port() -> int:
    """Return a port that nobody listens on now, and that no connection is given by chance."""
    for port in _unused_ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def _busy_seconds(number: int) -> float:
    user, system = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _held_mib(number: int, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{number}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("the process is gone")
    return int(found[1]) / 1024
