"""The short way in and the framework's way answer alike, and count alike."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.corpus import GOOD, Case, body, cases, post
from tests.support import Exporter, running

#: It changes nothing but that the framework deals with the request.
THE_LONG_WAY = "Content-Encoding: identity"

NOT_COMPARED = ("Date",)

FORWARDED = {
    "by a proxy": "X-Forwarded-For: 192.0.2.7",
    "by several": "X-Forwarded-For: 192.0.2.7, 198.51.100.1",
    "by nobody": "X-Forwarded-For: ",
    "by what is no address": "X-Forwarded-For: \xe9\xff",
}


def the_long_way(data: bytes) -> bytes:
    """Return a request with a header more."""
    line, _, rest = data.partition(b"\r\n")
    return b"%s\r\n%s\r\n%s" % (line, THE_LONG_WAY.encode(), rest)


def told(answer: bytes) -> tuple[str, Counter[str], bytes]:
    """Return status line, headers and body of an answer, without what differs from one to the next."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    line, *headers = head.decode("latin-1").split("\r\n")
    kept = Counter(h.lower() for h in headers if not h.startswith(NOT_COMPARED))
    return line, kept, rest


POSTS = [
    case
    for case in cases()
    if case.data.startswith(b"POST ") and case.status is not None and b"Content-Encoding" not in case.data
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """One exporter for all of it, which believes a proxy on this machine."""
    with running(
        tmp_path_factory.mktemp("express"),
        callback__trusted_proxies="127.0.0.0/8",
        callback__allow_from="127.0.0.0/8,192.0.2.0/24",
    ) as exporter:
        yield exporter


@pytest.mark.parametrize("case", POSTS, ids=lambda case: case.name)
def test_both_ways_answer_alike(target: Exporter, case: Case) -> None:
    """To the header, for everything that is posted."""
    answers = [target.raw(data, seconds=3.0) for data in (case.data, the_long_way(case.data))]
    assert told(answers[0]) == told(answers[1])


@pytest.mark.parametrize("header", FORWARDED.values(), ids=FORWARDED)
def test_both_ways_know_the_same_source(target: Exporter, header: str) -> None:
    """One that may not send is refused either way; the header twice is one list."""
    for headers in ([header], [header, "X-Forwarded-For: 203.0.113.9"]):
        request = post(GOOD, "/callbacks", "POST", *headers)
        short, long = (told(target.raw(data)) for data in (request, the_long_way(request)))
        assert short == long
        assert (" 403 " in short[0]) == (len(headers) == 2 or "198.51.100.1" in header)


def test_both_ways_count_alike(tmp_path: Path) -> None:
    """Answers by status, refusals by reason, callbacks by outcome."""
    sent = [post(body(task_id=str(number))) for number in range(3)]
    sent += [post(b"{"), post(body(appid="x")), post(GOOD, "/nowhere"), post(GOOD, length=len(GOOD) + 1)]
    counts = []
    for way in (bytes, the_long_way):
        folder = tmp_path / way.__name__
        folder.mkdir()
        with running(folder) as exporter:
            for data in sent:
                exporter.raw(way(data), seconds=3.0)
            scrape = exporter.scrape()
            counts.append(
                {
                    key: value
                    for key, value in scrape.samples.items()
                    if key[0] in ("css_relay_callbacks_total", "css_relay_callbacks_rejected_total")
                    or key[0] == "css_relay_exporter_request_seconds_count"
                }
            )
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) == 3 + 4 + 7


BEHIND = [
    (post(body(task_id="queued")), b"200"),
    (post(b"{"), b"400"),
    (the_long_way(post(GOOD)), b"200"),
    (post(b"", "/nowhere", "GET", length=None), b"404"),
    (post(GOOD), b"200"),
]


@pytest.mark.parametrize("first", range(len(BEHIND)))
@pytest.mark.parametrize("cut", [None, 60, 450, 800])
def test_requests_behind_one_another_are_answered_in_their_order(
    target: Exporter, first: int, cut: int | None
) -> None:
    """Whichever way each of them goes, and wherever the bytes are cut in two."""
    requests = BEHIND[first:] + BEHIND[:first]
    goes_on = [data.replace(b"Connection: close\r\n", b"") for data, _ in requests[:-1]]
    sent = b"".join([*goes_on, requests[-1][0]])
    answer = target.raw(sent[:cut], *([sent[cut:]] if cut else []), seconds=3.0)
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answer)
    assert statuses == [status for _, status in requests]


def test_a_body_that_comes_later_is_answered_alike(target: Exporter) -> None:
    """It is not there when its headers are, so that it takes the other way."""
    for data in (post(GOOD), post(b"{"), post(body(appid="x"))):
        head, end, rest = data.partition(b"\r\n\r\n")
        assert told(target.raw(head + end, rest, seconds=3.0)) == told(target.raw(data, seconds=3.0))


def test_one_who_goes_on_after_a_refusal_is_understood(target: Exporter) -> None:
    """A refusal before the body is read leaves the connection in order, or closed."""
    keep = b"POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{}"
    answer = target.raw(keep + post(GOOD), seconds=3.0)
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.count(b"HTTP/1.1 ") == 1 or b"HTTP/1.1 200" in answer
