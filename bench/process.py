"""A server of this project under measurement, on free ports, which its log names."""

import http.client
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.program import START_SECONDS, Program

EXPORTER = ("exporter", "serve")
BARE = ("bench.bare",)
PLAIN = ("bench.plain",)


class Process(Program):
    """A server of this project.

    Args:
        words: the module and its command.
        folder: where its log is, and its store if no other is given.
        flags: flags of `serve`.
        store: what `--store.url` is to be.
        cores: those it may run on, all if none are given.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        flags: Sequence[str] = (),
        *,
        store: str = "",
        cores: Sequence[int] = (),
    ) -> None:
        command = [
            *(sys.executable, "-m", *words),
            "--callback.listen-address=127.0.0.1:0",
            "--web.listen-address=127.0.0.1:0",
            "--store.url=" + (store or f"sqlite:{folder / 'store.db'}"),
            *flags,
        ]
        variables = {}
        if words == PLAIN:
            counts = folder / "counts"  # all files in it are taken for counts
            counts.mkdir()
            variables["PROMETHEUS_MULTIPROC_DIR"] = str(counts)
        super().__init__(command, folder, cores=cores, variables=variables)
        self._ports: dict[str, int] = {}

    @property
    def callbacks_url(self) -> str:
        """Where it takes callbacks."""
        return f"http://127.0.0.1:{self._ports['callbacks']}/callbacks"

    def connect(self, listener: str) -> http.client.HTTPConnection:
        """Return a connection to its listener `callbacks` or `web`."""
        return http.client.HTTPConnection("127.0.0.1", self._ports[listener], timeout=START_SECONDS)

    def numbers(self) -> dict[str, float]:
        """Return a scrape: the value of each series by its name and labels as they are written."""
        return scraped(self.connect("web"))

    def workers(self) -> list[int]:
        """Its workers: the master does none of the work."""
        master = self._running().pid
        return [int(n) for n in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def is_ready(self) -> bool:
        """Whether both listeners are there, and a worker: they take connections before there is one."""
        found = re.findall(r"listener=(\w+) address=\S+:(\d+)", self.log.read_text())
        self._ports = {name: int(port) for name, port in found}
        if len(self._ports) < 2:
            return False
        connection = self.connect("web")
        connection.request("GET", "/-/healthy")
        connection.getresponse()
        connection.close()
        return True


def scraped(connection: http.client.HTTPConnection) -> dict[str, float]:
    """Return what `/metrics` says: the value of each series by its name and labels as they are written."""
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}
