"""Whatever is sent: each request gets the answer that the contract names, and is counted as that."""

import json
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec import Struct

from exporter.errors import REASONS
from tests.http import corpus
from tests.http.corpus import GOOD, chunked, post
from tests.http.hostile import CHUNK, MARK, SLOW, Case, Slow, cases, of
from tests.support import Exporter, running, until

CASES = cases()
PAUSE_SECONDS = 0.1
RESETS = 20


class Answer(Struct, frozen=True):
    """One answer of those that came over a connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Target(Struct):
    """The exporter that all of this is sent to, and the process id of its worker at the start."""

    exporter: Exporter
    worker: int

    def counts(self) -> Counter[str]:
        """Return how many callbacks were taken, and how many were refused for each reason."""
        text = self.exporter.get("/metrics")[2].decode()
        refused = re.findall(
            r'^css_relay_callbacks_rejected_total\{reason="(\w+)"\} (\S+)', text, re.MULTILINE
        )
        found = re.findall(r"^css_relay_callbacks_total\{.*\} (\S+)", text, re.MULTILINE)
        assert {reason for reason, _ in refused} == set(REASONS)
        return Counter({reason: _whole(count) for reason, count in refused} | {"": sum(map(_whole, found))})

    def connect(self, seconds: float) -> socket.socket:
        """Return a connection to the callback listener."""
        return socket.create_connection(("127.0.0.1", self.exporter.ports["callbacks"]), timeout=seconds)

    def send(self, *parts: bytes) -> bytes:
        """Send the parts one after the other; return what comes back until the connection is closed."""
        with self.connect(8.0) as connection:
            for number, part in enumerate(parts):
                time.sleep(PAUSE_SECONDS if number else 0)
                connection.sendall(part)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def trickle(self, slow: Slow) -> tuple[bytes, float]:
        """Send the parts a second apart; return what comes back, and how long the last of it took."""
        begun, received, last = time.monotonic(), b"", 0.0
        parts = iter(slow.parts)
        with self.connect(1.0) as connection:
            while time.monotonic() - begun < slow.after + 2.5:
                connection.sendall(next(parts, b""))
                next_part = time.monotonic() + 1.0
                try:
                    chunk = connection.recv(65536)
                except TimeoutError:
                    continue
                if not chunk:
                    break
                received, last = received + chunk, time.monotonic() - begun
                time.sleep(max(0.0, next_part - time.monotonic()) if b"HTTP/1.1 100" in chunk else 0.0)
        return received, last


def _whole(text: str) -> int:
    return int(float(text))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One exporter for everything."""
    with running(tmp_path_factory.mktemp("hostile")) as exporter:
        yield Target(exporter, exporter.worker)


@pytest.fixture(scope="module")
def slow_answers(target: Target) -> dict[str, tuple[bytes, float]]:
    """Everything slow, sent at the same time; meanwhile others are answered, and all of it is counted."""
    before = target.counts()
    with ThreadPoolExecutor(len(SLOW)) as pool:
        answers = {slow.name: pool.submit(target.trickle, slow) for slow in SLOW}
        waits = []
        for _ in range(20):
            begun = time.monotonic()
            assert target.exporter.post(GOOD)[0] == 200
            waits.append(time.monotonic() - begun)
    assert max(waits) < 2.0
    expected = Counter({"": 21, "length": 7, "token": 1, "method": 1, "encoding": 1, "too_large": 1})
    assert target.counts() - before == expected
    return {name: answer.result() for name, answer in answers.items()}


def answers_in(received: bytes, *, has_bodies: bool = True) -> list[Answer]:
    """Return every answer in what came over a connection, which must end with the last one."""
    found = []
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        assert end, head
        assert line.startswith(("HTTP/1.1 ", "HTTP/1.0 ")), line
        headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in lines)}
        length = int(headers.get("content-length", 0)) if has_bodies else 0
        assert len(received) >= length, received
        found.append(Answer(int(line.split(" ")[1]), headers, received[:length]))
        received = received[length:]
    return found


def check_refusal(answer: Answer, reason: str) -> list[str]:
    """Hold a refusal to the contract's form, and return the pointers of its faults."""
    said = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/json"
    assert said.keys() == {"code", "reason", "errors"}
    assert (said["code"], said["reason"]) == (answer.status, reason)
    assert said["errors"]
    for fault in said["errors"]:
        assert fault.keys() == {"pointer", "message"}
        assert fault["message"]
        assert fault["pointer"] == "" or fault["pointer"].startswith("/")
    assert (answer.headers.get("allow") == "POST") == (answer.status == 405)
    return [fault["pointer"] for fault in said["errors"]]


