"""Callbacks per second in a closed loop, compared with a bare handler and with the alternatives."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import cast

from msgspec import Struct

from bench.contenders import (
    BARE_HANDLER,
    DURABLE,
    PLAIN_WAY,
    PUSHGATEWAY,
    SIDE_BY_SIDE,
    SIGNED,
    SQLITE,
    Contender,
    running,
)
from bench.load import CONNECTIONS, WrkResult, send
from bench.process import Process
from bench.report import Figure, Target

WARM_UP_SECONDS = 1
APPLIED = 'css_relay_callbacks_total{event="TaskStart",outcome="applied"}'
COMMIT = "css_relay_exporter_commit_seconds"
BATCH = "css_relay_exporter_batch_callbacks"
#: Targets: the least ratio of the exporter on SQLite to other contenders.
LEAST_RATIOS = {BARE_HANDLER: 0.6, PUSHGATEWAY: 3.0, PLAIN_WAY: 1.0}

Samples = Mapping[str, float]


class RoundResult(Struct, frozen=True):
    """The result of a round, with the processor time of the servers per callback in microseconds."""

    outcome: WrkResult
    cost_us: float


Rounds = Mapping[str, Sequence[RoundResult]]


def measure(
    folder: Path, flags: Sequence[str], *, rounds: int, seconds: int, destinations: int
) -> Iterator[Figure]:
    """Measure all contenders after a warm-up."""
    with running(folder, flags, [*SIDE_BY_SIDE, SIGNED]) as contenders:
        for contender in contenders.values():
            measure_once(contender, WARM_UP_SECONDS, destinations)
        yield from compare(contenders, rounds, seconds, destinations)


def compare(
    contenders: Mapping[str, Contender], rounds: int, seconds: int, destinations: int
) -> Iterator[Figure]:
    """Measure running contenders alternately, so that disturbances of the machine affect all of them."""
    exporter = cast(Process, contenders[SQLITE].servers[0])
    before = exporter.samples()
    done = in_turns(contenders, rounds, seconds, destinations)
    grown = {name: value - before.get(name, 0) for name, value in exporter.samples().items()}
    yield from figures(done, grown)


def in_turns(
    contenders: Mapping[str, Contender], rounds: int, seconds: int, destinations: int, number: int = 0
) -> Rounds:
    """Measure each contender once per round, for `seconds` or with `number` callbacks."""
    done: dict[str, list[RoundResult]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            done[name].append(measure_once(contender, seconds, destinations, number))
    return done


def measure_once(contender: Contender, seconds: int, destinations: int, number: int = 0) -> RoundResult:
    """Measure one round.

    Raises:
        RuntimeError: a callback was not answered with 200.
    """
    before = contender.cpu_seconds()
    outcome = send(contender.load(destinations), seconds, number=number)
    if outcome.rejected:
        raise RuntimeError(f"{contender.name} did not answer 200 to {outcome.rejected} of {outcome.answered}")
    return RoundResult(outcome, (contender.cpu_seconds() - before) / outcome.accepted * 1e6)


def figures(rounds: Rounds, grown: Samples) -> Iterator[Figure]:
    """Yield the figures of all rounds, and of the counters of the exporter on SQLite during them."""
    yield from _ratios(rounds)
    yield from _speeds(rounds)
    yield from _exactness([r.outcome for r in rounds[SQLITE]], grown[APPLIED])
    yield from _commits(grown)


def ratio(rounds: Rounds, above: str, below: str) -> list[float]:
    """Return the ratio of two contenders' rates in each round."""
    return [a.outcome.rate / b.outcome.rate for a, b in zip(rounds[above], rounds[below], strict=True)]


def _ratios(rounds: Rounds) -> Iterator[Figure]:
    for name, least in LEAST_RATIOS.items():
        found = ratio(rounds, SQLITE, name)
        yield Figure(f"callbacks sqlite / {name}", median(found), "", Target(least, at_least=True))
        yield Figure(f"callbacks sqlite / {name}, lowest round", min(found))
        yield Figure(f"callbacks sqlite / {name}, highest round", max(found))
    costs = [b.cost_us / s.cost_us for s, b in zip(rounds[SQLITE], rounds[BARE_HANDLER], strict=True)]
    yield Figure("callbacks sqlite / bare, by processor time", median(costs))
    guarded = median(ratio(rounds, SIGNED, SQLITE))
    yield Figure("callbacks sqlite signed / sqlite", guarded, "", Target(0.9, at_least=True))


def _speeds(rounds: Rounds) -> Iterator[Figure]:
    for name, found in rounds.items():
        outcomes = [r.outcome for r in found]
        yield Figure(f"callbacks {name}", median(o.rate for o in outcomes), "1/s")
        yield Figure(f"callbacks {name}, processor time", median(r.cost_us for r in found), "us")
        yield Figure(f"callbacks {name} p50", median(o.p50_ms for o in outcomes), "ms")
        target = Target(50) if name in DURABLE else None
        yield Figure(f"callbacks {name} p99", median(o.p99_ms for o in outcomes), "ms", target)
        yield Figure(f"callbacks {name} longest", max(o.max_ms for o in outcomes), "ms")


def _exactness(outcomes: Sequence[WrkResult], counted: float) -> Iterator[Figure]:
    """Compare the counted callbacks with the answered ones.

    At the end of a round wrk does not wait for the last answers: one more per connection may be counted.
    """
    failed = sum(o.rejected + o.failed for o in outcomes)
    yield Figure("callbacks rejected or failed", failed, "", Target(0))
    surplus = counted - sum(o.accepted for o in outcomes)
    yield Figure("callbacks answered 200 and not counted", max(-surplus, 0), "", Target(0))
    allowed = CONNECTIONS * len(outcomes)
    yield Figure("callbacks counted past those answered 200", max(surplus, 0), "", Target(allowed))


def _commits(grown: Samples) -> Iterator[Figure]:
    mean = grown[f"{COMMIT}_sum"] / grown[f"{COMMIT}_count"]
    yield Figure("callbacks commit mean", mean * 1000, "ms")
    yield Figure("callbacks commit p99", quantile(grown, COMMIT, 0.99) * 1000, "ms")
    yield Figure("callbacks in a commit", grown[f"{BATCH}_sum"] / grown[f"{BATCH}_count"])


def quantile(samples: Samples, name: str, share: float) -> float:
    """Return a quantile of a histogram by linear interpolation within its buckets, as Prometheus does."""
    prefix = f'{name}_bucket{{le="'
    found = sorted((float(key[len(prefix) : -2]), v) for key, v in samples.items() if key.startswith(prefix))
    rank, low, below = share * found[-1][1], 0.0, 0.0
    for edge, total in found:
        if total >= rank:
            return low if edge == float("inf") else low + (edge - low) * (rank - below) / (total - below)
        low, below = edge, total
    return low
