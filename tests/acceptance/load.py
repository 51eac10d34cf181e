"""A sender like the service: histories over some connections, each callback again until it is kept."""

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
    """Sends histories of distinct tasks from some threads until told to stop.

    As a context it begins to send, and ends with what was begun, or at once where an error leaves it.

    Args:
        ports: gives the ports to send to; each callback goes to one of them.
        seed: what is drawn by chance depends on it alone.
        connections: how many threads.
        shuffles: whether the callbacks of a history that states its times may come in any order.
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
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self.kept: Counter[str] = Counter()
        #: How many requests were sent, and how many of all tries came to nothing.
        self.sent = 0
        self.refused = 0
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(connections)]

    def __enter__(self) -> Self:
        """Begin to send."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End after the histories that are under way; after an error, at once."""
        self._stop.set()
        if exc is not None:
            self._given_up.set()
        for thread in self._threads:
            thread.join(HANG_SECONDS)
            assert not thread.is_alive(), "a sender hangs"

    def finish(self) -> Counter[str]:
        """End after the histories that are under way; return what was kept, by event."""
        self.__exit__(None, None, None)
        return self.kept

    def until_kept(self, callbacks: int) -> None:
        """Wait until so many more callbacks are kept."""
        aim = self._kept_so_far() + callbacks
        until(lambda: self._kept_so_far() >= aim, f"{callbacks} more callbacks are kept")

    def until_refused(self, tries: int = 1) -> None:
        """Wait until so many more tries came to nothing."""
        aim = self.refused + tries
        until(lambda: self.refused >= aim, f"{tries} more tries come to nothing")

    def _kept_so_far(self) -> int:
        with self._lock:
            return self.kept.total()

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        count = 0
        while not self._stop.is_set():
            count += 1
            for event, body in history(f"{self._seed}-{number}-{count}", chance, shuffles=self._shuffles):
                if not self._send_until_kept(body, chance):
                    return
                with self._lock:
                    self.kept[event] += 1

    def _send_until_kept(self, body: bytes, chance: random.Random) -> bool:
        """Send until it is answered 200, and then perhaps once more, as if the answer had been lost."""
        while not self._send(body, chance):
            with self._lock:
                self.refused += 1
            if self._given_up.wait(0.05):
                return False
        if chance.random() < 0.1:
            self._send(body, chance)
        return True

    def _send(self, body: bytes, chance: random.Random) -> bool:
        connection = http.client.HTTPConnection(
            "127.0.0.1", chance.choice(self._ports()), timeout=HANG_SECONDS
        )
        try:
            connection.request("POST", "/callbacks", body)
            with self._lock:
                self.sent += 1
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def history(task_id: str, chance: random.Random, *, shuffles: bool = False) -> list[tuple[str, bytes]]:
    """Return the callbacks of one run with a file; half of all tasks state no times, and come in order."""
    now = time.time() - 1
    timed = chance.random() < 0.5
    code = chance.choice([0, -22])
    file = {"index": 0, "duration": 3600}
    messages: list[tuple[str, float, dict[str, Any]]] = [
        ("TaskStart", now, {"task_start_time": int(now * 1000) if timed else 0}),
        ("VodSourceFileStart", now, file),
        ("VodSourceFileFinish", now + 1, file),
        ("TaskExit", now + 2, {"code": code, "task_exit_time": int(now * 1000) + 2000 if timed else 0}),
    ]
    if shuffles and timed:
        chance.shuffle(messages)
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
