"""Sends deliveries, each until it is accepted or rejected, and those of a channel in their order."""

import queue
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterable
from urllib.parse import urlsplit

import urllib3

from exporter.errors import ExporterError, SettingsError
from exporter.simulator.wire import Delivery

#: As often as the service sends a callback.
MAX_ATTEMPTS = 12
#: As long as the service waits for an answer.
TIMEOUT_SECONDS = 20.0
PAUSE_SECONDS = 1.0
#: Maximum number of deliveries that wait for a connection.
BACKLOG = 100


class Sender:
    """Sends deliveries over several connections, with one thread for each.

    Args:
        target: the URL. Its path may hold a token, so it is never printed.
        connections: number of connections.
        begin: start of the simulation, UNIX time in seconds; None to send as fast as possible.
        tls_context: verifies the certificate of the target, if its URL is HTTPS.
    """

    def __init__(
        self, *, target: str, connections: int, begin: float | None, tls_context: ssl.SSLContext
    ) -> None:
        self._target = target
        self._begin = begin
        self._pool = urllib3.PoolManager(
            maxsize=connections, retries=False, timeout=TIMEOUT_SECONDS, ssl_context=tls_context
        )
        self._queues: list[queue.Queue[Delivery | None]] = [queue.Queue(BACKLOG) for _ in range(connections)]
        self._lock = threading.Lock()
        self._failure = ""
        #: Number of answers by status, and of answers with another status than expected.
        self.statuses: Counter[int] = Counter()
        self.unexpected = 0
        #: Number of requests without an answer. The exporter may have counted them.
        self.unanswered = 0

    def send(self, deliveries: Iterable[Delivery]) -> None:
        """Send all deliveries, and return when each is answered.

        Raises:
            ExporterError: a delivery was neither accepted nor rejected after all attempts.
        """
        threads = [threading.Thread(target=self._send_queued, args=(q,), daemon=True) for q in self._queues]
        for thread in threads:
            thread.start()
        try:
            self._distribute(deliveries)
        finally:
            for backlog in self._queues:  # None ends a thread
                backlog.put(None)
        for thread in threads:
            thread.join()
        if self._failure:
            raise ExporterError(self._failure)

    def _distribute(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            if self._failure:
                return
            if self._begin is not None:
                time.sleep(max(0.0, self._begin + delivery.at - time.time()))
            # A channel always has the same connection, so that its deliveries stay in order.
            self._queues[delivery.channel % len(self._queues)].put(delivery)

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
        self._failure = f"stopped sending to {urlsplit(self._target).netloc.rpartition('@')[2]}: {problem}"

    def _post(self, body: bytes) -> tuple[int, float]:
        """Return the status, or 0 without an answer, and the seconds to wait before the next attempt."""
        try:
            answer = self._pool.request("POST", self._target, body=body)
        except urllib3.exceptions.NewConnectionError:  # nothing was sent, so nothing was counted
            return 0, PAUSE_SECONDS
        except urllib3.exceptions.HTTPError:
            with self._lock:
                self.unanswered += 1
            return 0, PAUSE_SECONDS
        with self._lock:
            self.statuses[answer.status] += 1
        pause = answer.headers.get("Retry-After", "")
        return answer.status, float(pause) if pause.isdigit() else PAUSE_SECONDS


def make_tls_context(ca_file: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the certificate authorities in a file, or the system's if it is empty.

    Raises:
        SettingsError: the file can't be read or has no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:
        raise SettingsError(
            f"--ca-file: {ca_file}: expected certificates in PEM form: {exc.strerror}"
        ) from exc
