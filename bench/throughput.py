"""How many callbacks a second, against a bare handler on the same server; and how a commit fares."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from msgspec import Struct

from bench.load import CONNECTIONS, Outcome, send
from bench.process import BARE, EXPORTER, Process
from bench.report import Figure, Target

WARM_UP_SECONDS = 2
APPLIED = 'css_relay_callbacks_total{event="TaskStart",outcome="applied"}'
COMMIT = "css_relay_exporter_commit_seconds"
BATCH = "css_relay_exporter_batch_callbacks"

Numbers = Mapping[str, float]


class Measured(Struct, frozen=True):
    """A round: what became of the callbacks, and the processor time each cost the worker, microseconds."""

    outcome: Outcome
    cost: float


def measure(
    folder: Path, flags: Sequence[str], *, rounds: int, seconds: int, destinations: int
) -> Iterator[Figure]:
    """Measure the exporter and the bare handler in turns, so that the machine's moods meet both."""
    durable, bare = [], []
    with Process(EXPORTER, folder, flags) as exporter, Process(BARE, folder) as handler:
        warm = _round(exporter, WARM_UP_SECONDS, destinations)
        _round(handler, WARM_UP_SECONDS, destinations)
        before = exporter.numbers()
        for _ in range(rounds):
            durable.append(_round(exporter, seconds, destinations))
            bare.append(_round(handler, seconds, destinations))
        after = exporter.numbers()
    yield from _speed(durable, bare)
    yield from _exactness([warm, *durable], after)
    yield from _commits(before, after)


def _round(process: Process, seconds: int, destinations: int) -> Measured:
    before = process.worker_seconds()
    outcome = send(process.callbacks_url, seconds, destinations)
    return Measured(outcome, (process.worker_seconds() - before) / outcome.taken * 1e6)


def _speed(durable: Sequence[Measured], bare: Sequence[Measured]) -> Iterator[Figure]:
    ratios = [d.outcome.rate / b.outcome.rate for d, b in zip(durable, bare, strict=True)]
    yield Figure("callbacks durable / bare", median(ratios), "", Target(0.5, at_least=True))
    yield Figure("callbacks durable / bare, lowest round", min(ratios))
    yield Figure("callbacks durable / bare, highest round", max(ratios))
    costs = [b.cost / d.cost for d, b in zip(durable, bare, strict=True)]
    yield Figure("callbacks durable / bare, by processor time", median(costs))
    for name, rounds in (("durable", durable), ("bare", bare)):
        outcomes = [r.outcome for r in rounds]
        yield Figure(f"callbacks {name}", median(o.rate for o in outcomes), "1/s")
        yield Figure(f"callbacks {name}, processor time each", median(r.cost for r in rounds), "us")
        yield Figure(f"callbacks {name} p50", median(o.p50_ms for o in outcomes), "ms")
        target = Target(50) if name == "durable" else None
        yield Figure(f"callbacks {name} p99", median(o.p99_ms for o in outcomes), "ms", target)
        yield Figure(f"callbacks {name} longest", max(o.max_ms for o in outcomes), "ms")


def _exactness(rounds: Sequence[Measured], after: Numbers) -> Iterator[Figure]:
    """What was counted is what was answered, and at most what wrk no longer waited for."""
    outcomes = [r.outcome for r in rounds]
    failed = sum(o.refused + o.broken for o in outcomes)
    yield Figure("callbacks refused or broken", failed, "", Target(0))
    surplus = after[APPLIED] - sum(o.taken for o in outcomes)
    yield Figure("callbacks answered 200 and not counted", max(-surplus, 0), "", Target(0))
    allowed = CONNECTIONS * len(outcomes)
    yield Figure("callbacks counted past those answered 200", max(surplus, 0), "", Target(allowed))


def _commits(before: Numbers, after: Numbers) -> Iterator[Figure]:
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
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
