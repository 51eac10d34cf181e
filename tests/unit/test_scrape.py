"""Scrapes: many at the same time need two renders, and each has all commits made before it began."""

import asyncio
import gzip
import threading
from collections.abc import Sequence
from pathlib import Path

from exporter.errors import StoreUnavailable
from exporter.metrics.process import Telemetry
from exporter.relay import STATES
from exporter.store.protocol import Snapshot, StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.web.scrape import Scraper
from tests.support import HANG_SECONDS
from tests.unit.histories import SETTINGS


class SlowStore(SqliteStore):
    """A store whose snapshots wait for `may_finish`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, StoreOptions())
        self.begun = threading.Event()
        self.may_finish = threading.Event()
        self.snapshots = 0

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        """Wait, then return a snapshot."""
        self.snapshots += 1
        self.begun.set()
        self.may_finish.wait(HANG_SECONDS)
        return super().snapshot(max_tasks, states)


class DownStore(SqliteStore):
    """A store whose snapshots fail."""

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        """Fail."""
        raise StoreUnavailable("down")


def scraper_of(store: SqliteStore) -> tuple[Scraper, Telemetry]:
    """Return a scraper of a store, and its telemetry."""
    telemetry = Telemetry(version="", revision="")
    labels = ("appid", "to_host")
    return Scraper(
        store=store, labels=labels, fold_settings=SETTINGS, max_tasks=9, telemetry=telemetry
    ), telemetry


def test_many_scrapes_at_the_same_time_need_two_renders(tmp_path: Path) -> None:
    """The one that runs, and one for all scrapes that arrived since."""
    store = SlowStore(tmp_path / "relay.db")

    async def storm() -> list[bytes]:
        scraper, _ = scraper_of(store)
        first = asyncio.create_task(scraper.scrape(openmetrics=False, compress=False))
        await asyncio.to_thread(store.begun.wait, HANG_SECONDS)
        rest = [asyncio.create_task(scraper.scrape(openmetrics=False, compress=False)) for _ in range(40)]
        store.may_finish.set()  # the event loop starts the rest before it learns that the first has finished
        texts = await asyncio.gather(first, *rest)
        scraper.close()
        return texts

    texts = asyncio.run(storm())
    assert store.snapshots == 2
    assert len(texts) == 41
    assert len(set(texts[1:])) == 1
    store.close()


def test_a_cancelled_scrape_does_not_cancel_the_render_of_others(tmp_path: Path) -> None:
    """Scrapes share a render, so one that times out must not end it."""
    store = SlowStore(tmp_path / "relay.db")

    async def one_is_cancelled() -> bytes:
        scraper, _ = scraper_of(store)
        tasks = [asyncio.create_task(scraper.scrape(openmetrics=True, compress=True)) for _ in range(3)]
        await asyncio.to_thread(store.begun.wait, HANG_SECONDS)
        tasks[0].cancel()
        store.may_finish.set()
        text = await tasks[2]
        scraper.close()
        return text

    assert gzip.decompress(asyncio.run(one_is_cancelled())).endswith(b"# EOF\n")
    store.close()


def test_a_store_that_is_down_is_shown_in_the_scrape(tmp_path: Path) -> None:
    """The scrape is answered."""
    store = DownStore(tmp_path / "relay.db", StoreOptions())
    scraper, telemetry = scraper_of(store)
    text = asyncio.run(scraper.scrape(openmetrics=False, compress=False))
    scraper.close()
    assert b"css_relay_exporter_store_up 0.0" in text
    assert telemetry.registry.get_sample_value("css_relay_exporter_store_up") == 0
    store.close()
