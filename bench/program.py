"""A program under measurement, as a real process."""

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
#: Limits that only a hang exceeds.
START_SECONDS = STOP_SECONDS = 600.0
POLL_SECONDS = 0.01
#: Below the kernel's range for outgoing connections, because the load generators open many of them.
PORTS = range(11_000, 12_000)
_unused_ports = iter(random.sample(PORTS, len(PORTS)))


class Program:
    """A program that runs while its context is entered.

    Args:
        command: the command line.
        folder: the folder for its log.
        cores: the cores it may run on; empty: all.
        variables: environment variables, in addition to those of this process.
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
        #: The time from the start of the process to its first answer.
        self.start_seconds = 0.0

    def is_ready(self) -> bool:
        """Return whether the program answers."""
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

    def cpu_seconds(self) -> float:
        """Return the processor time of its workers."""
        return sum(_cpu_seconds(number) for number in self.workers())

    def memory_mib(self, *, peak: bool = False) -> float:
        """Return the memory of its workers in MiB, now or at their peak."""
        return sum(_memory_mib(number, "VmHWM" if peak else "VmRSS") for number in self.workers())

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        return [self._running().pid]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the program has not been started")
        return self._process

    def _await(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self._running().poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the program does not start; its log:\n{self.log.read_text()}")
            time.sleep(POLL_SECONDS)

    def _kill(self) -> None:
        process = self._running()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)


def pinned(cores: Sequence[int]) -> list[str]:
    """Return the prefix of a command that pins it to these cores; empty without cores."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []


def free_port() -> int:
    """Return a port without a listener that the kernel does not give to an outgoing connection.

    Raises:
        RuntimeError: no port of the range is free.
    """
    for port in _unused_ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def _cpu_seconds(number: int) -> float:
    user, system = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _memory_mib(number: int, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{number}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("the process has ended")
    return int(found[1]) / 1024
