"""An exporter for tests that look at differences, and need none of their own."""

from collections.abc import Iterator

import pytest

from tests.support import Exporter, running


@pytest.fixture(scope="session")
def anyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter that lets in everybody, for all tests to use; in the end it is as well as at first."""
    with running(tmp_path_factory.mktemp("anyone"), http__idle_timeout="10s") as exporter:
        worker = exporter.worker
        yield exporter
        exporter.until_ready()
        pages = ("/", "/metrics", "/-/healthy", "/api/v1/tasks")
        assert {page: exporter.get(page)[0] for page in pages} == dict.fromkeys(pages, 200)
        accept = "application/openmetrics-text; version=1.0.0"
        assert exporter.get("/metrics", Accept=accept)[2].endswith(b"# EOF\n")
        assert exporter.worker == worker
        assert "Traceback" not in exporter.log
