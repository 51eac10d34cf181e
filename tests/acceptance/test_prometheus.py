"""A real Prometheus scrapes it, and promtool finds nothing to say about its metrics."""

import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Exporter, free_port, request, running, sample, tool, until


class Prometheus:
    """A running Prometheus that scrapes an exporter every second."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = free_port()
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s}\n"
            "scrape_configs:\n"
            f"  - {{job_name: css-relay, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}\n"
        )
        self.process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--enable-feature=exemplar-storage",
            ],
            stderr=subprocess.DEVNULL,
        )

    def ask(self, path: str, **parameters: str) -> Any:
        """Return what its API answers."""
        query = urllib.parse.urlencode(parameters)
        try:
            return json.loads(request(self.port, "GET", f"/api/v1/{path}?{query}")[2])["data"]
        except (OSError, ValueError, KeyError):
            return None

    def value(self, expression: str) -> float | None:
        """Return the value of an expression that has one sample."""
        data = self.ask("query", query=expression)
        return float(data["result"][0]["value"][1]) if data and data["result"] else None


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[Exporter, Prometheus]]:
    """A Prometheus that scrapes an exporter."""
    tool("prometheus")
    with running(tmp_path) as exporter:
        server = Prometheus(tmp_path, exporter.ports["web"])
        try:
            yield exporter, server
        finally:
            server.process.kill()
            server.process.wait()


def test_prometheus_scrapes_it_and_keeps_its_exemplars(prometheus: tuple[Exporter, Prometheus]) -> None:
    """In OpenMetrics, as it asks for by itself."""
    exporter, server = prometheus
    exporter.post(sample("documented/task_start").replace(b"118148", b"118145"))
    for name in ("vod_source_file_start", "vod_source_file_finish", "task_exit"):
        exporter.post(sample(f"documented/{name}"))
    assert until(lambda: server.value("sum(css_relay_tasks{state='active'})") == 1, "an active task")
    assert server.value("up") == 1
    assert server.value("sum(css_relay_tasks_exited_total{code='-22'})") == 1
    assert server.value("sum(css_relay_start_to_file_latency_seconds_count)") == 1
    exemplars = until(
        lambda: server.ask(
            "query_exemplars",
            query="css_relay_start_to_file_latency_seconds_bucket",
            start="0",
            end="4102444800",
        ),
        "exemplars",
    )
    found = [e["labels"] for series in exemplars for e in series["exemplars"]]
    assert found == [{"task_id": "118145"}]


def test_no_sample_is_dropped_and_every_family_has_its_type(prometheus: tuple[Exporter, Prometheus]) -> None:
    """Prometheus takes the scrape whole."""
    exporter, server = prometheus
    exporter.post(sample("documented/task_start"))
    scraped = until(lambda: server.value("scrape_samples_scraped"), "a scrape")
    assert scraped == server.value("scrape_samples_post_metric_relabeling")
    metadata = until(lambda: server.ask("metadata"), "metadata")
    assert metadata["css_relay_start_to_file_latency_seconds"][0]["type"] == "histogram"
    assert metadata["css_relay_start_to_file_latency_seconds"][0]["unit"] == "seconds"


def test_promtool_has_nothing_to_say(exporter: Exporter) -> None:
    """About an empty exporter, and about one with something in it."""
    for name in (None, "task_start", "vod_source_file_start", "vod_source_file_finish", "task_exit"):
        if name:
            exporter.post(sample(f"documented/{name}"))
        body = exporter.get("/metrics")[2]
        done = subprocess.run(
            [tool("promtool"), "check", "metrics"], input=body, capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