def test_the_corpus_is_large_and_adds_to_the_other_one() -> None:
    """No two cases have one name; what is sent at once is not what a case of the other corpus settles."""
    assert len(CASES) >= 220
    assert len({case.name for case in CASES}) == len(CASES)
    settled = {case.data for case in corpus.cases() if case.status is not None}
    assert [case.name for case in CASES if len(case.parts) == 1 and case.parts[0] in settled] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_request_gets_its_answer_and_is_counted_as_that(target: Target, case: Case) -> None:
    """Every answer is the expected one, none is a 5xx or repeats what was sent, and the counters agree."""
    before = target.counts()
    received = target.send(*case.parts)
    assert MARK.encode() not in received
    answers = answers_in(received, has_bodies=not case.parts[0].startswith(b"HEAD "))
    assert not [answer for answer in answers if answer.status >= 500], received
    assert tuple(answer.status for answer in answers) == case.statuses, received
    for answer, reason in zip(answers, case.reasons, strict=True):
        if reason and answer.body:
            pointers = check_refusal(answer, reason)
            assert not case.pointer or case.pointer in pointers
        elif answer.status == 200:
            assert answer.body == b'{"code":0}'
    expected = Counter(reason for reason in (*case.reasons, case.unsaid) if reason)
    if case.statuses.count(200):
        expected[""] = case.statuses.count(200)
    assert target.counts() - before == expected


@pytest.mark.parametrize("slow", SLOW, ids=lambda slow: slow.name)
def test_a_slow_body_is_given_up_after_its_time_and_not_before(
    slow_answers: dict[str, tuple[bytes, float]], slow: Slow
) -> None:
    """A body has ten seconds; who is refused by the headers is told at once."""
    received, seconds = slow_answers[slow.name]
    assert tuple(answer.status for answer in answers_in(received)) == slow.statuses
    assert slow.after <= seconds <= slow.after + 2.5


CUT_OFF = {
    "with a length": post(GOOD)[:-20],
    "in the middle of a chunk": chunked(end=CHUNK[:200]),
    "after whole JSON, before the last chunk": chunked(end=CHUNK),
}


@pytest.mark.parametrize("data", CUT_OFF.values(), ids=CUT_OFF)
def test_a_body_that_is_cut_off_is_counted_as_that(target: Target, data: bytes) -> None:
    """A sender that goes away in the middle of a body has sent no callback: reason length, nothing taken."""
    before = target.counts()
    for _ in range(RESETS):
        with target.connect(5.0) as connection:
            connection.sendall(data)
            time.sleep(0.02)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: (target.counts() - before).total() >= RESETS, "every connection is noticed")
    assert target.counts() - before == Counter({"length": RESETS})


def test_a_sender_that_closes_its_own_side_is_counted_though_it_hears_nothing(target: Target) -> None:
    """gunicorn closes a connection whose sender says that no more comes; it sends again, as a redelivery."""
    before = target.counts()
    with target.connect(5.0) as connection:
        connection.sendall(post(GOOD))
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert all(answer.status == 200 for answer in answers_in(received))
    until(lambda: target.counts() - before == Counter({"": 1}), "it is counted", 5)


@pytest.mark.parametrize("number", [771001, 771002.0], ids=["771001", "771002.0"])
def test_a_task_id_that_is_a_whole_number_names_its_task(target: Target, number: float) -> None:
    """JSON knows no difference between 7 and 7.0: what is taken as a task's id is that task's id."""
    assert target.exporter.post(post_body(of(task_id=number)))[0] == 200
    assert target.exporter.scrape().has("task_info", task_id=str(int(number)))


@pytest.mark.parametrize("number", [-101, -102.0, "-103"], ids=repr)
def test_an_exit_code_has_one_form(target: Target, number: float | str) -> None:
    """-22, "-22" and -22.0 are the same code."""
    task = f"exit {number!r}"
    assert target.exporter.post(post_body(of(task_id=task)))[0] == 200
    changes = {"event_time": "1795500700", "msg": {"code": number, "task_exit_time": 1795500700456}}
    assert target.exporter.post(post_body(of("TaskExit", task_id=task, **changes)))[0] == 200
    code = str(int(number))
    assert target.exporter.scrape().value("tasks_exited_total", code=code) == 1


def post_body(data: bytes) -> bytes:
    """Return the body of a request."""
    return data.partition(b"\r\n\r\n")[2]


def test_after_all_of_it_the_exporter_works_as_before(target: Target) -> None:
    """The same worker, every page, and nothing of what was refused in the log."""
    exporter = target.exporter
    assert exporter.worker == target.worker
    assert exporter.post(GOOD)[0] == 200
    pages = ("/", "/metrics", "/-/healthy", "/-/ready", "/api/v1/tasks")
    assert {page: exporter.get(page)[0] for page in pages} == dict.fromkeys(pages, 200)
    accept = "application/openmetrics-text; version=1.0.0"
    assert exporter.get("/metrics", Accept=accept)[2].endswith(b"# EOF\n")
    assert MARK not in exporter.log
