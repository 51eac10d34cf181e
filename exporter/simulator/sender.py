"""Sends deliveries as the service would: each until it is answered for good, those of a lane in order."""

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

TRIES = 12
TIMEOUT_SECONDS = 20.0
PAUSE_SECONDS = 1.0
WAITING = 100


class Sender:
    """Sends over some connections, one thread each.

    Args:
        target: the URL; its path may be a secret, and is never told.
        connections: how many.
        begin: UNIX time that deliveries are counted from, None to send as fast as possible.
        believed: whose certificates are good, where the target has one.
    """

    def __init__(
        self, *, target: str, connections: int, begin: float | None, believed: ssl.SSLContext
    ) -> None:
        self._target = target
        self._begin = begin
        self._pool = urllib3.PoolManager(
            maxsize=connections, retries=False, timeout=TIMEOUT_SECONDS, ssl_context=believed
        )
        self._queues: list[queue.Queue[Delivery | None]] = [queue.Queue(WAITING) for _ in range(connections)]
        self._lock = threading.Lock()
        self._failure = ""
        #: Answers by status, and how many of them were not those expected.
        self.statuses: Counter[int] = Counter()
        self.unexpected = 0
        #: Requests without an answer: each may have been counted.
        self.unanswered = 0

    def send(self, deliveries: Iterable[Delivery]) -> None:
        """Send everything, and return when it is answered.

        Raises:
            ExporterError: a delivery is not answered for good in spite of all tries.
        """
        threads = [threading.Thread(target=self._work, args=(q,), daemon=True) for q in self._queues]
        for thread in threads:
            thread.start()
        try:
            self._hand_out(deliveries)
        finally:
            for waiting in self._queues:
                waiting.put(None)
        for thread in threads:
            thread.join()
        if self._failure:
            raise ExporterError(self._failure)

    def _hand_out(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            if self._failure:
                return
            if self._begin is not None:
                time.sleep(max(0.0, self._begin + delivery.at - time.time()))
            self._queues[delivery.lane % len(self._queues)].put(delivery)

    def _work(self, waiting: "queue.Queue[Delivery | None]") -> None:
        while (delivery := waiting.get()) is not None:
            if not self._failure:
                self._deliver(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        answer = "it does not answer"
        for _ in range(TRIES):
            status, pause = self._post(delivery.body)
            if status and status < 500 and status != 429:
                with self._lock:
                    self.unexpected += status != delivery.status
                return
            answer = f"it answers {status}" if status else answer
            time.sleep(pause)
        self._failure = f"gave up on {urlsplit(self._target).netloc.rpartition('@')[2]}: {answer}"

    def _post(self, body: bytes) -> tuple[int, float]:
        """Return the status, 0 if there was no answer, and how long to wait before the next try."""
        try:
            answer = self._pool.request("POST", self._target, body=body)
        except urllib3.exceptions.NewConnectionError:
            return 0, PAUSE_SECONDS
        except urllib3.exceptions.HTTPError:
            with self._lock:
                self.unanswered += 1
            return 0, PAUSE_SECONDS
        with self._lock:
            self.statuses[answer.status] += 1
        pause = answer.headers.get("Retry-After", "")
        return answer.status, float(pause) if pause.isdigit() else PAUSE_SECONDS


def believed_by(ca_file: str) -> ssl.SSLContext:
    """Return whose certificates are good: those of a file's authorities, or of the system's if it is empty.

    Raises:
        SettingsError: the file can't be read, or has none.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:
        raise SettingsError(
            f"--ca-file: {ca_file}: expected certificates in PEM form: {exc.strerror}"
        ) from exc
