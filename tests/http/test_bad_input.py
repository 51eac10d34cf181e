"""Whatever is sent: each request gets the answer that the contract names, and is counted as that."""

import json
import re
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress

import pytest
from msgspec import Struct, field

from exporter.errors import REASONS
from tests.http.corpus import (
    CUT_OFF,
    FAMILIES,
    GOOD,
    MARK,
    SAID_ALL,
    SLOW,
    TOLD_AT_ONCE,
    Case,
    Slow,
    body_of,
    cases,
)
from tests.support import HANG_SECONDS, Exporter, until, until_read

RESETS = 10
#: Within this time no connection is closed as idle.
IDLE_SECONDS = 8.0


class Answer(Struct, frozen=True):
    """One answer of those that came over a connection; of its headers all but what differs each time."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def status(self) -> int:
        """Its status."""
        return int(self.line.split(" ")[1])


class Target(Struct):
    """The exporter that all of this is sent to."""

    exporter: Exporter

    def counts(self) -> Counter[str]:
        """Return how many callbacks were taken and were refused for each reason, and answers by status."""
        text = self.exporter.get("/metrics")[2].decode()
        refused, answered = (
            {label: int(float(count)) for label, count in re.findall(pattern, text, re.MULTILINE)}
            for pattern in (
                r'^css_relay_callbacks_rejected_total\{reason="(\w+)"\} (\S+)',
                r'^css_relay_exporter_request_seconds_count\{status="(\w+)"\} (\S+)',
            )
        )
        assert refused.keys() == set(REASONS)
        taken = re.findall(r"^css_relay_callbacks_total\{.*\} (\S+)", text, re.MULTILINE)
        return Counter(refused | answered | {"taken": sum(map(int, map(float, taken)))})

    def connect(self) -> socket.socket:
        """Return a connection to the callback listener."""
        address = "127.0.0.1", self.exporter.ports["callbacks"]
        return socket.create_connection(address, timeout=HANG_SECONDS)

    def grown(self, before: Counter[str], expected: Counter[str]) -> Counter[str]:
        """Return by how much the counts have grown; what is still under way has some turns to be counted."""
        for _ in range(20):
            grown = self.counts() - before
            if grown == expected:
                break
        return grown


@pytest.fixture
def target(anyone: Exporter) -> Iterator[Target]:
    """An exporter, which in the end has logged nothing of what was refused."""
    yield Target(anyone)
    assert MARK not in anyone.log


def answers_in(received: bytes, *, have_bodies: bool = True) -> list[Answer]:
    """Return every answer in what came over a connection, which must end with the last one."""
    found = []
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        assert end, head
        assert line.startswith(("HTTP/1.1 ", "HTTP/1.0 ")), line
        headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in lines)}
        assert len(headers) == len(lines), lines
        headers.pop("date", None)
        length = int(headers.get("content-length", 0)) if have_bodies else 0
        assert len(received) >= length, received
        found.append(Answer(line, headers, received[:length]))
        received = received[length:]
    return found


def check_refusal(answer: Answer, reason: str, pointer: str) -> None:
    """Hold a refusal to the contract's form."""
    assert (answer.headers.get("allow") == "POST") == (answer.status == 405)
    assert answer.headers["content-type"] == "application/json"
    if not answer.body:  # of HEAD
        return
    said = json.loads(answer.body)
    assert said.keys() == {"code", "reason", "errors"}
    assert (said["code"], said["reason"]) == (answer.status, reason)
    assert said["errors"]
    for fault in said["errors"]:
        assert fault.keys() == {"pointer", "message"}
        assert fault["message"]
        assert fault["pointer"] == "" or fault["pointer"].startswith("/")
    places = [fault["pointer"] for fault in said["errors"]]
    assert any(f"{place}/".startswith(f"{pointer}/") for place in places), (places, pointer)


def check(case: Case, received: bytes) -> None:
    """Hold what came back to what the case names: no 5xx, nothing of what was sent, every answer."""
    assert MARK.encode() not in received
    answers = answers_in(received, have_bodies=not case.parts[0].startswith(b"HEAD "))
    assert tuple(answer.status for answer in answers) == case.statuses, received
    assert max(case.statuses) < 500
    for place, (answer, reason) in enumerate(zip(answers, case.reasons, strict=True)):
        if reason:
            check_refusal(answer, reason, "" if place else case.pointer)
        elif answer.status == 200:
            assert answer.body == b'{"code":0}'


