"""Fixtures for several kinds of tests, the store of exporters, and the summary at the end of a run."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import caches, support
from tests.stores import IS_EMBEDDED, KIND, running_store
from tests.support import Exporter, running

#: In CI a skipped test fails the run. With another store the tests about the SQLite file are always skipped.
ALL_MUST_RUN = bool(os.environ.get("CI")) and IS_EMBEDDED
#: No time limits for examples: a slow machine must not fail a test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run exporters with the kind of store in TEST_STORE."""
    if IS_EMBEDDED:
        yield
        return
    with running_store(tmp_path_factory.mktemp("store")) as support.store_of:
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests about the file of the embedded store if exporters use another store."""
    if not IS_EMBEDDED:
        reason = pytest.mark.skip(reason=f"about the embedded store's file, not {KIND}")
        for item in items:
            if item.get_closest_marker("embedded"):
                item.add_marker(reason)


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """A running exporter on a store of its own."""
    with running(tmp_path) as process:
        yield process


def left_out(reporter: pytest.TerminalReporter) -> Counter[str]:
    """Return the number of skipped tests, by reason."""
    reports = reporter.stats.get("skipped", [])
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run in CI if a test was skipped; in a worker, pass on its reports about the cache."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["said"] = caches.said
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if ALL_MUST_RUN and reporter and left_out(reporter) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the reports of a pytest-xdist worker about the cache."""
    caches.said.update(caches.merged(caches.said, getattr(node, "workeroutput", {}).get("said", {})))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the reports about the cache, then a line with the numbers of passed, failed and skipped tests."""
    for what, how in caches.said.items():
        terminalreporter.write_line(f"{what}: {how}")
    passed, failed, errors = (len(terminalreporter.stats.get(k, [])) for k in ("passed", "failed", "error"))
    reasons = left_out(terminalreporter)
    why = "".join(f"; {count} x {reason}" for reason, count in reasons.most_common())
    forbidden = " (in CI nothing may be left out: this run has failed)" if reasons and ALL_MUST_RUN else ""
    terminalreporter.write_line(
        f"{passed} passed, {failed + errors} failed, {reasons.total()} left out{why}{forbidden}"
    )
