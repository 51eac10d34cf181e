"""An exporter shared by tests that compare counters before and after."""

from collections.abc import Iterator

import pytest

from tests.support import Exporter, running


@pytest.fixture(scope="session")
def anyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Yield an exporter without access restrictions; check at the end that it still works."""
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
