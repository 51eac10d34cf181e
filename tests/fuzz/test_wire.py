"""A small part of `make fuzz` over sockets, and the evaluation of `make soak`."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from random import Random

import pytest

from tests.fuzz.__main__ import wire
from tests.fuzz.requests import Requests
from tests.fuzz.soak import SoakResult, Usage, grown, miscounted, report
from tests.fuzz.wire import Wire
from tests.support import Exporter

SEED = 314
REQUESTS = 1000
SAMPLES = 200


def test_no_bytes_cause_an_error_a_hang_or_a_new_worker() -> None:
    """Valid requests with changed content are answered, and no resources are left."""
    with ThreadPoolExecutor() as pool:
        send = partial(wire, "wire", SEED, requests=REQUESTS)
        rows = list(pool.map(lambda guarded: send(guarded=guarded), (False, True)))
    for row in rows:
        assert row.faults == []
        assert row.requests >= REQUESTS
        assert max(row.statuses) < 500
        assert {200, 400} <= row.statuses.keys()


def test_the_same_seed_sends_the_same() -> None:
    """A fault can be reproduced."""
    first, second = (list(islice(Requests(Random(SEED)), 50)) for _ in range(2))
    assert first == second
    assert first != list(islice(Requests(Random(SEED + 1)), 50))


def test_a_request_without_its_answer_is_reported(exporter: Exporter) -> None:
    """The check itself can fail."""
    chance = Random(SEED)
    sent = (each for each in Requests(chance) if each.answers is not None)
    wrong = (
        type(each)(each.listener, each.data, each.requests, each.answers + 1) for each in sent if each.answers
    )
    result = asyncio.run(Wire(exporter, wrong, chance).run(20))
    assert "answers, not" in result.faults[0]


def rough(number: int) -> float:
    """Return a value that goes up and down without a trend, as the memory of a process does."""
    return 100.0 + 5.0 * math.sin(number)


def growing(number: int) -> float:
    """Return the same value with a trend that adds a tenth in the end."""
    return rough(number) + 10.0 * number / SAMPLES


def flat(number: int) -> float:
    """Return a number of file handles that goes up and down with scrapes."""
    return 20.0 + number % 5


@pytest.mark.parametrize(
    ("memory", "store", "handles", "said"),
    [
        (rough, rough, flat, []),
        (growing, rough, flat, ["memory grows: 0.09"]),
        (rough, growing, flat, ["store grows: 0.09"]),
        (rough, rough, lambda number: flat(number) + number / 10, ["file handles: at most 33"]),
    ],
    ids=["nothing", "memory", "store", "handles"],
)
def test_a_soak_reports_only_resources_that_grow(
    memory: Callable[[int], float],
    store: Callable[[int], float],
    handles: Callable[[int], float],
    said: list[str],
) -> None:
    """It distinguishes a trend from ups and downs, and the report has both."""
    samples = [Usage(float(n), memory(n), store(n), handles(n)) for n in range(SAMPLES)]
    result = SoakResult(3, samples, Counter({200: 70}), [])
    result.faults += grown(result)
    assert [fault[: len(begin)] for fault, begin in zip(result.faults, said, strict=True)] == said
    lines = report(result)
    assert lines[0] == "3 fleets, 70 answers: {200: 70}"
    assert [line.removeprefix("WRONG: ") for line in lines if line.startswith("WRONG: ")] == result.faults


def test_a_soak_reports_every_total_that_is_not_exact() -> None:
    """With the expected and the actual increase; other counters are ignored."""
    before, after = Counter(a=5, b=5, other=1), Counter(a=8, b=7, other=9)
    assert miscounted(Counter(a=3, b=3, c=1), after, before) == [
        "b: expected 3, grew by 2",
        "c: expected 1, grew by 0",
    ]