def send(target: Target, case: Case) -> Counter[str]:
    """Send a case, hold the answers to what it names, and return what must count."""
    check(case, target.exporter.raw(*case.parts))
    expected: Counter[str] = Counter()
    for status, reason in zip(case.statuses, case.reasons, strict=True):
        if reason or status == 200:
            expected.update((reason or "taken", str(status)))
    return expected


def test_no_case_hides_another() -> None:
    """Each case of the corpus has a name of its own and sends something of its own; there are hundreds."""
    every = cases()
    assert len(every) >= 800
    assert len({case.name for case in every}) == len({case.parts for case in every}) == len(every)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_request_gets_its_answer_and_is_counted_as_that(target: Target, family: str) -> None:
    """Each case gets exactly the answers it names, and the counters grow by just those."""
    faults, expected, before = {}, Counter[str](), target.counts()
    for case in FAMILIES[family]():
        try:
            expected += send(target, case)
        except AssertionError as exc:
            faults[case.name] = str(exc)
    if not faults and target.grown(before, expected) != expected:
        faults |= dict(miscounted(target, family))
        assert faults, "the counters are wrong, though each case alone is counted well"
    assert faults == {}


def miscounted(target: Target, family: str) -> Iterator[tuple[str, str]]:
    """Yield the cases of a family that are counted otherwise than they name, one by one, and how."""
    for case in FAMILIES[family]():
        before = target.counts()
        expected = send(target, case)
        grown = target.grown(before, expected)
        if grown != expected:
            yield case.name, f"counted as {dict(grown)}, not {dict(expected)}"


class QuarantinedBody(Struct):
    """A connection over which something slow is sent.

    Args:
        slow: what it is.
        connection: where.
        begun: before its time limit was set (seconds on a clock that never goes back).
        received: what has come back.
        seconds: how long it was until the other side closed it; 0 while it is open.
    """

    slow: Slow
    connection: socket.socket
    begun: float
    received: bytes = b""
    seconds: float = field(default=0.0)

    def read(self) -> None:
        """Take what has come, and note when it is the end."""
        found = b""
        with suppress(ConnectionError):
            found = self.connection.recv(65536)
        self.received += found
        if not found:
            self.seconds = time.monotonic() - self.begun

    def go_on(self) -> None:
        """Send the next bit of what never ends."""
        with suppress(ConnectionError):
            self.connection.sendall(self.slow.then)


def begin(target: Target, slow: Slow) -> tuple[QuarantinedBody, int]:
    """Send what is sent at first; what follows a whole request comes when its answer is out and done with.

    Return how often that was sent, too: anew where the connection was closed as idle before more could come.
    """
    tries = 0
    while True:
        tries += 1
        begun = time.monotonic()
        held = QuarantinedBody(slow, target.connect(), begun)
        with suppress(ConnectionError):
            for number, part in enumerate(slow.parts):
                if number:
                    held.read()
                    assert target.exporter.get("/-/healthy")[0] == 200
                    held.begun = time.monotonic()
                held.connection.sendall(part)
            if len(slow.parts) < 2 or time.monotonic() - begun < IDLE_SECONDS:
                break
        held.connection.close()
    return held, tries


def test_what_never_ends_is_given_up_after_its_time_and_hinders_nobody(target: Target) -> None:
    """A slow body, headers, a next request have their seconds and no more; others don't wait for them."""
    before = target.counts()
    with ExitStack() as stack:
        held, tries = {}, {}
        for name, slow in SLOW.items():
            each, tries[name] = begin(target, slow)
            held[name] = each
            stack.enter_context(each.connection)
            until_read(each.connection)
            assert target.exporter.post(GOOD)[0] == 200
            read_from([each], 0.0)
            is_early = time.monotonic() - each.begun < slow.seconds / 2
            assert not (is_early and each.seconds), f"others are answered before: {name}"
        for data, status, _ in TOLD_AT_ONCE.values():
            with target.connect() as connection:
                connection.sendall(data)
                assert connection.recv(12) == b"HTTP/1.1 %d" % status
        wait_for(list(held.values()))
    for name, each in held.items():
        assert tuple(answer.status for answer in answers_in(each.received)) == each.slow.statuses, name
        # An event loop that was late counts from a time that was earlier.
        assert each.seconds > each.slow.seconds / 2, name
    taken = len(SLOW) + sum(tries[name] for name, slow in SLOW.items() if 200 in slow.statuses)
    expected = Counter({"taken": taken, "200": taken})
    for slow in SLOW.values():
        expected.update((slow.reason, "408") if slow.reason else ())
    for _, status, reason in TOLD_AT_ONCE.values():
        expected.update((reason, str(status)))
    assert target.grown(before, expected) == expected


