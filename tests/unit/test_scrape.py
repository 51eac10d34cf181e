"""Scrapes: a storm of them is two renders, and each shows what was committed before it was asked for."""

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
    """A store whose snapshots wait until they are let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, StoreOptions())
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.snapshots = 0

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        """Wait, then return a snapshot."""
        self.snapshots += 1
        self.begun.set()
        self.let_go.wait(HANG_SECONDS)
        return super().snapshot(max_tasks, states)


class DownStore(SqliteStore):
    """A store that does not answer."""

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        """Fail."""
        raise StoreUnavailable("down")


def scraper_of(store: SqliteStore) -> tuple[Scraper, Telemetry]:
    """Return a scraper of that store, and where it tells of itself."""
    telemetry = Telemetry(version="", revision="")
    labels = ("appid", "to_host")
    return Scraper(
        store=store, labels=labels, fold_settings=SETTINGS, max_tasks=9, telemetry=telemetry
    ), telemetry


def test_a_storm_of_scrapes_is_two_renders(tmp_path: Path) -> None:
    """One that is under way, and one that all who came since share."""
    store = SlowStore(tmp_path / "relay.db")

    async def storm() -> list[bytes]:
        scraper, _ = scraper_of(store)
        first = asyncio.create_task(scraper.scrape(openmetrics=False, compress=False))
        await asyncio.to_thread(store.begun.wait, HANG_SECONDS)
        rest = [asyncio.create_task(scraper.scrape(openmetrics=False, compress=False)) for _ in range(40)]
        store.let_go.set()  # the loop begins with the rest before it hears that the first is done
        texts = await asyncio.gather(first, *rest)
        scraper.close()
        return texts

    texts = asyncio.run(storm())
    assert store.snapshots == 2
    assert len(texts) == 41
    assert len(set(texts[1:])) == 1
    store.close()


def test_one_who_gives_up_does_not_end_the_render_of_others(tmp_path: Path) -> None:
    """A scrape that times out on the way is shared all the same."""
    store = SlowStore(tmp_path / "relay.db")

    async def some_give_up() -> bytes:
        scraper, _ = scraper_of(store)
        tasks = [asyncio.create_task(scraper.scrape(openmetrics=True, compress=True)) for _ in range(3)]
        await asyncio.to_thread(store.begun.wait, HANG_SECONDS)
        tasks[0].cancel()
        store.let_go.set()
        text = await tasks[2]
        scraper.close()
        return text

    assert gzip.decompress(asyncio.run(some_give_up())).endswith(b"# EOF\n")
    store.close()


def test_a_store_that_does_not_answer_is_told(tmp_path: Path) -> None:
    """The scrape comes all the same."""
    store = DownStore(tmp_path / "relay.db", StoreOptions())
    scraper, telemetry = scraper_of(store)
    text = asyncio.run(scraper.scrape(openmetrics=False, compress=False))
    scraper.close()
    assert b"css_relay_exporter_store_up 0.0" in text
    assert telemetry.registry.get_sample_value("css_relay_exporter_store_up") == 0
    store.close()
