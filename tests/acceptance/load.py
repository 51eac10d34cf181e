"""A load of complete histories: like the service, it repeats each callback until it is answered 200."""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.support import HANG_SECONDS, until

CONNECTIONS = 8


class Sender:
    """A sender of the histories of distinct tasks, in several threads.

    As a context manager it sends until the block ends, then completes the started histories. After an error
    it stops at once.

    Args:
        ports: returns the ports of the exporters; each callback goes to a random one.
        seed: the seed of all random choices.
        connections: the number of threads.
        shuffles: whether to shuffle the callbacks of a history with event times.
    """

    def __init__(
        self,
        ports: Callable[[], list[int]],
        seed: int,
        connections: int = CONNECTIONS,
        *,
        shuffles: bool = False,
    ) -> None:
        self._ports = ports
        self._seed = seed
        self._shuffles = shuffles
        self._stop = threading.Event()
        self._aborted = threading.Event()
        self._lock = threading.Lock()
        self.accepted: Counter[str] = Counter()
        #: The number of requests, and of requests that were not answered 200.
        self.sent = 0
        self.failed = 0
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(connections)]

    def __enter__(self) -> Self:
        """Start to send."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the started histories and stop; after an error stop at once."""
        self._stop.set()
        if exc is not None:
            self._aborted.set()
        for thread in self._threads:
            thread.join(HANG_SECONDS)
            assert not thread.is_alive(), "a sender thread does not end"

    def finish(self) -> Counter[str]:
        """Complete the started histories and stop; return the number of accepted callbacks by event."""
        self.__exit__(None, None, None)
        return self.accepted

    def until_accepted(self, callbacks: int) -> None:
        """Wait until so many further callbacks are accepted."""
        target = self._accepted_so_far() + callbacks
        until(lambda: self._accepted_so_far() >= target, f"{callbacks} further callbacks are accepted")

    def until_failed(self, tries: int = 1) -> None:
        """Wait until so many further requests have failed."""
        target = self.failed + tries
        until(lambda: self.failed >= target, f"{tries} further requests fail")

    def _accepted_so_far(self) -> int:
        with self._lock:
            return self.accepted.total()

    def _run(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        count = 0
        while not self._stop.is_set():
            count += 1
            for event, body in history(f"{self._seed}-{number}-{count}", rng, shuffles=self._shuffles):
                if not self._send_until_accepted(body, rng):
                    return
                with self._lock:
                    self.accepted[event] += 1

    def _send_until_accepted(self, body: bytes, rng: random.Random) -> bool:
        """Send until the answer is 200; sometimes send once more, as if the answer had been lost."""
        while not self._send(body, rng):
            with self._lock:
                self.failed += 1
            if self._aborted.wait(0.05):
                return False
        if rng.random() < 0.1:
            self._send(body, rng)
        return True

    def _send(self, body: bytes, rng: random.Random) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", rng.choice(self._ports()), timeout=HANG_SECONDS)
        try:
            connection.request("POST", "/callbacks", body)
            with self._lock:
                self.sent += 1
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def history(task_id: str, rng: random.Random, *, shuffles: bool = False) -> list[tuple[str, bytes]]:
    """Return the callbacks of a run with a file; half of all tasks have no event times and stay in order."""
    now = time.time() - 1
    timed = rng.random() < 0.5
    code = rng.choice([0, -22])
    file = {"index": 0, "duration": 3600}
    messages: list[tuple[str, float, dict[str, Any]]] = [
        ("TaskStart", now, {"task_start_time": int(now * 1000) if timed else 0}),
        ("VodSourceFileStart", now, file),
        ("VodSourceFileFinish", now + 1, file),
        ("TaskExit", now + 2, {"code": code, "task_exit_time": int(now * 1000) + 2000 if timed else 0}),
    ]
    if shuffles and timed:
        rng.shuffle(messages)
    return [(event, _body(task_id, event, at if timed else None, msg)) for event, at, msg in messages]


def _body(task_id: str, event: str, at: float | None, msg: dict[str, Any]) -> bytes:
    body = {
        "appid": 4,
        "callback_event": event,
        "event_type": 314,
        "msg": json.dumps(msg),
        "task_id": task_id,
        "to_url": "rtmp://5000.livepush.myqcloud.com/live/x",
    }
    return json.dumps(body | ({} if at is None else {"event_time": str(int(at))})).encode()
