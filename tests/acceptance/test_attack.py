"""What strangers do to the listeners, and how honest callers fare meanwhile."""

import os
import resource
import selectors
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.support import HANG_SECONDS, Exporter, running, sample, until

BODY = sample("derived/task_start_event_time")
#: How many slow callers there are at first, and at least where the machine can't let go so many in time.
SLOW, SLOW_AT_LEAST = 2000, 100
#: Callbacks that are answered beside all the slow callers, and how many may be tried for that.
BESIDE_ALL, TRIED = 50, 1000
SCRAPERS, STORMS = 150, 3
#: How much more memory a worker may take than it has.
SPARE_BYTES = 2**23
BEGINNINGS = (
    b"",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter for attacks that it has to outlive; what is counted is told by what is added."""
    allow_open_files()
    with running(tmp_path_factory.mktemp("exporter")) as exporter:
        yield exporter


def allow_open_files() -> None:
    """Let this process, and those that it starts, open as many files as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Crowd:
    """Connections that say little or nothing, as many at any time as are asked for."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()

    def gather(self, size: int) -> None:
        """Open as many as are missing, close those that are too many."""
        for key in list(self._selector.get_map().values())[size:]:
            self._leave(key)
        for number in range(size - len(self._selector.get_map())):
            kind = number % len(BEGINNINGS)
            connection = socket.create_connection(("127.0.0.1", self._port), timeout=HANG_SECONDS)
            connection.sendall(BEGINNINGS[kind])
            self._selector.register(connection, selectors.EVENT_READ, kind)

    def let_go(self) -> list[int]:
        """Close those that the other side has closed or answered; return how each of them began."""
        return [self._leave(key) for key, _ in self._selector.select(0)]

    def close(self) -> None:
        """Close all."""
        for key in list(self._selector.get_map().values()):
            self._leave(key)
        self._selector.close()

    def _leave(self, key: selectors.SelectorKey) -> int:
        assert isinstance(key.fileobj, socket.socket)
        self._selector.unregister(key.fileobj)
        key.fileobj.close()
        return int(key.data)


def test_two_thousand_slow_connections_do_not_hold_up_honest_callers(shared: Exporter) -> None:
    """Callbacks are answered while all the slow callers are held, few of whom have to go meanwhile.

    When their time is over some are let go; a callback that has to wait for that has to every time, however
    many they are. So a smaller crowd serves where the machine needs longer to let go and take so many.
    """
    size = SLOW
    worker, before = shared.worker, shared.scrape()
    beside_all = tried = 0
    with closing(Crowd(shared.ports["callbacks"])) as crowd:
        while beside_all < BESIDE_ALL:
            crowd.let_go()
            crowd.gather(size)
            assert shared.post(BODY)[0] == 200
            if len(crowd.let_go()) < size / 10:
                beside_all += 1
            else:
                size = max(SLOW_AT_LEAST, size // 2)
            tried += 1
            assert tried < TRIED, "callers wait until slow ones are let go"
    added = shared.scrape().value("callbacks_total", event="TaskStart")
    assert added - before.value("callbacks_total", event="TaskStart") == tried
    assert shared.worker == worker


def test_when_all_connections_are_taken_operators_still_get_in(tmp_path: Path) -> None:
    """With 256 open files, and 400 slow callers: scrapes and the store go on, and callbacks soon do again.

    Nobody needs to do anything: however a caller is slow, it is let go after its time.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    exporter = Exporter(tmp_path, preexec=limit)
    with ExitStack() as ended:
        ended.callback(exporter.kill)
        exporter.start()
        assert exporter.post(BODY)[0] == 200
        worker = exporter.worker
        crowd = ended.enter_context(closing(Crowd(exporter.ports["callbacks"])))
        crowd.gather(400)
        for _ in range(5):
            scrape = exporter.scrape()
            assert scrape.value("exporter_store_up") == 1
            assert scrape.value("tasks_started_total") == 1
        exporter.until_ready()
        open_files = exporter.scrape().samples[("process_open_fds", frozenset())]
        assert open_files < 256
        until(lambda: status_of(exporter, "after") == "200", "callbacks again")
        let_go = Counter[int]()
        until(lambda: let_go.update(crowd.let_go()) or len(let_go) == len(BEGINNINGS), "all kinds are let go")
        assert exporter.worker == worker


def test_when_memory_runs_out_nothing_answered_is_lost(tmp_path: Path) -> None:
    """Callers see closed connections, and try again; a new worker is there by itself, and takes them.

    The first worker is given a little more than it has, by the address space that it takes at that moment.
    """
    allow_open_files()
    half = b"POST /callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: 65000\r\n\r\n" + b" " * 64000
    held: list[socket.socket] = []
    answers: Counter[str] = Counter()
    with running(tmp_path) as exporter, closing_all(held):
        answers[status_of(exporter, "before")] += 1
        exporter.scrape()
        first = exporter.worker
        limit = taken_bytes(first) + SPARE_BYTES
        resource.prlimit(first, resource.RLIMIT_AS, (limit, limit))
        for number in range(10_000):
            if number % 20 == 0:
                answers[status_of(exporter, f"{number}")] += 1
                if exporter.worker != first:
                    break
            with suppress(OSError):  # nobody takes connections for a moment when the worker is gone
                address = ("127.0.0.1", exporter.ports["callbacks"])
                held.append(socket.create_connection(address, timeout=HANG_SECONDS))
                held[-1].setblocking(False)
                held[-1].send(half)
        assert exporter.worker != first, "the memory did not run out"
        until(lambda: status_of(exporter, "after") == "200", "callbacks again")
        assert set(answers) <= {"200", "503", "closed"}, answers
        counted = exporter.scrape().value("tasks_started_total")
        assert answers["200"] <= counted - 1 <= answers["200"] + answers["closed"]


def taken_bytes(process: int) -> int:
    """Return how much address space a process takes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


@contextmanager
def closing_all(connections: list[socket.socket]) -> Iterator[None]:
    """Close, in the end, what has come into a list."""
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


def status_of(exporter: Exporter, task: str) -> str:
    """Return the status of a callback of a task of its own, `closed` if there was no answer."""
    try:
        return str(exporter.post(BODY.replace(b"900001", task.encode()))[0])
    except (OSError, HTTPException):
        return "closed"


def test_a_storm_of_scrapes_does_not_hold_up_callbacks(shared: Exporter) -> None:
    """Those that wait share the next rendering, so that many cost little more than one; all are answered."""
    before = shared.scrape()
    for _ in range(STORMS):
        with ExitStack() as ended:
            os.kill(shared.worker, signal.SIGSTOP)  # so that all of them are there at the same time
            scrapers = [sent(ended, shared.ports["web"], "GET", "/metrics") for _ in range(SCRAPERS)]
            callers = [sent(ended, shared.ports["callbacks"], "POST", "/callbacks", BODY) for _ in range(5)]
            os.kill(shared.worker, signal.SIGCONT)
            for answer in (connection.getresponse() for connection in callers):
                assert (answer.status, answer.read()) == (200, b'{"code":0}')
            for answer in (connection.getresponse() for connection in scrapers):
                assert (answer.status, answer.read()[-1:]) == (200, b"\n")
    after = shared.scrape()
    renders = [scrape.value("exporter_render_seconds_count") for scrape in (before, after)]
    # Two for each storm, and more only as far as its requests come one after the other.
    assert renders[1] - renders[0] < STORMS * SCRAPERS / 2
    taken = [scrape.value("callbacks_total", event="TaskStart") for scrape in (before, after)]
    assert taken[1] - taken[0] == STORMS * 5


def sent(ended: ExitStack, port: int, method: str, path: str, body: bytes | None = None) -> HTTPConnection:
    """Send a request on a connection of its own; return the connection, which the stack closes."""
    connection = HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
    ended.callback(connection.close)
    connection.request(method, path, body)
    return connection
