"""Several exporters on one Valkey server are one: the same numbers from each, whatever ends or breaks."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from exporter.store.valkey.script_runner import Script
from tests.acceptance.load import Sender
from tests.acceptance.test_kill import check, exporter_on
from tests.clock import Clock
from tests.support import Exporter, Samples, Scrape, until
from tests.valkeys import DURABLE, ValkeyServer, Wire


@contextmanager
def replicas(folder: Path, *urls: str, clock: Clock | None = None, **flags: str) -> Iterator[list[Exporter]]:
    """Yield running exporters, one for each URL of the store."""
    with ExitStack() as ended:
        found = []
        for number, url in enumerate(urls):
            place = folder / f"replica{number}"
            place.mkdir()
            found.append(exporter_on(place, clock=clock, store__url=url, **flags))
            ended.callback(found[-1].kill)
            found[-1].start()
        yield found


def of_store(scrape: Scrape) -> Samples:
    """Return the samples that every replica is to show alike."""
    own = ("css_relay_exporter_", "css_relay_callbacks_rejected", "process_", "python_")
    return {key: value for key, value in scrape.samples.items() if not key[0].startswith(own)}


def check_all(exporters: list[Exporter], kept: Counter[str]) -> None:
    """Every replica shows the same, and that is what was kept."""
    scrapes = until(lambda: _at_rest(exporters), "a moment in which time alone tells nothing")
    for scrape in scrapes:
        check(scrape, kept)
        differ = set(of_store(scrape).items()) ^ set(of_store(scrapes[0]).items())
        assert not differ, f"replicas differ: {sorted(differ, key=str)}"


def _at_rest(exporters: list[Exporter]) -> list[Scrape] | None:
    """Return a scrape of each if nothing changed meanwhile: histories are judged once they are old enough."""
    *scrapes, again = [
        until(lambda e=e: _scrape_with_store(e), "a scrape with the store")
        for e in (*exporters, exporters[0])
    ]
    return scrapes if of_store(again) == of_store(scrapes[0]) else None


def _scrape_with_store(exporter: Exporter) -> Scrape | None:
    try:
        scrape = exporter.scrape()
    except OSError:
        return None
    return scrape if scrape.has("tasks_started_total") else None


def test_three_replicas_of_which_one_is_killed_count_as_one(tmp_path: Path) -> None:
    """Callbacks of a task go to any of them; one is killed in each round, another stopped in good order."""
    chance = random.Random(20261125)
    with ValkeyServer(tmp_path, *DURABLE) as server, replicas(tmp_path, *[server.url] * 3) as exporters:
        kept: Counter[str] = Counter()
        for number in range(2):
            victim, stopped = exporters[number], exporters[number + 1]
            with Sender(lambda: [e.ports["callbacks"] for e in exporters], seed=number) as sender:
                sender.until_kept(chance.randrange(40, 120))
                victim.kill()
                sender.until_kept(chance.randrange(10, 30))
                assert stopped.stop() == 0
                sender.until_refused()
                victim.start()
                stopped.start()
                sender.until_kept(20)
            kept += sender.kept
            check_all(exporters, kept)


def test_answers_that_are_lost_and_a_server_that_is_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    """Two replicas; connections end before the answer to a commit; the server is killed, and paused."""
    chance = random.Random(5)
    with (
        ValkeyServer(tmp_path, *DURABLE) as server,
        Wire(server.port) as wire,
        replicas(tmp_path, server.url, f"valkey://127.0.0.1:{wire.port}/0") as exporters,
    ):
        wire.sign = Script("commit").digest.encode()
        kept: Counter[str] = Counter()
        for number in range(2):
            with Sender(lambda: [e.ports["callbacks"] for e in exporters], seed=50 + number) as sender:
                for _ in range(4):
                    lose_an_answer(wire)
                sender.until_kept(chance.randrange(20, 60))
                server.kill()
                if number:  # it is away until callers notice, and before for a moment only
                    sender.until_refused()
                server.start()
                wire.to_lose = 1  # of the commits that are tried again
                sender.until_kept(chance.randrange(20, 60))
                server.send(signal.SIGSTOP)
                time.sleep(chance.uniform(0.2, 0.6))  # how long it stands still
                server.send(signal.SIGCONT)
                lose_an_answer(wire)
            kept += sender.kept
            check_all(exporters, kept)


def lose_an_answer(wire: Wire) -> None:
    """Let the answer to the next commit be lost, and wait until it is."""
    wire.to_lose = 1
    until(lambda: not wire.to_lose, "an answer is lost")
