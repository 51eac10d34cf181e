"""Attacks on the listeners: slow connections, exhausted memory, many scrapes. Other callers are served."""

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
#: The number of slow connections at first, and the smallest number on a slow machine.
SLOW, SLOW_AT_LEAST = 2000, 100
#: Callbacks to be answered while nearly all slow connections are open, and the maximum number of tries.
ANSWERED, MAX_TRIES = 50, 1000
SCRAPERS, STORMS = 150, 3
#: How much more memory the worker may allocate.
SPARE_BYTES = 2**23
BEGINNINGS = (
    b"",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{",
    b"POST /callbacks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Yield an exporter for attacks that it must survive; the tests compare counters before and after."""
    allow_open_files()
    with running(tmp_path_factory.mktemp("exporter")) as exporter:
        yield exporter


def allow_open_files() -> None:
    """Raise the limit of open files of this process and its children to the maximum."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class SlowConnections:
    """A number of slow connections that send an incomplete request or nothing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()

    def resize(self, size: int) -> None:
        """Open or close connections until there are `size` of them."""
        for key in list(self._selector.get_map().values())[size:]:
            self._remove(key)
        for number in range(size - len(self._selector.get_map())):
            kind = number % len(BEGINNINGS)
            connection = socket.create_connection(("127.0.0.1", self._port), timeout=HANG_SECONDS)
            connection.sendall(BEGINNINGS[kind])
            self._selector.register(connection, selectors.EVENT_READ, kind)

    def remove_closed(self) -> list[int]:
        """Remove the connections that the server has closed or answered; return the kind of each one."""
        return [self._remove(key) for key, _ in self._selector.select(0)]

    def close(self) -> None:
        """Close all connections."""
        for key in list(self._selector.get_map().values()):
            self._remove(key)
        self._selector.close()

    def _remove(self, key: selectors.SelectorKey) -> int:
        assert isinstance(key.fileobj, socket.socket)
        self._selector.unregister(key.fileobj)
        key.fileobj.close()
        return int(key.data)


def test_two_thousand_slow_connections_do_not_hold_up_honest_callers(shared: Exporter) -> None:
    """Callbacks are answered while at least 90 % of the slow connections stay open.

    The server closes slow connections after their time limit. If callbacks had to wait for that, they would
    have to with any number of connections. So the test uses fewer connections if the machine is slow.
    """
    size = SLOW
    worker, before = shared.worker, shared.scrape()
    answered = tries = 0
    with closing(SlowConnections(shared.ports["callbacks"])) as slow_connections:
        while answered < ANSWERED:
            slow_connections.remove_closed()
            slow_connections.resize(size)
            assert shared.post(BODY)[0] == 200
            if len(slow_connections.remove_closed()) < size / 10:
                answered += 1
            else:
                size = max(SLOW_AT_LEAST, size // 2)
            tries += 1
            assert tries < MAX_TRIES, "callbacks wait until slow connections are closed"
    added = shared.scrape().value("callbacks_total", event="TaskStart")
    assert added - before.value("callbacks_total", event="TaskStart") == tries
    assert shared.worker == worker


def test_the_web_listener_answers_when_callbacks_use_all_open_files(tmp_path: Path) -> None:
    """With 256 open files and 400 slow connections, scrapes and the store go on.

    Callbacks are accepted again when slow connections of every kind reach their time limit.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    exporter = Exporter(tmp_path, preexec=limit)
    with ExitStack() as ended:
        ended.callback(exporter.kill)
        exporter.start()
        assert exporter.post(BODY)[0] == 200
        worker = exporter.worker
        slow_connections = ended.enter_context(closing(SlowConnections(exporter.ports["callbacks"])))
        slow_connections.resize(400)
        for _ in range(5):
            scrape = exporter.scrape()
            assert scrape.value("exporter_store_up") == 1
            assert scrape.value("tasks_started_total") == 1
        exporter.until_ready()
        open_files = exporter.scrape().samples[("process_open_fds", frozenset())]
        assert open_files < 256
        until(lambda: status_of(exporter, "after") == "200", "callbacks are accepted again")
        closed_kinds = Counter[int]()
        until(
            lambda: (
                closed_kinds.update(slow_connections.remove_closed()) or len(closed_kinds) == len(BEGINNINGS)
            ),
            "connections of all kinds are closed",
        )
        assert exporter.worker == worker


def test_when_memory_runs_out_nothing_answered_is_lost(tmp_path: Path) -> None:
    """Callers get closed connections and retry; the master starts a new worker, which accepts callbacks.

    The limit of the first worker is its current address space plus SPARE_BYTES.
    """
    allow_open_files()
    half = b"POST /callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: 65000\r\n\r\n" + b" " * 64000
    connections: list[socket.socket] = []
    answers: Counter[str] = Counter()
    with running(tmp_path) as exporter, closing_all(connections):
        answers[status_of(exporter, "before")] += 1
        exporter.scrape()
        first = exporter.worker
        limit = address_space_bytes(first) + SPARE_BYTES
        resource.prlimit(first, resource.RLIMIT_AS, (limit, limit))
        for number in range(10_000):
            if number % 20 == 0:
                answers[status_of(exporter, f"{number}")] += 1
                if exporter.worker != first:
                    break
            with suppress(OSError):  # no connections are accepted between two workers
                address = ("127.0.0.1", exporter.ports["callbacks"])
                connections.append(socket.create_connection(address, timeout=HANG_SECONDS))
                connections[-1].setblocking(False)
                connections[-1].send(half)
        assert exporter.worker != first, "the memory did not run out"
        until(lambda: status_of(exporter, "after") == "200", "callbacks are accepted again")
        assert set(answers) <= {"200", "503", "closed"}, answers
        counted = exporter.scrape().value("tasks_started_total")
        assert answers["200"] <= counted - 1 <= answers["200"] + answers["closed"]


def address_space_bytes(process: int) -> int:
    """Return the size of the address space of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


@contextmanager
def closing_all(connections: list[socket.socket]) -> Iterator[None]:
    """Close all connections of a list at the end of the block."""
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


def status_of(exporter: Exporter, task: str) -> str:
    """Send the start of a task; return the status of the answer, or `closed` if there was none."""
    try:
        return str(exporter.post(BODY.replace(b"900001", task.encode()))[0])
    except (OSError, HTTPException):
        return "closed"


def test_a_storm_of_scrapes_does_not_hold_up_callbacks(shared: Exporter) -> None:
    """Waiting scrapes share one rendering, so many cost little more than one; all are answered."""
    before = shared.scrape()
    for _ in range(STORMS):
        with ExitStack() as ended:
            os.kill(shared.worker, signal.SIGSTOP)  # so that all requests arrive at the same time
            scrapers = [sent(ended, shared.ports["web"], "GET", "/metrics") for _ in range(SCRAPERS)]
            callers = [sent(ended, shared.ports["callbacks"], "POST", "/callbacks", BODY) for _ in range(5)]
            os.kill(shared.worker, signal.SIGCONT)
            for answer in (connection.getresponse() for connection in callers):
                assert (answer.status, answer.read()) == (200, b'{"code":0}')
            for answer in (connection.getresponse() for connection in scrapers):
                assert (answer.status, answer.read()[-1:]) == (200, b"\n")
    after = shared.scrape()
    renders = [scrape.value("exporter_render_seconds_count") for scrape in (before, after)]
    # Ideally two for each storm; more if the requests of a storm are not read at the same time.
    assert renders[1] - renders[0] < STORMS * SCRAPERS / 2
    accepted = [scrape.value("callbacks_total", event="TaskStart") for scrape in (before, after)]
    assert accepted[1] - accepted[0] == STORMS * 5


def sent(ended: ExitStack, port: int, method: str, path: str, body: bytes | None = None) -> HTTPConnection:
    """Send a request on a new connection; return the connection, which the stack closes."""
    connection = HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
    ended.callback(connection.close)
    connection.request(method, path, body)
    return connection
