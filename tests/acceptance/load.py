"""A sender like the service: histories over some connections, each callback again until it is kept."""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

CONNECTIONS = 16


class Sender:
    """Sends histories of distinct tasks from some threads until told to stop.

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
        self._lock = threading.Lock()
        self.kept: Counter[str] = Counter()
        self.sent = 0
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(connections)]

    def start(self) -> "Sender":
        """Begin to send."""
        for thread in self._threads:
            thread.start()
        return self

    def finish(self) -> Counter[str]:
        """End after the histories that are under way; return what was kept, by event."""
        self._stop.set()
        for thread in self._threads:
            thread.join(150)
            assert not thread.is_alive(), "a sender hangs"
        return self.kept

    def _run(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        count = 0
        while not self._stop.is_set():
            count += 1
            for event, body in history(f"{self._seed}-{number}-{count}", chance, shuffles=self._shuffles):
                self._send_until_kept(body, chance)
                with self._lock:
                    self.kept[event] += 1

    def _send_until_kept(self, body: bytes, chance: random.Random) -> None:
        """Send until it is answered 200, and then perhaps once more, as if the answer had been lost."""
        deadline = time.monotonic() + 100
        while not self._send(body, chance):
            assert time.monotonic() < deadline, "a callback is never kept"
            time.sleep(0.05)
        if chance.random() < 0.1:
            self._send(body, chance)

    def _send(self, body: bytes, chance: random.Random) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", chance.choice(self._ports()), timeout=20)
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
