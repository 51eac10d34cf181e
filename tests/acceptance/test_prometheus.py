"""A real Prometheus scrapes the exporter, and promtool reports no problem of its metrics."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.metrics.catalogue import FAMILIES
from tests.servers import Prometheus
from tests.support import HANG_SECONDS, Exporter, running, sample, tool, until

ROOT = Path(__file__).parents[2]


RUN = ("task_start", "vod_source_file_start", "vod_source_file_finish", "task_exit")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yield a Prometheus that scrapes an exporter with an active task and an ended run."""
    folder = tmp_path_factory.mktemp("prometheus")
    with running(folder) as exporter, Prometheus(folder, exporter.ports["web"]) as server:
        exporter.post(sample("documented/task_start").replace(b"118148", b"118145"))
        for name in RUN[1:]:
            exporter.post(sample(f"documented/{name}"))
        yield server


def test_prometheus_scrapes_it_and_keeps_its_exemplars(prometheus: Prometheus) -> None:
    """Prometheus requests OpenMetrics by default."""
    until(lambda: prometheus.value("sum(css_relay_tasks{state='active'})") == 1, "an active task")
    until(lambda: prometheus.value("sum(css_relay_tasks_exited_total{code='-22'})") == 1, "its exit")
    until(lambda: prometheus.value("sum(css_relay_start_to_file_latency_seconds_count)") == 1, "its latency")
    until(lambda: prometheus.value("up") == 1, "the target is up")
    exemplars = until(
        lambda: prometheus.ask(
            "query_exemplars",
            query="css_relay_start_to_file_latency_seconds_bucket",
            start="0",
            end="4102444800",
        ),
        "exemplars",
    )
    found = [e["labels"] for series in exemplars for e in series["exemplars"]]
    assert found == [{"task_id": "118145"}]


def test_no_sample_is_dropped_and_every_family_has_its_type(prometheus: Prometheus) -> None:
    """Prometheus stores every sample of a scrape."""
    until(lambda: prometheus.value("sum_over_time(scrape_samples_scraped[1h]) > 0"), "a scrape")
    dropped = (
        "sum_over_time(scrape_samples_scraped[1h]) - sum_over_time(scrape_samples_post_metric_relabeling[1h])"
    )
    assert prometheus.value(dropped) == 0

    def latency() -> Mapping[str, Any] | None:
        metadata = prometheus.ask("metadata") or {}
        return next(iter(metadata.get("css_relay_start_to_file_latency_seconds", [])), None)

    found = until(latency, "metadata")
    assert (found["type"], found["unit"]) == ("histogram", "seconds")


def test_promtool_check_metrics_reports_nothing(exporter: Exporter) -> None:
    """For an empty exporter, one with an active task, and one with a complete run."""
    for names in ((), RUN[:2], RUN[2:]):
        for name in names:
            exporter.post(sample(f"documented/{name}"))
        done = subprocess.run(
            [tool("promtool"), "check", "metrics"],
            input=exporter.get("/metrics")[2],
            capture_output=True,
            check=False,
            timeout=HANG_SECONDS,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def example_queries() -> list[str]:
    """Return the queries that README and docs/metrics.md give as examples."""
    pages = ((ROOT / name).read_text() for name in ("README.md", "docs/metrics.md"))
    return [query for page in pages for query in re.findall(r"\| `([^`]+)` \|$", page, re.MULTILINE)]


def test_every_documented_query_is_valid(prometheus: Prometheus) -> None:
    """An invalid query is an error."""
    queries = example_queries()
    assert len(queries) > len(FAMILIES)
    for query in queries:
        prometheus.query(query)
