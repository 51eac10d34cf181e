"""Bad input never gets a 5xx, never ends a worker, and is told what was expected."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.http.corpus import GOOD, Case, cases, chunked, post
from tests.support import Exporter, running

CASES = cases()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """One exporter for the whole corpus; at its end it has the same worker, and works."""
    with running(tmp_path_factory.mktemp("corpus")) as exporter:
        worker = exporter.worker
        yield exporter
        assert exporter.worker == worker
        assert exporter.post(GOOD)[0] == 200
        assert "Traceback" not in exporter.log


def statuses(answer: bytes) -> list[int]:
    """Return the status of every response in what came back."""
    return [
        int(status) for status in re.findall(rb"(?:^|[\n}>])HTTP/1\.[01] (\d{3})", answer) if status != b"100"
    ]


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    """A case that hides another would not be run."""
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(target: Exporter, case: Case) -> None:
    """The expected status, and never a 5xx."""
    answer = target.raw(case.data, seconds=3.0)
    found = statuses(answer)
    assert all(status < 500 for status in found), answer[:300]
    if case.status is None:
        assert not found or found[0] in range(400, 500) or found[0] == 200
        return
    assert found[:1] == [case.status], answer[:300]
    if case.reason:
        said = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert (said["code"], said["reason"]) == (case.status, case.reason)
        assert all(fault["message"] for fault in said["errors"])
        assert said["errors"]


def test_every_refusal_is_counted_by_its_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    """And what was refused for its content is kept, once for each distinct body."""
    mine = [case for case in CASES if case.reason]
    with running(tmp_path_factory.mktemp("counted")) as exporter:
        for case in mine:
            exporter.raw(case.data, seconds=3.0)
        scrape = exporter.scrape()
        expected = Counter(case.reason for case in mine)
        counted = {reason: scrape.value("callbacks_rejected_total", reason=reason) for reason in expected}
        assert counted == dict(expected)
        assert scrape.value("callbacks_total") == 0
        kept = scrape.value("quarantined_callbacks")
        assert kept > 100
        assert kept == scrape.value("quarantined_bodies_total") - scrape.value("quarantine_evicted_total")


SLOW = {
    "a length that is never sent": (post(GOOD[:50], length=len(GOOD)), 408),
    "chunked without end": (chunked(GOOD, end=b""), 408),
    "a chunk that stops half way": (chunked(end=b"ff\r\n{"), 408),
    "headers without end": (b"POST /callbacks HTTP/1.1\r\nHost: test\r\n", None),
}


def test_slow_bodies_are_given_up_and_hinder_nobody(target: Exporter) -> None:
    """All at once, some trickling; meanwhile honest callbacks are answered at once."""
    answers: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda n=name, d=data: answers.update({n: target.raw(d, seconds=14.0)}))
        for name, (data, _) in SLOW.items()
    ]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    for _ in range(20):
        assert target.post(GOOD)[0] == 200
    assert time.monotonic() - begun < 2.0
    for thread in threads:
        thread.join()
    for name, (_, status) in SLOW.items():
        assert statuses(answers[name])[:1] == ([status] if status else []), name
    assert b'"reason":"length"' in answers["chunked without end"]
