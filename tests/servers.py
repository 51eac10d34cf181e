"""Real Prometheus and Alertmanager servers for tests, each on a free port and stopped with the test."""

import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import HANG_SECONDS, free_port, request, tool, until

ONE_JOB: Mapping[str, Mapping[str, Any]] = {"css-relay": {}}


class Server:
    """A program that serves HTTP on its own port.

    Args:
        name: the name of the program.
        folder: the folder for its files.
    """

    ready = "/-/ready"

    def __init__(self, name: str, folder: Path) -> None:
        self.program = tool(name)
        self.folder = folder / name
        self.folder.mkdir()
        self.port = free_port()
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def arguments(self) -> list[str]:
        """Return its command line arguments."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Start it and wait until it is ready."""
        try:
            until(self._is_started, f"{self.program} is ready")
        except BaseException:
            self.end()
            raise
        return self

    def _is_started(self) -> bool:
        """Start it and return whether it is ready; if its port was in use, choose another port."""
        with self.log.open("wb") as log:
            self.process = process = subprocess.Popen(
                [self.program, *self.arguments()], stdout=log, stderr=log
            )
        until(lambda: self._is_ready() or process.poll() is not None, f"{self.program} is ready")
        if process.poll() is None:
            return True
        assert "address already in use" in self.log.read_text(), self.log.read_text()
        self.port = free_port()
        return False

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.end()

    def end(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(HANG_SECONDS)

    def _is_ready(self) -> bool:
        try:
            return request(self.port, "GET", self.ready)[0] == 200
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """Return the JSON of an answer."""
        query = urllib.parse.urlencode(parameters)
        return json.loads(request(self.port, "GET", f"{path}?{query}")[2])


class Alertmanager(Server):
    """A running Alertmanager.

    Args:
        config: its configuration file.
    """

    def __init__(self, folder: Path, config: Path) -> None:
        super().__init__("prometheus-alertmanager", folder)
        self.config = config

    def arguments(self) -> list[str]:
        """Return its arguments; without a cluster."""
        return [
            f"--config.file={self.config}",
            f"--storage.path={self.folder}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]

    def alerts(self, **parameters: str) -> list[dict[str, Any]]:
        """Return its alerts, by default with the inhibited ones."""
        found: list[dict[str, Any]] = self.get("/api/v2/alerts", **parameters)
        return found


class Prometheus(Server):
    """A running Prometheus that scrapes exporters, and evaluates rules, every second.

    Args:
        targets: the ports of exporters, the replicas of a job.
        rules: a folder with rule files.
        alertmanager: the receiver of alerts.
        jobs: by job name, the fields of its scrape config in addition to the targets.
    """

    def __init__(
        self,
        folder: Path,
        *targets: int,
        rules: Path | None = None,
        alertmanager: Alertmanager | None = None,
        jobs: Mapping[str, Mapping[str, Any]] = ONE_JOB,
    ) -> None:
        super().__init__("prometheus", folder)
        self.config = self.folder / "prometheus.yml"
        # JSON is YAML.
        self.config.write_text(json.dumps(self._config(targets, rules, alertmanager, jobs)))

    @staticmethod
    def _config(
        targets: Sequence[int],
        rules: Path | None,
        alertmanager: Alertmanager | None,
        jobs: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        managers = [f"127.0.0.1:{alertmanager.port}"] if alertmanager else []
        exporters = [f"127.0.0.1:{port}" for port in targets]
        return {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules / "*.yml")] if rules else [],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": managers}]}]},
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": exporters}], **more}
                for name, more in jobs.items()
            ],
        }

    def arguments(self) -> list[str]:
        """Return its arguments; exemplars are on."""
        return [
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--enable-feature=exemplar-storage",
        ]

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an API answer, None if it is an error."""
        return self.get(f"/api/v1/{path}", **parameters).get("data")

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the samples of an expression, now or at a time in UNIX seconds."""
        when = {} if at is None else {"time": repr(at)}
        answer = self.get("/api/v1/query", query=expression, **when)
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """Return the value of an expression with one sample."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def hurried(rules: Path, folder: Path, wait: str = "0s") -> Path:
    """Copy rule files, with `wait` for every alert's `for`; return the copy's folder."""
    copy = folder / "rules"
    shutil.copytree(rules, copy)
    for path in copy.iterdir():
        path.write_text(re.sub(r"^(\s+for:) \w+$", rf"\1 {wait}", path.read_text(), flags=re.MULTILINE))
    return copy
