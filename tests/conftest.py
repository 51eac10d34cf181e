"""Fixtures that several kinds of test use, the store of exporters, and what is said at the end of a run."""

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

#: In CI a test that is left out fails the run; on another store those about the embedded one's file are.
ALL_MUST_RUN = bool(os.environ.get("CI")) and IS_EMBEDDED
#: How long an example takes is no question of a test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put exporters on the store that TEST_STORE names."""
    if IS_EMBEDDED:
        yield
        return
    with running_store(tmp_path_factory.mktemp("store")) as support.store_of:
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is about the file of the embedded store where exporters are on another."""
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
    """Return how many tests were left out, by reason."""
    reports = reporter.stats.get("skipped", [])
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing is left out: a test that is fails the run. A worker hands over what it has to say."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["said"] = caches.said
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if ALL_MUST_RUN and reporter and left_out(reporter) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what a worker of pytest-xdist says of what it took from the cache."""
    caches.said.update(caches.merged(caches.said, getattr(node, "workeroutput", {}).get("said", {})))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the cache gave or lacked; then in one line what passed, failed and was left out, and why."""
    for what, how in caches.said.items():
        terminalreporter.write_line(f"{what}: {how}")
    passed, failed, errors = (len(terminalreporter.stats.get(k, [])) for k in ("passed", "failed", "error"))
    reasons = left_out(terminalreporter)
    why = "".join(f"; {count} x {reason}" for reason, count in reasons.most_common())
    forbidden = " (in CI nothing may be left out: this run has failed)" if reasons and ALL_MUST_RUN else ""
    terminalreporter.write_line(
        f"{passed} passed, {failed + errors} failed, {reasons.total()} left out{why}{forbidden}"
    )
