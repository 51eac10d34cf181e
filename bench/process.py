"""A server of this project under measurement. It listens on free ports, which are read from its log."""

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
        module: the module and its command.
        folder: the folder for its log, and for its store if `store` is empty.
        flags: flags of `serve`.
        store: the value for `--store.url`.
        cores: the cores it may run on; empty: all.
    """

    def __init__(
        self,
        module: Sequence[str],
        folder: Path,
        flags: Sequence[str] = (),
        *,
        store: str = "",
        cores: Sequence[int] = (),
    ) -> None:
        command = [
            *(sys.executable, "-m", *module),
            "--callback.listen-address=127.0.0.1:0",
            "--web.listen-address=127.0.0.1:0",
            "--store.url=" + (store or f"sqlite:{folder / 'store.db'}"),
            *flags,
        ]
        variables = {}
        if module == PLAIN:
            counts = folder / "counts"  # an own folder: prometheus_client reads all files in it
            counts.mkdir()
            variables["PROMETHEUS_MULTIPROC_DIR"] = str(counts)
        super().__init__(command, folder, cores=cores, variables=variables)
        self._ports: dict[str, int] = {}

    @property
    def callbacks_url(self) -> str:
        """The URL for callbacks."""
        return f"http://127.0.0.1:{self._ports['callbacks']}/callbacks"

    def connect(self, listener: str) -> http.client.HTTPConnection:
        """Return a connection to the listener `callbacks` or `web`."""
        return http.client.HTTPConnection("127.0.0.1", self._ports[listener], timeout=START_SECONDS)

    def samples(self) -> dict[str, float]:
        """Return the samples of a scrape, by their name and labels in text format."""
        return scrape_samples(self.connect("web"))

    def workers(self) -> list[int]:
        """Return the process ids of the workers; the master does none of the work."""
        master = self._running().pid
        return [int(n) for n in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def is_ready(self) -> bool:
        """Return whether both listeners are in the log and a worker answers."""
        # The master opens the listeners before a worker runs: only an answer shows that there is a worker.
        found = re.findall(r"listener=(\w+) address=\S+:(\d+)", self.log.read_text())
        self._ports = {name: int(port) for name, port in found}
        if len(self._ports) < 2:
            return False
        connection = self.connect("web")
        connection.request("GET", "/-/healthy")
        connection.getresponse()
        connection.close()
        return True


def scrape_samples(connection: http.client.HTTPConnection) -> dict[str, float]:
    """Return the samples of `/metrics`, by their name and labels in text format."""
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}
