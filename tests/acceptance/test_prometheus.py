"""A real Prometheus scrapes it, and promtool finds nothing to say about its metrics."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.catalogue import FAMILIES
from tests.servers import Prometheus
from tests.support import Exporter, running, sample, tool, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[Exporter, Prometheus]]:
    """A Prometheus that scrapes an exporter."""
    with running(tmp_path) as exporter, Prometheus(tmp_path, exporter.ports["web"]) as server:
        yield exporter, server


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


def example_queries() -> list[str]:
    """Return the queries that README and docs/metrics.md give as examples."""
    pages = ((ROOT / name).read_text() for name in ("README.md", "docs/metrics.md"))
    return [query for page in pages for query in re.findall(r"\| `([^`]+)` \|$", page, re.MULTILINE)]


def test_every_example_in_the_documentation_can_be_asked(
    prometheus: tuple[Exporter, Prometheus],
) -> None:
    """A query that can't be read is an error here."""
    queries = example_queries()
    assert len(queries) > len(FAMILIES)
    for query in queries:
        prometheus[1].query(query)
