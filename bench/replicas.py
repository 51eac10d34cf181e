"""What a second replica on Valkey brings, with every process on a core of its own as far as there are any."""

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
#: As many for one replica as for two, of which each then has what one has in the other sections.
TOGETHER = 2 * CONNECTIONS
#: One for each replica, one for Valkey, one for the load.
CORES_WANTED = 4
LIMIT = 1.5


class Cost(Struct, frozen=True):
    """A round: callbacks a second, and what one cost replicas, Valkey and the load, microseconds."""

    rate: float
    replicas: float
    valkey: float
    load: float


def measure(
    folder: Path, flags: Sequence[str], *, rounds: int, seconds: int, destinations: int
) -> Iterator[Figure]:
    """Measure one and two replicas in turns."""
    available = sorted(os.sched_getaffinity(0))
    done: dict[str, list[Cost]] = {VALKEY: [], TWO_ON_VALKEY: []}
    with ExitStack() as open_ones:
        contenders = []
        for replicas, name in enumerate(done, start=1):
            home = folder / name.replace(" ", "-")
            home.mkdir()
            cores = shared_out(available, replicas)
            contender = open_ones.enter_context(on_valkey(name, home, flags, replicas=replicas, cores=cores))
            contenders.append((contender, cores))
            once(contender, cores, WARM_UP_SECONDS, destinations)
        for _ in range(rounds):
            for contender, cores in contenders:
                done[contender.name].append(once(contender, cores, seconds, destinations))
    yield from figures(done[VALKEY], done[TWO_ON_VALKEY], len(available))


def shared_out(available: Sequence[int], replicas: int) -> Cores:
    """Give each replica a core, and the rest what is left; where nothing is left, all of them."""
    servers = tuple(available[number % len(available)] for number in range(replicas))
    return Cores(servers, tuple(c for c in available if c not in servers) or tuple(available))


def once(contender: Contender, cores: Cores, seconds: int, destinations: int, number: int = 0) -> Cost:
    """Measure one round, of so long or of so many callbacks to each; an answer other than 200 ends it all."""
    before = _spent(contender)
    outcome = send(contender.aim(destinations), seconds, cores.rest, connections=TOGETHER, number=number)
    if outcome.refused:
        raise RuntimeError(f"{contender.name} did not answer 200 to {outcome.refused} of {outcome.answered}")
    each = [(b - a) / outcome.taken * 1e6 for a, b in zip(before, _spent(contender), strict=True)]
    return Cost(outcome.rate, *each)


def _spent(contender: Contender) -> tuple[float, float, float]:
    """Return the processor time of the replicas, of Valkey, and of all that ever sent load, seconds."""
    load = resource.getrusage(resource.RUSAGE_CHILDREN)
    valkey = contender.store.busy_seconds() if contender.store else 0.0
    return contender.busy_seconds(), valkey, load.ru_utime + load.ru_stime


def figures(one: Sequence[Cost], two: Sequence[Cost], cores: int) -> Iterator[Figure]:
    """Yield what came of rounds with one replica and with two, on so many cores."""
    target = Target(LIMIT, at_least=True) if cores >= CORES_WANTED else None
    yield Figure("replicas cores", cores)
    yield Figure("replicas 2 / 1", median(b.rate / a.rate for a, b in zip(one, two, strict=True)), "", target)
    # What two of them could do if each had a core and nothing else were in their way.
    could = median(2 * a.replicas / b.replicas for a, b in zip(one, two, strict=True))
    yield Figure("replicas 2 / 1, by processor time of the replicas", could, "", Target(LIMIT, at_least=True))
    for number, rounds in ((1, one), (2, two)):
        yield Figure(f"replicas {number}", median(r.rate for r in rounds), "1/s")
        yield Figure(f"replicas {number}, processor time each", median(r.replicas for r in rounds), "us")
        yield Figure(f"replicas {number}, Valkey's each", median(r.valkey for r in rounds), "us")
        yield Figure(f"replicas {number}, the load's each", median(r.load for r in rounds), "us")
