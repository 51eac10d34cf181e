"""The gain of a second replica on Valkey, with a core for every process if there are enough cores."""

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from msgspec import Struct

from bench.contenders import TWO_ON_VALKEY, VALKEY, Contender, Cores, on_valkey
from bench.load import CONNECTIONS, send
from bench.report import Figure, Target

WARM_UP_SECONDS = 1
#: Connections for one replica and for two; each of two then has as many as one has in the other sections.
ALL_CONNECTIONS = 2 * CONNECTIONS
#: Two for the replicas, one for Valkey, one for the load generator.
CORES_WANTED = 4
LIMIT = 1.5


class Cost(Struct, frozen=True):
    """The result of a round: callbacks per second, and processor time per callback in microseconds.

    Args:
        rate: callbacks answered 200, per second.
        replicas_us, valkey_us, load_us: processor time of the replicas, of Valkey and of the load generator.
    """

    rate: float
    replicas_us: float
    valkey_us: float
    load_us: float


def measure(
    folder: Path, flags: Sequence[str], *, rounds: int, seconds: int, destinations: int
) -> Iterator[Figure]:
    """Measure one and two replicas alternately."""
    available = sorted(os.sched_getaffinity(0))
    done: dict[str, list[Cost]] = {VALKEY: [], TWO_ON_VALKEY: []}
    with ExitStack() as stack:
        contenders = []
        for replicas, name in enumerate(done, start=1):
            home = folder / name.replace(" ", "-")
            home.mkdir()
            cores = assign_cores(available, replicas)
            contender = stack.enter_context(on_valkey(name, home, flags, replicas=replicas, cores=cores))
            contenders.append((contender, cores))
            measure_once(contender, cores, WARM_UP_SECONDS, destinations)
        for _ in range(rounds):
            for contender, cores in contenders:
                done[contender.name].append(measure_once(contender, cores, seconds, destinations))
    yield from figures(done[VALKEY], done[TWO_ON_VALKEY], len(available))


def assign_cores(available: Sequence[int], replicas: int) -> Cores:
    """Return a core for each replica, and the remaining cores for the rest; all cores if none remain."""
    servers = tuple(available[number % len(available)] for number in range(replicas))
    return Cores(servers, tuple(c for c in available if c not in servers) or tuple(available))


def measure_once(
    contender: Contender, cores: Cores, seconds: int, destinations: int, number: int = 0
) -> Cost:
    """Measure one round of `seconds`, or of `number` callbacks to each replica.

    Raises:
        RuntimeError: a callback was not answered with 200.
    """
    before = _spent(contender)
    load = contender.load(destinations)
    outcome = send(load, seconds, cores.rest, connections=ALL_CONNECTIONS, number=number)
    if outcome.rejected:
        raise RuntimeError(f"{contender.name} did not answer 200 to {outcome.rejected} of {outcome.answered}")
    each = [(b - a) / outcome.accepted * 1e6 for a, b in zip(before, _spent(contender), strict=True)]
    return Cost(outcome.rate, *each)


def _spent(contender: Contender) -> tuple[float, float, float]:
    """Return the processor time of the replicas, of Valkey, and of all load generators so far, in seconds."""
    load = resource.getrusage(resource.RUSAGE_CHILDREN)
    valkey = contender.store.cpu_seconds() if contender.store else 0.0
    return contender.cpu_seconds(), valkey, load.ru_utime + load.ru_stime


def figures(one: Sequence[Cost], two: Sequence[Cost], cores: int) -> Iterator[Figure]:
    """Yield the figures of rounds with one replica and with two, on `cores` cores."""
    target = Target(LIMIT, at_least=True) if cores >= CORES_WANTED else None
    yield Figure("replicas cores", cores)
    yield Figure("replicas 2 / 1", median(b.rate / a.rate for a, b in zip(one, two, strict=True)), "", target)
    # The ratio that two replicas would reach on a core each, if nothing else limited them.
    could = median(2 * a.replicas_us / b.replicas_us for a, b in zip(one, two, strict=True))
    yield Figure("replicas 2 / 1, by processor time of the replicas", could, "", Target(LIMIT, at_least=True))
    for name, rounds in (("replicas 1", one), ("replicas 2", two)):
        yield Figure(name, median(r.rate for r in rounds), "1/s")
        yield Figure(f"{name}, processor time", median(r.replicas_us for r in rounds), "us")
        yield Figure(f"{name}, processor time of Valkey", median(r.valkey_us for r in rounds), "us")
        yield Figure(f"{name}, processor time of the load", median(r.load_us for r in rounds), "us")
