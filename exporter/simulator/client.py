"""Sends the requests of a simulation, and scrapes the exporter."""

import queue
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterable
from urllib.parse import urlsplit

import urllib3

from exporter.errors import ExporterError, SettingsError
from exporter.simulator.options import SimulatorSettings
from exporter.simulator.wire import Delivery

#: As often as the service sends a callback, and as long as it waits for an answer.
MAX_ATTEMPTS, TIMEOUT_SECONDS = 12, 20.0
PAUSE_SECONDS = 1.0
SCRAPE_TIMEOUT_SECONDS = 60.0
#: Maximum number of deliveries that wait for a connection.
BACKLOG = 100


class Client:
    """The HTTP client of a simulation. It sends over several connections, with one thread for each."""

    def __init__(self, options: SimulatorSettings) -> None:
        try:
            self._tls_context = ssl.create_default_context(cafile=options.ca_file or None)
        except OSError as exc:
            problem = f"expected certificates in PEM form: {exc.strerror}"
            raise SettingsError(f"--ca-file: {options.ca_file}: {problem}") from exc
        self._options = options
        size = options.connections
        self._pool = urllib3.PoolManager(
            maxsize=size, retries=False, timeout=TIMEOUT_SECONDS, ssl_context=self._tls_context
        )
        self._queues: list[queue.Queue[Delivery | None]] = [queue.Queue(BACKLOG) for _ in range(size)]
        self._lock = threading.Lock()
        self._failure = ""
        #: Number of answers by status, and of answers with another status than expected.
        self.statuses: Counter[int] = Counter()
        self.unexpected = 0
        #: Number of requests without an answer. The exporter may have counted them.
        self.unanswered = 0

    def send(self, deliveries: Iterable[Delivery], begin: float) -> None:
        """Send each delivery until it is accepted or rejected, those of a channel in their order.

        Args:
            begin: start of the simulation, UNIX time in seconds.

        Raises:
            ExporterError: a delivery was neither accepted nor rejected after all attempts.
        """
        threads = [threading.Thread(target=self._send_queued, args=(q,), daemon=True) for q in self._queues]
        for thread in threads:
            thread.start()
        try:
            for delivery in deliveries:
                if self._failure:
                    break
                if not self._options.fast:
                    time.sleep(max(0.0, begin + delivery.at - time.time()))
                # A channel always has the same connection, so that its deliveries stay in order.
                self._queues[delivery.channel % len(self._queues)].put(delivery)
        finally:
            for backlog in self._queues:  # None ends a thread
                backlog.put(None)
        for thread in threads:
            thread.join()
        if self._failure:
            raise ExporterError(self._failure)

    def _send_queued(self, backlog: "queue.Queue[Delivery | None]") -> None:
        while (delivery := backlog.get()) is not None:
            if not self._failure:  # otherwise only empty the queue, so that `send` is not blocked
                self._deliver(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        problem = "no answer"
        for _ in range(MAX_ATTEMPTS):
            status, pause = self._post(delivery.body)
            # The service repeats everything but 200. Here a 4xx is final: it would only be rejected again.
            if status and status < 500 and status != 429:
                with self._lock:
                    self.unexpected += status != delivery.status
                return
            problem = f"it answers {status}" if status else problem
            time.sleep(pause)
        # Not the path: it may hold a token.
        host = urlsplit(self._options.target).netloc.rpartition("@")[2]
        self._failure = f"stopped sending to {host}: {problem}"

    def _post(self, body: bytes) -> tuple[int, float]:
        """Return the status, or 0 without an answer, and the seconds to wait before the next attempt."""
        try:
            answer = self._pool.request("POST", self._options.target, body=body)
        except urllib3.exceptions.HTTPError as exc:
            # Without a connection nothing was sent, so nothing was counted.
            with self._lock:
                self.unanswered += not isinstance(exc, urllib3.exceptions.NewConnectionError)
            return 0, PAUSE_SECONDS
        with self._lock:
            self.statuses[answer.status] += 1
        pause = answer.headers.get("Retry-After", "")
        return answer.status, float(pause) if pause.isdigit() else PAUSE_SECONDS

    def scrape(self) -> str:
        """Return the text of the exporter's metrics.

        Raises:
            ExporterError: the exporter does not answer, or not with 200.
        """
        # A connection of its own: minutes pass between two scrapes, and a proxy may have closed an idle one.
        pool = urllib3.PoolManager(ssl_context=self._tls_context, timeout=SCRAPE_TIMEOUT_SECONDS)
        try:
            answer = pool.request("GET", self._options.verify, retries=False)
        except urllib3.exceptions.HTTPError as exc:
            raise ExporterError("--verify: no answer") from exc
        if answer.status != 200:
            raise ExporterError(f"--verify: expected an answer with 200, not {answer.status}")
        return answer.data.decode()
