"""Bad requests: each one gets the answer that the contract names, and is counted once."""

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
    HALF_CLOSED,
    MARK,
    REJECTED_AT_ONCE,
    SLOW,
    Case,
    Slow,
    body_of,
    cases,
)
from tests.support import HANG_SECONDS, Exporter, until, until_read

RESETS = 10
#: A connection is not closed as idle before this time. The idle timeout of `anyone` is 10 s.
IDLE_SECONDS = 8.0


class Answer(Struct, frozen=True):
    """One answer received over a connection, with its headers except Date."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def status(self) -> int:
        """Return its status."""
        return int(self.line.split(" ")[1])


class Target(Struct):
    """The exporter that receives all requests."""

    exporter: Exporter

    def counts(self) -> Counter[str]:
        """Return the numbers of accepted callbacks, of rejected ones by reason, and of answers by status."""
        text = self.exporter.get("/metrics")[2].decode()
        rejected, answered = (
            {label: int(float(count)) for label, count in re.findall(pattern, text, re.MULTILINE)}
            for pattern in (
                r'^css_relay_callbacks_rejected_total\{reason="(\w+)"\} (\S+)',
                r'^css_relay_exporter_request_seconds_count\{status="(\w+)"\} (\S+)',
            )
        )
        assert rejected.keys() == set(REASONS)
        accepted = re.findall(r"^css_relay_callbacks_total\{.*\} (\S+)", text, re.MULTILINE)
        return Counter(rejected | answered | {"accepted": sum(map(int, map(float, accepted)))})

    def connect(self) -> socket.socket:
        """Return a connection to the callback listener."""
        address = "127.0.0.1", self.exporter.ports["callbacks"]
        return socket.create_connection(address, timeout=HANG_SECONDS)

    def grown(self, before: Counter[str], expected: Counter[str]) -> Counter[str]:
        """Return how much the counts have grown; retry, because requests are counted after their answers."""
        for _ in range(20):
            grown = self.counts() - before
            if grown == expected:
                break
        return grown


@pytest.fixture
def target(anyone: Exporter) -> Iterator[Target]:
    """Yield an exporter; check at the end that it logged no value of a rejected request."""
    yield Target(anyone)
    assert MARK not in anyone.log


def answers_in(received: bytes, *, have_bodies: bool = True) -> list[Answer]:
    """Return all answers in the received bytes; check that nothing follows the last one."""
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


def check_error_response(answer: Answer, reason: str, pointer: str) -> None:
    """Check that an error response has the form of the contract."""
    assert (answer.headers.get("allow") == "POST") == (answer.status == 405)
    assert answer.headers["content-type"] == "application/json"
    if not answer.body:  # an answer to HEAD has none
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
    """Compare the received answers with the case: all of them, no 5xx, and no value that was sent."""
    assert MARK.encode() not in received
    answers = answers_in(received, have_bodies=not case.parts[0].startswith(b"HEAD "))
    assert tuple(answer.status for answer in answers) == case.statuses, received
    assert max(case.statuses) < 500
    for place, (answer, reason) in enumerate(zip(answers, case.reasons, strict=True)):
        if reason:
            check_error_response(answer, reason, "" if place else case.pointer)
        elif answer.status == 200:
            assert answer.body == b'{"code":0}'


def send(target: Target, case: Case) -> Counter[str]:
    """Send a case, check its answers, and return the expected counts."""
    check(case, target.exporter.raw(*case.parts))
    expected: Counter[str] = Counter()
    for status, reason in zip(case.statuses, case.reasons, strict=True):
        if reason or status == 200:
            expected.update((reason or "accepted", str(status)))
    return expected


def test_every_case_is_distinct() -> None:
    """The corpus has at least 800 cases; no two have the same name or send the same bytes."""
    every = cases()
    assert len(every) >= 800
    assert len({case.name for case in every}) == len({case.parts for case in every}) == len(every)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_request_gets_the_expected_answer_and_count(target: Target, family: str) -> None:
    """Each case gets exactly its answers, and the counters grow by exactly these."""
    faults, expected, before = {}, Counter[str](), target.counts()
    for case in FAMILIES[family]():
        try:
            expected += send(target, case)
        except AssertionError as exc:
            faults[case.name] = str(exc)
    if not faults and target.grown(before, expected) != expected:
        faults |= dict(wrong_counts(target, family))
        assert faults, "the counters of the family are wrong, but those of each case alone are right"
    assert faults == {}


def wrong_counts(target: Target, family: str) -> Iterator[tuple[str, str]]:
    """Send the cases of a family one by one; yield the name and the counts of each one counted wrongly."""
    for case in FAMILIES[family]():
        before = target.counts()
        expected = send(target, case)
        grown = target.grown(before, expected)
        if grown != expected:
            yield case.name, f"counted as {dict(grown)}, not {dict(expected)}"


class SlowConnection(Struct):
    """A connection over which an unfinished request is sent.

    Args:
        slow: the request.
        connection: the connection.
        begun: a time before the server set its time limit, in seconds of the monotonic clock.
        received: the bytes received.
        seconds: the time until the server closed it; 0 while it is open.
    """

    slow: Slow
    connection: socket.socket
    begun: float
    received: bytes = b""
    seconds: float = field(default=0.0)

    def read(self) -> None:
        """Read the available bytes; record the time if the server has closed the connection."""
        found = b""
        with suppress(ConnectionError):
            found = self.connection.recv(65536)
        self.received += found
        if not found:
            self.seconds = time.monotonic() - self.begun

    def send_more(self) -> None:
        """Send the next bytes of the unfinished request."""
        with suppress(ConnectionError):
            self.connection.sendall(self.slow.then)


def start_slow(target: Target, slow: Slow) -> tuple[SlowConnection, int]:
    """Send the first parts; the part after a complete request is sent when that request is answered.

    Return the connection and the number of tries. On a slow machine the server may close the connection as
    idle before the next part is sent: then it is tried again.
    """
    tries = 0
    while True:
        tries += 1
        begun = time.monotonic()
        slow_connection = SlowConnection(slow, target.connect(), begun)
        with suppress(ConnectionError):
            for number, part in enumerate(slow.parts):
                if number:
                    slow_connection.read()
                    # One more request, so that the server has finished with the answer read above.
                    assert target.exporter.get("/-/healthy")[0] == 200
                    slow_connection.begun = time.monotonic()
                slow_connection.connection.sendall(part)
            if len(slow.parts) < 2 or time.monotonic() - begun < IDLE_SECONDS:
                break
        slow_connection.connection.close()
    return slow_connection, tries


def test_unfinished_requests_time_out_and_do_not_delay_others(target: Target) -> None:
    """A slow body, slow headers and a slow next request have a time limit; other callers do not wait."""
    before = target.counts()
    with ExitStack() as stack:
        slow_connections, tries = {}, {}
        for name, slow in SLOW.items():
            each, tries[name] = start_slow(target, slow)
            slow_connections[name] = each
            stack.enter_context(each.connection)
            until_read(each.connection)
            assert target.exporter.post(GOOD)[0] == 200
            read_from([each], 0.0)
            is_before_timeout = time.monotonic() - each.begun < slow.seconds / 2
            assert not (is_before_timeout and each.seconds), f"closed before its time limit: {name}"
        for data, status, _ in REJECTED_AT_ONCE.values():
            with target.connect() as connection:
                connection.sendall(data)
                assert connection.recv(12) == b"HTTP/1.1 %d" % status
        wait_for(list(slow_connections.values()))
    for name, each in slow_connections.items():
        assert tuple(answer.status for answer in answers_in(each.received)) == each.slow.statuses, name
        # Half the limit: a late event loop starts the limit from an earlier time.
        assert each.seconds > each.slow.seconds / 2, name
    accepted = len(SLOW) + sum(tries[name] for name, slow in SLOW.items() if 200 in slow.statuses)
    expected = Counter({"accepted": accepted, "200": accepted})
    for slow in SLOW.values():
        expected.update((slow.reason, "408") if slow.reason else ())
    for _, status, reason in REJECTED_AT_ONCE.values():
        expected.update((reason, str(status)))
    assert target.grown(before, expected) == expected


def wait_for(slow_connections: list[SlowConnection]) -> None:
    """Read until the server has closed every connection; send more of the slow requests meanwhile."""
    deadline = time.monotonic() + HANG_SECONDS
    while waiting := [each for each in slow_connections if not each.seconds]:
        assert time.monotonic() < deadline, [each.slow for each in waiting]
        read_from(waiting, 0.5)
        for each in waiting:
            if each.slow.then and not each.seconds:
                each.send_more()


def read_from(slow_connections: list[SlowConnection], seconds: float) -> None:
    """Read until all are closed, or nothing arrives for so many seconds."""
    while waiting := {each.connection: each for each in slow_connections if not each.seconds}:
        readable, _, _ = select.select(list(waiting), [], [], seconds)
        for connection in readable:
            waiting[connection].read()
        if not readable:
            return


@pytest.mark.parametrize("data", CUT_OFF.values(), ids=CUT_OFF)
def test_a_truncated_body_is_counted_as_length(target: Target, data: bytes) -> None:
    """A connection that is reset within a body is rejected with the reason length; nothing is accepted."""
    before = target.counts()
    for _ in range(RESETS):
        with target.connect() as connection:
            connection.sendall(data)
            until_read(connection)
            # Closing with a linger time of 0 resets the connection.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: (target.counts() - before)["length"] >= RESETS, "every reset is counted")
    assert target.counts() - before == Counter({"length": RESETS, "408": RESETS})


@pytest.mark.parametrize(("data", "statuses"), HALF_CLOSED.values(), ids=HALF_CLOSED)
def test_a_sender_that_half_closes_gets_its_answers(
    target: Target, data: bytes, statuses: tuple[int, ...]
) -> None:
    """It gets all answers, and its accepted callbacks are counted."""
    before = target.counts()
    with target.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert tuple(answer.status for answer in answers_in(received)) == statuses
    accepted = Counter(statuses)[200]
    assert target.grown(before, Counter(accepted=accepted))["accepted"] == accepted


def test_each_distinct_rejected_body_is_quarantined_once(target: Target) -> None:
    """Both malformed JSON and JSON that violates the schema; a repeated body is not quarantined again."""
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
def test_a_numeric_task_id_equals_its_integer_text(target: Target, number: float) -> None:
    """In JSON 7 and 7.0 are the same number, so both name the task "7"."""
    assert target.exporter.post(body_of(task_id=number))[0] == 200
    assert target.exporter.scrape().has("task_info", task_id=str(int(number)))


@pytest.mark.parametrize("number", [-101, -102.0, "-103"], ids=repr)
def test_equal_exit_codes_are_counted_as_one(target: Target, number: float | str) -> None:
    """-22, "-22" and -22.0 are the same code."""
    task = f"exit {number!r}"
    assert target.exporter.post(body_of(task_id=task))[0] == 200
    changes = {"event_time": "1795500700", "msg": {"code": number, "task_exit_time": 1795500700456}}
    assert target.exporter.post(body_of("TaskExit", task_id=task, **changes))[0] == 200
    code = str(int(number))
    assert target.exporter.scrape().value("tasks_exited_total", code=code) == 1
