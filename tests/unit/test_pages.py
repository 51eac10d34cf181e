"""The pages in states that are hard to reach with a real exporter: many tasks, a store that is read-only."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.metrics.process import Telemetry
from exporter.store.protocol import StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.web.pages import handler as module
from exporter.web.pages.handler import ExporterInfo, Pages
from exporter.web.pages.status_page import Query
from tests.contract.test_store import put, task
from tests.unit.histories import SETTINGS, T0


@pytest.fixture
def telemetry() -> Telemetry:
    """The families of a process whose store can be written."""
    telemetry = Telemetry(version="0", revision="0")
    telemetry.is_writable = True
    return telemetry


@pytest.fixture
def pages(tmp_path: Path, telemetry: Telemetry) -> Iterator[Pages]:
    """The pages of a store with three tasks, one of them failed."""
    store = SqliteStore(tmp_path / "relay.db", StoreOptions())
    store.transact(put(task("active"), task("failed", "E"), task("other")))
    yield Pages(
        store=store,
        telemetry=telemetry,
        fold_settings=SETTINGS,
        info=ExporterInfo("1.2.3", "abc", "/m<etrics"),
        clock=lambda: T0 + 90.0,
    )
    store.close()


def test_tasks_that_are_left_out_are_mentioned(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts include all tasks, and the failed ones are shown."""
    assert "leaves out" not in pages.status(Query(), [])
    monkeypatch.setattr(module, "MAX_TASKS", 1)
    text = pages.status(Query(), [])
    assert "too many tasks for this page: it leaves out 2 tasks." in text
    assert "2 on air, 1 failed ·" in text
    assert "<bdi>failed</bdi>" in text
    assert "<bdi>active</bdi>" not in text


def test_a_store_that_cannot_be_written_is_mentioned(pages: Pages, telemetry: Telemetry) -> None:
    """Its tasks are shown."""
    assert "not written" not in pages.status(Query(), [])
    telemetry.is_writable = False
    text = pages.status(Query(), [])
    assert "can be read but not written" in text
    assert "<bdi>failed</bdi>" in text


def test_the_version_and_the_telemetry_path_are_shown(pages: Pages) -> None:
    """Escaped, like all other texts."""
    text = pages.status(Query(), [])
    assert "css-relay-exporter 1.2.3 (revision abc)" in text
    assert 'href="/m&lt;etrics"' in text


def test_the_search_text_is_shown_unchanged_in_its_field(pages: Pages) -> None:
    """It can be sent again. Invisible characters are replaced everywhere else."""
    text = pages.status(Query(q="\u3000<"), [])
    assert 'value="\u3000&lt;"' in text
    assert "\u3000" not in text.replace('value="\u3000&lt;"', "")
    text = pages.status(Query(q="fail"), [])
    assert "with “<bdi>fail</bdi>”" in text


def test_a_page_is_freed_without_the_garbage_collector(pages: Pages) -> None:
    """A page has many tasks, and the garbage collector runs seldom."""
    # The first page fills caches; only what the second one leaves is measured.
    pages.status(Query(), [])
    gc.collect()
    gc.disable()
    try:
        pages.status(Query(), [])
        assert gc.collect() == 0
    finally:
        gc.enable()
