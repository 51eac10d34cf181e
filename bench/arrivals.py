"""The time to an answer in an open loop: callbacks are sent at a fixed rate, answered or not."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.contenders import DURABLE, SIDE_BY_SIDE, Contender, running
from bench.load import K6Result, send_at_rate
from bench.report import Figure, Target

RATE = 1_000
WARM_UP_SECONDS = 2
LIMIT_MS = 10


def measure(folder: Path, flags: Sequence[str], *, seconds: int, destinations: int) -> Iterator[Figure]:
    """Measure all contenders one after the other, each after a warm-up."""
    yield Figure("arrivals", RATE, "1/s")
    with running(folder, flags, SIDE_BY_SIDE) as contenders:
        for contender in contenders.values():
            measure_once(contender, WARM_UP_SECONDS, destinations)
            yield from figures(contender.name, measure_once(contender, seconds, destinations))


def measure_once(contender: Contender, seconds: int, destinations: int, rate: int = RATE) -> K6Result:
    """Measure one contender; an answer other than 200 ends the benchmark.

    Raises:
        RuntimeError: the contender rejected a request.
    """
    found = send_at_rate(contender.load(destinations), rate, seconds)
    if found.rejected:
        raise RuntimeError(f"{contender.name} did not answer 200 to {found.rejected} of {found.answered}")
    return found


def figures(name: str, found: K6Result) -> Iterator[Figure]:
    """Yield the figures of one contender."""
    ours = name in DURABLE
    yield Figure(f"arrivals {name} answered", found.answered)
    yield Figure(f"arrivals {name} dropped", found.dropped, "", Target(0) if ours else None)
    yield Figure(f"arrivals {name} p50", found.p50_ms, "ms")
    yield Figure(f"arrivals {name} p95", found.p95_ms, "ms")
    yield Figure(f"arrivals {name} p99", found.p99_ms, "ms", Target(LIMIT_MS) if ours else None)
    yield Figure(f"arrivals {name} longest", found.max_ms, "ms")
