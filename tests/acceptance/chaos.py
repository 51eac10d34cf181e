"""`make chaos`: faults of every kind in three exporters and in a shared store with a replica.

Two threads cause faults at the same time, one in the store, one in the exporters. At the end the totals must
be exact on every exporter, and no counter may have decreased in the Prometheus that scraped them.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from exporter.store.valkey.script_runner import Script
from tests.acceptance.load import Sender
from tests.acceptance.test_kill import COUNTERS
from tests.acceptance.test_replicas import check_all, replicas
from tests.servers import Prometheus
from tests.support import Exporter, until
from tests.valkeys import Pair

FLAGS = {"metrics__max_tasks": "100"}
#: Counters that Prometheus must have scraped from every exporter. A missing series would prove nothing.
SEEN = (*COUNTERS.values(), "callbacks_total")

#: The maximum number of accepted callbacks between two faults of one thread.
MAX_BETWEEN = 60

Fault = Callable[[], None]


class Result(Struct):
    """The result of a run.

    Args:
        faults: the number of faults of each kind.
        accepted: the number of callbacks answered 200, by event.
        sent: the number of requests, including redeliveries and failed ones.
        failed: the number of failed requests.
        broken: a line for each broken promise.
    """

    faults: Counter[str]
    accepted: Counter[str]
    sent: int
    failed: int
    broken: list[str]


class StoreFaults:
    """The faults of the store; after each fault it has a replica again.

    Args:
        pair: the servers of the store.
        rng: the source of random durations.
    """

    def __init__(self, pair: Pair, rng: random.Random) -> None:
        self._pair = pair
        self._rng = rng

    def by_name(self) -> dict[str, Fault]:
        """Return the faults."""
        return {
            "store fails over": self._fail_over,
            "store is cut off from its replica and fails over": self._cut_off,
            "store restarts": self._restart,
            "store is killed": self._kill,
            "store is paused": self._pause,
            "store's replica is killed": self._kill_replica,
            "connections are cut": self._pair.wire.cut,
            "answers are lost": self._lose,
        }

    def _fail_over(self) -> None:
        self._pair.fail_over()
        time.sleep(self._rng.uniform(0, 0.5))
        self._pair.follow()

    def _cut_off(self) -> None:
        """Fail over while the replica is detached. The lost commits of the old primary were not answered."""
        self._pair.detach()
        time.sleep(self._rng.uniform(0, 0.6))
        self._fail_over()

    def _restart(self) -> None:
        self._pair.primary.send(signal.SIGTERM)
        self._pair.primary.join()
        self._start_again()

    def _kill(self) -> None:
        self._pair.primary.kill()
        self._start_again()

    def _start_again(self) -> None:
        time.sleep(self._rng.uniform(0, 0.5))
        self._pair.primary.start()
        self._pair.follow()

    def _pause(self) -> None:
        self._pair.primary.send(signal.SIGSTOP)
        time.sleep(self._rng.uniform(0.1, 1.5))
        self._pair.primary.send(signal.SIGCONT)

    def _kill_replica(self) -> None:
        self._pair.replica.kill()
        time.sleep(self._rng.uniform(0, 1.0))
        self._pair.follow()

    def _lose(self) -> None:
        for _ in range(3):
            self._pair.wire.to_lose = 1
            until(lambda: not self._pair.wire.to_lose, "an answer is lost")


class ReplicaFaults:
    """The faults of the exporters, in one exporter at a time.

    Args:
        exporters: the three exporters.
        rng: the source of random choices and durations.
    """

    def __init__(self, exporters: list[Exporter], rng: random.Random) -> None:
        self._exporters = exporters
        self._rng = rng

    def by_name(self) -> dict[str, Fault]:
        """Return the faults."""
        return {
            "exporter is killed": self._kill,
            "exporter is stopped": self._stop,
            "exporter is paused": self._pause,
        }

    def _kill(self) -> None:
        one = self._rng.choice(self._exporters)
        one.kill()
        self._start_again(one)

    def _stop(self) -> None:
        one = self._rng.choice(self._exporters)
        one.stop()
        self._start_again(one)

    def _start_again(self, one: Exporter) -> None:
        """Start an exporter until it runs, as a supervisor does: it does not start without its store."""
        time.sleep(self._rng.uniform(0, 0.5))
        until(lambda: _starts(one), "the exporter starts")

    def _pause(self) -> None:
        """Pause a worker, possibly between its read and its commit."""
        worker = self._rng.choice(self._exporters).worker
        os.kill(worker, signal.SIGSTOP)
        time.sleep(self._rng.uniform(0.1, 2.5))
        os.kill(worker, signal.SIGCONT)


def _starts(exporter: Exporter) -> bool:
    try:
        exporter.start()
    except AssertionError:
        exporter.kill()
        return False
    return True


class FaultThread(threading.Thread):
    """A thread that causes faults one after the other: each kind once in a random order, then random ones.

    Args:
        faults: the faults by name.
        rng: the source of random choices.
        end: the time to stop, in monotonic seconds; each kind is caused once even if that takes longer.
        rest: waits until a number of further callbacks is accepted.
        say: called with the name of each fault.
    """

    def __init__(
        self,
        faults: Mapping[str, Fault],
        rng: random.Random,
        end: float,
        rest: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._faults = faults
        self._rng = rng
        self._end = end
        self._rest = rest
        self._say = say
        self.made: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Cause faults until the end."""
        first = self._rng.sample(list(self._faults), len(self._faults))
        try:
            while first or time.monotonic() < self._end:
                self._rest(self._rng.randrange(1, MAX_BETWEEN))
                name = first.pop() if first else self._rng.choice(list(self._faults))
                self._say(name)
                self._faults[name]()
                self.made[name] += 1
        except BaseException as exc:
            self.error = exc

    def finish(self) -> Counter[str]:
        """Wait for the end of the thread; return the number of faults of each kind."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.made


def chaos(folder: Path, seconds: float, seed: int, connections: int, say: Callable[[str], None]) -> Result:
    """Cause faults for so many seconds, each kind at least once; return the result."""
    with (
        Pair(folder) as pair,
        replicas(folder, *[f"{pair.url}?wait-replicas=1"] * 3, **FLAGS) as exporters,
        Prometheus(folder, *(exporter.ports["web"] for exporter in exporters)) as prometheus,
    ):
        pair.wire.sign = Script("commit").digest.encode()
        begun = time.monotonic()
        with Sender(
            lambda: [e.ports["callbacks"] for e in exporters],
            seed=seed,
            connections=connections,
            shuffles=True,
        ) as sender:
            kinds = (StoreFaults, pair), (ReplicaFaults, exporters)
            threads = []
            for make, target in kinds:
                rng = random.Random(f"{seed}/{make.__name__}")
                faults = make(target, rng).by_name()  # type: ignore[operator]
                threads.append(FaultThread(faults, rng, begun + seconds, sender.until_accepted, say))
            for thread in threads:
                thread.start()
            try:
                made = sum((thread.finish() for thread in threads), Counter[str]())
            finally:
                for thread in threads:
                    thread.join()
        broken = _broken_promises(exporters, prometheus, sender.accepted, time.monotonic() - begun)
    return Result(made, sender.accepted, sender.sent, sender.failed, broken)


def _broken_promises(
    exporters: list[Exporter], prometheus: Prometheus, accepted: Counter[str], seconds: float
) -> list[str]:
    """Return a line for each broken promise."""
    try:
        check_all(exporters, accepted)
    except AssertionError as exc:
        return [f"the totals: {exc}"]
    at = until(lambda: _scraped_at(prometheus, len(exporters), accepted), "Prometheus has the final counters")
    broken = []
    range_seconds = f"{seconds + 60:.0f}s"
    started = accepted["TaskStart"]
    once = "sum(max without (instance, pod) (css_relay_tasks_started_total{}))".format
    for query, low, high in (
        (once(f" @ {at}"), started, started),
        # The last step of the subquery may be before the last scrape, so 0 is possible.
        (f"max_over_time(({once('')})[{range_seconds}:1s])", 0, started),
        (f"sum(css_relay_tasks_started_total @ {at})", len(exporters) * started, len(exporters) * started),
    ):
        value = prometheus.value(query)
        if value is None or not low <= value <= high:
            broken.append(f"{query} is {value}, expected {low} to {high}")
    for name in filter(_is_counter, prometheus.ask("label/__name__/values")):
        found = prometheus.query(f"resets({name}[{range_seconds}]) > 0")
        broken += [f"{name} went backwards {s['value'][1]} times: {s['metric']}" for s in found]
    return broken


def _scraped_at(prometheus: Prometheus, replicas: int, accepted: Counter[str]) -> float | None:
    """Return a time at which Prometheus has the final counters of every replica, or None."""
    at = round(time.time(), 3)
    counts = (f"count(count by (instance) (css_relay_{name} @ {at}))" for name in SEEN)
    applied = f"css_relay_callbacks_total{{outcome='applied'}} @ {at}"
    if any(prometheus.value(count) != replicas for count in counts):
        return None
    return at if prometheus.value(f"min(sum by (instance) ({applied}))") == accepted.total() else None


def _is_counter(name: str) -> bool:
    """Return whether a series is a counter of the store, not of a process."""
    of_process = name.startswith("css_relay_exporter_") or "_rejected_" in name
    return bool(re.search("^css_relay_.*_(total|count|bucket|sum)$", name)) and not of_process


def report(result: Result) -> list[str]:
    """Return the lines of the report."""
    return [
        f"{result.faults.total()} faults:",
        *(f"  {number:4} {name}" for name, number in result.faults.most_common()),
        f"{result.accepted.total()} callbacks accepted, {result.sent} requests: {dict(result.accepted)}",
        f"{result.failed} failed requests",
        *(f"WRONG: {what}" for what in result.broken),
        "" if result.broken else "Totals exact on every replica; no counter went backwards.",
    ]


def main() -> int:
    """Run the command; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.chaos", description="Cause all faults.")
    parser.add_argument("--minutes", type=float, default=10, help="duration in minutes, default 10")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices, default 1")
    parser.add_argument("--connections", type=int, default=4, help="number of concurrent senders, default 4")
    options = parser.parse_args()
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {what}\n", end="", flush=True)

    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        result = chaos(Path(folder), options.minutes * 60, options.seed, options.connections, say)
    print("\n".join(report(result)))
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
