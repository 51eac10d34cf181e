"""How many callbacks a second, side by side with a bare handler and with what one would use instead."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import cast

from msgspec import Struct

from bench.contenders import (
    BARE_HANDLER,
    DURABLE,
    GUARDED,
    PLAIN_WAY,
    PUSHGATEWAY,
    SIDE_BY_SIDE,
    SQLITE,
    Contender,
    running,
)
from bench.load import CONNECTIONS, Outcome, send
from bench.process import Process
from bench.report import Figure, Target

WARM_UP_SECONDS = 1
APPLIED = 'css_relay_callbacks_total{event="TaskStart",outcome="applied"}'
COMMIT = "css_relay_exporter_commit_seconds"
BATCH = "css_relay_exporter_batch_callbacks"
#: What the exporter on SQLite is to do, as a share of what others do.
AIMS = {BARE_HANDLER: 0.6, PUSHGATEWAY: 3.0, PLAIN_WAY: 1.0}

Numbers = Mapping[str, float]


class Measured(Struct, frozen=True):
    """A round: what became of the callbacks, and the processor time each cost the servers, microseconds."""

    outcome: Outcome
    cost: float


Rounds = Mapping[str, Sequence[Measured]]


def measure(
    folder: Path, flags: Sequence[str], *, rounds: int, seconds: int, destinations: int
) -> Iterator[Figure]:
    """Measure all of them, warmed up before."""
    with running(folder, flags, [*SIDE_BY_SIDE, GUARDED]) as contenders:
        for contender in contenders.values():
            once(contender, WARM_UP_SECONDS, destinations)
        yield from compare(contenders, rounds, seconds, destinations)


def compare(
    contenders: Mapping[str, Contender], rounds: int, seconds: int, destinations: int
) -> Iterator[Figure]:
    """Measure contenders that run, in turns, so that the machine's moods meet all of them."""
    exporter = cast(Process, contenders[SQLITE].servers[0])
    before = exporter.numbers()
    done = in_turns(contenders, rounds, seconds, destinations)
    grown = {name: value - before.get(name, 0) for name, value in exporter.numbers().items()}
    yield from figures(done, grown)


def in_turns(
    contenders: Mapping[str, Contender], rounds: int, seconds: int, destinations: int, number: int = 0
) -> Rounds:
    """Measure each of them once a round, for so long, or with so many callbacks."""
    done: dict[str, list[Measured]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            done[name].append(once(contender, seconds, destinations, number))
    return done


def once(contender: Contender, seconds: int, destinations: int, number: int = 0) -> Measured:
    """Measure one round; an answer other than 200 ends it all."""
    before = contender.busy_seconds()
    outcome = send(contender.aim(destinations), seconds, number=number)
    if outcome.refused:
        raise RuntimeError(f"{contender.name} did not answer 200 to {outcome.refused} of {outcome.answered}")
    return Measured(outcome, (contender.busy_seconds() - before) / outcome.taken * 1e6)


def figures(rounds: Rounds, grown: Numbers) -> Iterator[Figure]:
    """Yield what came of all rounds, and of what the exporter on SQLite counted meanwhile."""
    yield from _ratios(rounds)
    yield from _speeds(rounds)
    yield from _exactness([r.outcome for r in rounds[SQLITE]], grown[APPLIED])
    yield from _commits(grown)


def ratio(rounds: Rounds, above: str, below: str) -> list[float]:
    """Return by how much the one was faster than the other, in each round."""
    return [a.outcome.rate / b.outcome.rate for a, b in zip(rounds[above], rounds[below], strict=True)]


def _ratios(rounds: Rounds) -> Iterator[Figure]:
    for name, aim in AIMS.items():
        found = ratio(rounds, SQLITE, name)
        yield Figure(f"callbacks sqlite / {name}", median(found), "", Target(aim, at_least=True))
        yield Figure(f"callbacks sqlite / {name}, lowest round", min(found))
        yield Figure(f"callbacks sqlite / {name}, highest round", max(found))
    costs = [b.cost / s.cost for s, b in zip(rounds[SQLITE], rounds[BARE_HANDLER], strict=True)]
    yield Figure("callbacks sqlite / bare, by processor time", median(costs))
    guarded = median(ratio(rounds, GUARDED, SQLITE))
    yield Figure("callbacks sqlite guarded / sqlite", guarded, "", Target(0.9, at_least=True))


def _speeds(rounds: Rounds) -> Iterator[Figure]:
    for name, found in rounds.items():
        outcomes = [r.outcome for r in found]
        yield Figure(f"callbacks {name}", median(o.rate for o in outcomes), "1/s")
        yield Figure(f"callbacks {name}, processor time each", median(r.cost for r in found), "us")
        yield Figure(f"callbacks {name} p50", median(o.p50_ms for o in outcomes), "ms")
        target = Target(50) if name in DURABLE else None
        yield Figure(f"callbacks {name} p99", median(o.p99_ms for o in outcomes), "ms", target)
        yield Figure(f"callbacks {name} longest", max(o.max_ms for o in outcomes), "ms")


def _exactness(outcomes: Sequence[Outcome], counted: float) -> Iterator[Figure]:
    """What was counted is what was answered, and at most what wrk no longer waited for."""
    failed = sum(o.refused + o.broken for o in outcomes)
    yield Figure("callbacks refused or broken", failed, "", Target(0))
    surplus = counted - sum(o.taken for o in outcomes)
    yield Figure("callbacks answered 200 and not counted", max(-surplus, 0), "", Target(0))
    allowed = CONNECTIONS * len(outcomes)
    yield Figure("callbacks counted past those answered 200", max(surplus, 0), "", Target(allowed))


def _commits(grown: Numbers) -> Iterator[Figure]:
    mean = grown[f"{COMMIT}_sum"] / grown[f"{COMMIT}_count"]
    yield Figure("callbacks commit mean", mean * 1000, "ms")
    yield Figure("callbacks commit p99", quantile(grown, COMMIT, 0.99) * 1000, "ms")
    yield Figure("callbacks in a commit", grown[f"{BATCH}_sum"] / grown[f"{BATCH}_count"])


def quantile(numbers: Numbers, name: str, share: float) -> float:
    """Return a quantile of a histogram, by straight lines within its buckets as Prometheus does it."""
    prefix = f'{name}_bucket{{le="'
    found = sorted((float(key[len(prefix) : -2]), v) for key, v in numbers.items() if key.startswith(prefix))
    rank, low, below = share * found[-1][1], 0.0, 0.0
    for edge, total in found:
        if total >= rank:
            return low if edge == float("inf") else low + (edge - low) * (rank - below) / (total - below)
        low, below = edge, total
    return low