def wait_for(held: list[QuarantinedBody]) -> None:
    """Read until the other side has closed every connection; send more of what trickles now and then."""
    deadline = time.monotonic() + HANG_SECONDS
    while waiting := [each for each in held if not each.seconds]:
        assert time.monotonic() < deadline, [each.slow for each in waiting]
        read_from(waiting, 0.5)
        for each in waiting:
            if each.slow.then and not each.seconds:
                each.go_on()


def read_from(held: list[QuarantinedBody], seconds: float) -> None:
    """Read until nothing more comes within so many seconds, or they are all closed."""
    while waiting := {each.connection: each for each in held if not each.seconds}:
        readable, _, _ = select.select(list(waiting), [], [], seconds)
        for connection in readable:
            waiting[connection].read()
        if not readable:
            return


@pytest.mark.parametrize("data", CUT_OFF.values(), ids=CUT_OFF)
def test_a_body_that_is_cut_off_is_counted_as_that(target: Target, data: bytes) -> None:
    """A sender that goes away in the middle of a body has sent no callback: reason length, nothing taken."""
    before = target.counts()
    for _ in range(RESETS):
        with target.connect() as connection:
            connection.sendall(data)
            until_read(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: (target.counts() - before)["length"] >= RESETS, "every connection is noticed")
    assert target.counts() - before == Counter({"length": RESETS, "408": RESETS})


@pytest.mark.parametrize(("data", "statuses"), SAID_ALL.values(), ids=SAID_ALL)
def test_a_sender_that_closes_its_own_side_gets_its_answers(
    target: Target, data: bytes, statuses: tuple[int, ...]
) -> None:
    """It has said all, and may well say so; what was taken of it is counted."""
    before = target.counts()
    with target.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert tuple(answer.status for answer in answers_in(received)) == statuses
    taken = Counter(statuses)[200]
    assert target.grown(before, Counter(taken=taken))["taken"] == taken


def test_what_is_refused_for_its_content_is_kept_once_for_each_distinct_body(target: Target) -> None:
    """Whether it is no JSON or of no schema; the same again is not kept again."""
    names = ("quarantined_callbacks", "quarantined_bodies_total", "quarantine_evicted_total")
    bodies = [b'{"kept":%d' % number for number in range(3)] + [
        b'{"kept":%d}' % number for number in range(3)
    ]
    before = target.exporter.scrape()
    for body in bodies * 2:
        assert target.exporter.post(body)[0] == 400
    after = target.exporter.scrape()
    grown = [after.value(name) - before.value(name) for name in names]
    assert grown == [6 - grown[2], 6, grown[2]]


@pytest.mark.parametrize("number", [771001, 771002.0], ids=["771001", "771002.0"])
def test_a_task_id_that_is_a_whole_number_names_its_task(target: Target, number: float) -> None:
    """JSON knows no difference between 7 and 7.0: what is taken as a task's id is that task's id."""
    assert target.exporter.post(body_of(task_id=number))[0] == 200
    assert target.exporter.scrape().has("task_info", task_id=str(int(number)))


@pytest.mark.parametrize("number", [-101, -102.0, "-103"], ids=repr)
def test_an_exit_code_has_one_form(target: Target, number: float | str) -> None:
    """-22, "-22" and -22.0 are the same code."""
    task = f"exit {number!r}"
    assert target.exporter.post(body_of(task_id=task))[0] == 200
    changes = {"event_time": "1795500700", "msg": {"code": number, "task_exit_time": 1795500700456}}
    assert target.exporter.post(body_of("TaskExit", task_id=task, **changes))[0] == 200
    code = str(int(number))
    assert target.exporter.scrape().value("tasks_exited_total", code=code) == 1
