"""Several exporters on one Valkey server show the same numbers, even if one of them or the server fails."""

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


def store_samples(scrape: Scrape) -> Samples:
    """Return the samples of the store, which are equal on every replica."""
    own = ("css_relay_exporter_", "css_relay_callbacks_rejected", "process_", "python_")
    return {key: value for key, value in scrape.samples.items() if not key[0].startswith(own)}


def check_all(exporters: list[Exporter], accepted: Counter[str]) -> None:
    """Check that every replica shows the same numbers, and that they match the accepted callbacks."""
    scrapes = until(lambda: _scrapes_without_change(exporters), "scrapes without a sweep in between")
    for scrape in scrapes:
        check(scrape, accepted)
        differ = set(store_samples(scrape).items()) ^ set(store_samples(scrapes[0]).items())
        assert not differ, f"replicas differ: {sorted(differ, key=str)}"


def _scrapes_without_change(exporters: list[Exporter]) -> list[Scrape] | None:
    """Return a scrape of each exporter; None if a sweep changed the numbers meanwhile."""
    *scrapes, again = [
        until(lambda e=e: _scrape_with_store(e), "a scrape with the store")
        for e in (*exporters, exporters[0])
    ]
    return scrapes if store_samples(again) == store_samples(scrapes[0]) else None


def _scrape_with_store(exporter: Exporter) -> Scrape | None:
    try:
        scrape = exporter.scrape()
    except OSError:
        return None
    return scrape if scrape.has("tasks_started_total") else None


def test_three_replicas_of_which_one_is_killed_count_as_one(tmp_path: Path) -> None:
    """Callbacks of a task go to any replica; in each round one is killed, and another one is stopped."""
    rng = random.Random(20261125)
    with ValkeyServer(tmp_path, *DURABLE) as server, replicas(tmp_path, *[server.url] * 3) as exporters:
        accepted: Counter[str] = Counter()
        for number in range(2):
            victim, stopped = exporters[number], exporters[number + 1]
            with Sender(lambda: [e.ports["callbacks"] for e in exporters], seed=number) as sender:
                sender.until_accepted(rng.randrange(40, 120))
                victim.kill()
                sender.until_accepted(rng.randrange(10, 30))
                assert stopped.stop() == 0
                sender.until_failed()
                victim.start()
                stopped.start()
                sender.until_accepted(20)
            accepted += sender.accepted
            check_all(exporters, accepted)


def test_lost_answers_and_a_killed_server_lose_and_double_nothing(tmp_path: Path) -> None:
    """With two replicas, dropped answers to commits, and a server that is killed and paused."""
    rng = random.Random(5)
    with (
        ValkeyServer(tmp_path, *DURABLE) as server,
        Wire(server.port) as wire,
        replicas(tmp_path, server.url, f"valkey://127.0.0.1:{wire.port}/0") as exporters,
    ):
        wire.sign = Script("commit").digest.encode()
        accepted: Counter[str] = Counter()
        for number in range(2):
            with Sender(lambda: [e.ports["callbacks"] for e in exporters], seed=50 + number) as sender:
                for _ in range(4):
                    lose_an_answer(wire)
                sender.until_accepted(rng.randrange(20, 60))
                server.kill()
                if number:  # in the second round requests fail before the server is restarted
                    sender.until_failed()
                server.start()
                wire.to_lose = 1  # lose the answer to a retried commit
                sender.until_accepted(rng.randrange(20, 60))
                server.send(signal.SIGSTOP)
                time.sleep(rng.uniform(0.2, 0.6))  # the length of the pause
                server.send(signal.SIGCONT)
                lose_an_answer(wire)
            accepted += sender.accepted
            check_all(exporters, accepted)


def lose_an_answer(wire: Wire) -> None:
    """Drop the answer to the next commit, and wait until it is dropped."""
    wire.to_lose = 1
    until(lambda: not wire.to_lose, "an answer is lost")
