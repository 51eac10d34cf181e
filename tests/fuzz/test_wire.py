"""A small share of `make fuzz` over sockets, and what `make soak` makes of what it sees."""

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
from tests.fuzz.soak import Look, Soaked, grown, miscounted, report
from tests.fuzz.wire import Wire
from tests.support import Exporter

SEED = 314
REQUESTS = 1000
LOOKS = 200


def test_no_bytes_make_an_error_a_hang_or_another_worker() -> None:
    """Sound requests with changed content are answered, whatever bytes are others; nothing is left of any."""
    with ThreadPoolExecutor() as pool:
        send = partial(wire, "wire", SEED, requests=REQUESTS)
        rows = list(pool.map(lambda guarded: send(guarded=guarded), (False, True)))
    for row in rows:
        assert row.faults == []
        assert row.requests >= REQUESTS
        assert max(row.statuses) < 500
        assert {200, 400} <= row.statuses.keys()


def test_the_same_seed_sends_the_same() -> None:
    """What was found can be sent again."""
    first, second = (list(islice(Requests(Random(SEED)), 50)) for _ in range(2))
    assert first == second
    assert first != list(islice(Requests(Random(SEED + 1)), 50))


def test_a_request_without_its_answer_is_told(exporter: Exporter) -> None:
    """Who would not notice one would notice nothing."""
    chance = Random(SEED)
    sent = (each for each in Requests(chance) if each.answers is not None)
    wrong = (
        type(each)(each.listener, each.data, each.requests, each.answers + 1) for each in sent if each.answers
    )
    increments = asyncio.run(Wire(exporter, wrong, chance).run(20))
    assert "answers, not" in increments.faults[0]


def rough(number: int) -> float:
    """Return what goes up and down, as what a process holds does, and stays."""
    return 100.0 + 5.0 * math.sin(number)


def growing(number: int) -> float:
    """Return the same with a tenth more in the end."""
    return rough(number) + 10.0 * number / LOOKS


def flat(number: int) -> float:
    """Return so many file handles, as scrapes come and go."""
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
def test_a_soak_tells_what_grows_and_nothing_else(
    memory: Callable[[int], float],
    store: Callable[[int], float],
    handles: Callable[[int], float],
    said: list[str],
) -> None:
    """A trend is told from ups and downs; the report has it, and what it went by."""
    looks = [Look(float(n), memory(n), store(n), handles(n)) for n in range(LOOKS)]
    result = Soaked(3, looks, Counter({200: 70}), [])
    result.faults += grown(result)
    assert [fault[: len(begin)] for fault, begin in zip(result.faults, said, strict=True)] == said
    lines = report(result)
    assert lines[0] == "3 fleets, 70 answers: {200: 70}"
    assert [line.removeprefix("WRONG: ") for line in lines if line.startswith("WRONG: ")] == result.faults


def test_a_soak_tells_every_total_that_is_not_exact() -> None:
    """By what it should have grown and did; what is not expected counts for nothing."""
    before, after = Counter(a=5, b=5, other=1), Counter(a=8, b=7, other=9)
    assert miscounted(Counter(a=3, b=3, c=1), after, before) == [
        "b: expected 3, grew by 2",
        "c: expected 1, grew by 0",
    ]
