"""The documented rate over replicas is the true one while they come, go and are scraped late."""

import http.client
import os
import random
import signal
import threading
import time
from itertools import count
from pathlib import Path

import pytest

from tests.acceptance.load import history
from tests.acceptance.test_replicas import replicas
from tests.servers import Prometheus
from tests.support import until
from tests.valkeys import DURABLE, ValkeyServer

pytestmark = pytest.mark.alone

WINDOW_SECONDS = 6
PER_SECOND = 10
RATE = f"rate(css_relay_tasks_started_total[{WINDOW_SECONDS}s])"
DOCUMENTED = f"sum(max without (instance, pod) ({RATE}))"
#: A scrape may be answered a second after the time that it is noted with: a window is that much off.
TOLERANCE = 1.3


class Metronome(threading.Thread):
    """Starts tasks at a steady pace, on one port."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._chance = random.Random(1)
        self._over = threading.Event()
        self.kept: list[float] = []

    def run(self) -> None:
        """Send until told to end."""
        begun = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        for number in count(1):
            if self._over.wait(begun + number / PER_SECOND - time.monotonic()):
                break
            connection.request("POST", "/callbacks", history(str(number), self._chance)[0][1])
            if connection.getresponse().read() == b'{"code":0}':
                self.kept.append(time.time())
        connection.close()

    def end(self) -> None:
        """Stop sending."""
        self._over.set()
        self.join()

    def true_rates(self, first: float, last: float) -> list[float]:
        """Return what was kept a second, in each window that ends between two times."""
        ends = [first + step / 2 for step in range(int(2 * (last - first)) + 1)]
        return [sum(end - WINDOW_SECONDS < at <= end for at in self.kept) / WINDOW_SECONDS for end in ends]


@pytest.mark.slow
def test_no_rate_jumps_when_a_replica_leaves_joins_or_is_scraped_late(tmp_path: Path) -> None:
    """The plain sum does: it counts every callback once for each replica."""
    with (
        ValkeyServer(tmp_path, *DURABLE) as server,
        replicas(tmp_path, *[server.url] * 4) as (steady, leaving, late, joining),
    ):
        joining.stop()
        targets = (exporter.ports["web"] for exporter in (steady, leaving, late, joining))
        with Prometheus(tmp_path, *targets) as prometheus:
            sender = Metronome(steady.ports["callbacks"])
            sender.start()
            try:
                _until_scraped(prometheus, 3, time.time())
                first = time.time() + WINDOW_SECONDS + 2
                _until_scraped(prometheus, 3, first)
                assert (prometheus.value(f"sum({RATE}) / {DOCUMENTED}") or 0) > 2.5
                leaving.stop()
                _until_scraped(prometheus, 2, time.time() + 3)
                joining.start()
                _until_scraped(prometheus, 3, time.time() + 3)
                worker = late.worker
                os.kill(worker, signal.SIGSTOP)
                until(lambda: _scraped(prometheus) == 2, "a scrape that is too late")
                os.kill(worker, signal.SIGCONT)
                _until_scraped(prometheus, 3, time.time() + 4)
            finally:
                sender.end()
            last = sender.kept[-1]
            shown = _shown(prometheus, first, last)
    true = sender.true_rates(first, last)
    assert len(shown) > 2 * WINDOW_SECONDS
    assert min(true) / TOLERANCE < min(shown), shown
    assert max(shown) < max(true) * TOLERANCE, shown


def _until_scraped(prometheus: Prometheus, targets: int, at: float) -> None:
    """Wait until a time, and until so many targets are up."""
    until(lambda: time.time() > at and _scraped(prometheus) == targets, f"{targets} replicas are scraped")


def _scraped(prometheus: Prometheus) -> float | None:
    return prometheus.value("sum(up)")


def _shown(prometheus: Prometheus, first: float, last: float) -> list[float]:
    """Return the documented rate at every half second."""
    answer = prometheus.ask("query_range", query=DOCUMENTED, start=str(first), end=str(last), step="0.5")
    return [float(value) for _, value in answer["result"][0]["values"]]
