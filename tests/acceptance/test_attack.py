"""What strangers do to the listeners, and how honest callers fare meanwhile."""

import re
import resource
import selectors
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.support import Exporter, running, sample, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

BODY = sample("derived/task_start_event_time")
SLOW = 2000
BEGINNINGS = (
    b"",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{",
)


class Crowd:
    """Keeps slow connections open: each says a byte now and then, and is opened again when it is closed."""

    def __init__(self, port: int, size: int) -> None:
        self._port = port
        self._size = size
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        #: How many are open, and how many have been closed by the other side.
        self.open = 0
        self.closed = 0

    def _work(self) -> None:
        talked = time.monotonic()
        while not self._stop.is_set():
            for _ in range(min(50, self._size - self.open)):
                self._join()
            for key, _ in self._selector.select(0.01):
                self._leave(key.fileobj)
            if time.monotonic() - talked > 1:
                talked = time.monotonic()
                self._talk()
        for key in list(self._selector.get_map().values()):
            self._leave(key.fileobj)

    def _join(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=5)
        connection.sendall(BEGINNINGS[self.open % len(BEGINNINGS)])
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self.open += 1

    def _leave(self, connection: object) -> None:
        assert isinstance(connection, socket.socket)
        self._selector.unregister(connection)
        connection.close()
        self.open -= 1
        self.closed += 1

    def _talk(self) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            try:
                key.fileobj.send(b"a")
            except OSError:
                self._leave(key.fileobj)

    def __enter__(self) -> "Crowd":
        """Come together."""
        self._thread.start()
        until(lambda: self.open >= self._size, "the crowd is there")
        return self

    def __exit__(self, *exc: object) -> None:
        """Go."""
        self._stop.set()
        self._thread.join(30)


def allow_open_files() -> None:
    """Let this process open as many files as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def milliseconds(act: Callable[[], object]) -> float:
    """Return how long `act` takes."""
    begun = time.perf_counter()
    act()
    return (time.perf_counter() - begun) * 1000


def test_two_thousand_slow_connections_do_not_hold_up_honest_callers(exporter: Exporter) -> None:
    """p99 under 200 ms; none of the slow ones is kept for long, and the same worker serves all."""
    allow_open_files()
    worker = exporter.worker
    with Crowd(exporter.ports["callbacks"], SLOW) as crowd:
        times, crowds = [], []
        begun = time.monotonic()
        while len(times) < 500 or time.monotonic() - begun < 15:
            times.append(milliseconds(lambda: exporter.post(BODY)))
            crowds.append(crowd.open)
        assert crowd.closed > SLOW / 2
    assert statistics.median(crowds) > 0.9 * SLOW
    assert statistics.quantiles(times, n=100)[98] < 200
    assert exporter.scrape().value("tasks_started_total") == 1
    assert exporter.worker == worker


@contextmanager
def limited(folder: Path, files: int, **flags: str) -> Iterator[Exporter]:
    """Yield an exporter that may have so many open files."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    exporter = Exporter(folder, preexec=limit, **flags)
    try:
        yield exporter.start()
    finally:
        exporter.kill()


def test_when_all_connections_are_taken_operators_still_get_in(tmp_path: Path) -> None:
    """With 256 open files, and 400 slow callers: scrapes and the store go on, and callbacks soon do again."""
    with limited(tmp_path, 256) as exporter:
        assert exporter.post(BODY)[0] == 200
        worker = exporter.worker
        connections = [
            socket.create_connection(("127.0.0.1", exporter.ports["callbacks"])) for _ in range(400)
        ]
        for _ in range(20):
            scrape = exporter.scrape()
            assert scrape.value("exporter_store_up") == 1
            assert scrape.value("tasks_started_total") == 1
        assert exporter.get("/-/ready")[0] == 200
        open_files = exporter.scrape().samples[("process_open_fds", frozenset())]
        assert open_files < 256
        for connection in connections:
            connection.close()
        until(lambda: exporter.post(BODY)[0] == 200, "callbacks again")
        assert exporter.worker == worker


def test_callers_that_hold_all_connections_are_let_go_by_themselves(tmp_path: Path) -> None:
    """Nobody needs to do anything: what never speaks is closed after its time."""
    with limited(tmp_path, 256) as exporter:
        connections = [
            socket.create_connection(("127.0.0.1", exporter.ports["callbacks"])) for _ in range(400)
        ]
        until(lambda: answers(exporter), "callbacks again", 20)
        for connection in connections:
            connection.close()


def answers(exporter: Exporter) -> bool:
    """Whether a callback is taken now."""
    try:
        return exporter.post(BODY)[0] == 200
    except (OSError, ValueError):
        return False


def peak_bytes(folder: Path) -> int:
    """Return how much address space a worker takes to start."""
    with running(folder) as exporter:
        status = Path(f"/proc/{exporter.worker}/status").read_text()
    return int(re.findall(r"VmPeak:\s+(\d+) kB", status)[0]) * 1024


def test_when_memory_runs_out_nothing_answered_is_lost(tmp_path: Path) -> None:
    """Callers see closed connections, and try again; a new worker is there by itself, and takes them."""
    allow_open_files()
    limit = peak_bytes(tmp_path) + 2**25
    exporter = Exporter(tmp_path, preexec=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    half = b"POST /callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: 65000\r\n\r\n" + b" " * 64000
    held: list[socket.socket] = []
    answers: Counter[str] = Counter()
    try:
        exporter.start()
        first = exporter.worker
        for number in range(10_000):
            if number % 50 == 0:
                answers[status_of(exporter, f"{number}")] += 1
                if exporter.worker != first:
                    break
            with suppress(OSError):  # nobody takes connections for a moment when the worker is gone
                held.append(socket.create_connection(("127.0.0.1", exporter.ports["callbacks"]), timeout=2))
                held[-1].setblocking(False)
                held[-1].send(half)
        assert exporter.worker != first, "the memory did not run out"
        until(lambda: status_of(exporter, "after") == "200", "callbacks again", 5.0)
        assert set(answers) <= {"200", "503", "closed"}, answers
        counted = exporter.scrape().value("tasks_started_total")
        assert answers["200"] <= counted - 1 <= answers["200"] + answers["closed"]
    finally:
        exporter.kill()
        for connection in held:
            connection.close()


def status_of(exporter: Exporter, task: str) -> str:
    """Return the status of a callback of a task of its own, `closed` if there was no answer."""
    try:
        return str(exporter.post(BODY.replace(b"900001", task.encode()))[0])
    except (OSError, HTTPException):
        return "closed"


def test_a_storm_of_scrapes_does_not_hold_up_callbacks(exporter: Exporter) -> None:
    """Those that wait share the next one, so that a hundred cost little more than one."""
    stop = threading.Event()
    scrapes: list[int] = []

    def scrape() -> None:
        while not stop.is_set():
            scrapes.append(exporter.get("/metrics")[0])

    storm = [threading.Thread(target=scrape) for _ in range(40)]
    for thread in storm:
        thread.start()
    try:
        with closing(HTTPConnection("127.0.0.1", exporter.ports["callbacks"], timeout=10)) as connection:
            times = [milliseconds(lambda: posted(connection)) for _ in range(300)]
    finally:
        stop.set()
        for thread in storm:
            thread.join(30)
    assert len(scrapes) > 100
    assert set(scrapes) == {200}
    assert statistics.quantiles(times, n=100)[98] < 1000
    assert exporter.scrape().value("callbacks_total", event="TaskStart") == 300


def posted(connection: HTTPConnection) -> None:
    """Send a callback on a connection that is kept."""
    connection.request("POST", "/callbacks", BODY)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"code":0}')


def test_a_wrong_token_tells_nothing_by_its_time(tmp_path: Path) -> None:
    """However much of it is right: medians over many tries lie within noise of each other."""
    token = "a" * 40
    secret = tmp_path / "tokens"
    secret.write_text(token + "\n")
    secret.chmod(0o600)
    wrong = ("b" * 40, "a" * 20 + "b" * 20, "a" * 39 + "b", "a")
    with (
        running(tmp_path, callback__token_file=str(secret)) as exporter,
        closing(HTTPConnection("127.0.0.1", exporter.ports["callbacks"], timeout=10)) as connection,
    ):

        def asked(path: str, status: int) -> float:
            def ask() -> None:
                connection.request("GET", f"/callbacks/{path}")
                answer = connection.getresponse()
                answer.read()
                assert answer.status == status

            return milliseconds(ask)

        tries: dict[str, list[float]] = {path: [] for path in (*wrong, token)}
        for _ in range(400):
            for path, found in tries.items():
                # To the right token a GET is the wrong method: as little work as a wrong token.
                found.append(asked(path, 405 if path == token else 404))
    medians = {path: statistics.median(found) for path, found in tries.items()}
    fastest = min(medians.values())
    upper = statistics.median(statistics.quantiles(found, n=4)[2] for found in tries.values())
    assert max(medians.values()) - fastest < max(upper - fastest, 0.2 * fastest), medians
