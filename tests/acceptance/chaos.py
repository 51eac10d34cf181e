"""`make chaos`: three replicas, a store with a replica of its own, and all that can go wrong, for long.

Two hands break things at the same time: one the store, one the exporters. In the end the totals are exact on
every replica, and in the Prometheus that scraped them no counter ever went backwards.
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
#: Every counter of the fleet is at every replica; a series that Prometheus never saw would prove nothing.
SEEN = (*COUNTERS.values(), "callbacks_total")

#: Callbacks kept between two faults of one hand, at most.
MOST_BETWEEN = 60

Fault = Callable[[], None]


class Done(Struct):
    """What came of it.

    Args:
        faults: how often each kind was made.
        kept: callbacks answered 200, by event.
        sent: how often a callback was sent, redeliveries and refusals included.
        refused: how many tries came to nothing.
        wrong: what was not as promised.
    """

    faults: Counter[str]
    kept: Counter[str]
    sent: int
    refused: int
    wrong: list[str]


class StoreFaults:
    """What happens to the store: after each of them it has its replica again.

    Args:
        pair: its servers.
        chance: for how long.
    """

    def __init__(self, pair: Pair, chance: random.Random) -> None:
        self._pair = pair
        self._chance = chance

    def by_name(self) -> dict[str, Fault]:
        """Return the faults."""
        return {
            "store fails over": self._fail_over,
            "store is cut off from its replica and fails over": self._cut_off,
            "store restarts": self._restart,
            "store is killed": self._kill,
            "store stands still": self._pause,
            "store's replica is killed": self._kill_replica,
            "connections are cut": self._pair.wire.cut,
            "answers are lost": self._lose,
        }

    def _fail_over(self) -> None:
        self._pair.fail_over()
        time.sleep(self._chance.uniform(0, 0.5))
        self._pair.follow()

    def _cut_off(self) -> None:
        """What the primary takes meanwhile nobody else has; it is gone before anybody is shown it."""
        self._pair.detach()
        time.sleep(self._chance.uniform(0, 0.6))
        self._fail_over()

    def _restart(self) -> None:
        self._pair.primary.send(signal.SIGTERM)
        self._pair.primary.join()
        self._start_again()

    def _kill(self) -> None:
        self._pair.primary.kill()
        self._start_again()

    def _start_again(self) -> None:
        time.sleep(self._chance.uniform(0, 0.5))
        self._pair.primary.start()
        self._pair.follow()

    def _pause(self) -> None:
        self._pair.primary.send(signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.1, 1.5))
        self._pair.primary.send(signal.SIGCONT)

    def _kill_replica(self) -> None:
        self._pair.replica.kill()
        time.sleep(self._chance.uniform(0, 1.0))
        self._pair.follow()

    def _lose(self) -> None:
        for _ in range(3):
            self._pair.wire.to_lose = 1
            until(lambda: not self._pair.wire.to_lose, "an answer is lost")


class ReplicaFaults:
    """What happens to the exporters, one at a time.

    Args:
        exporters: three of them.
        chance: which, and for how long.
    """

    def __init__(self, exporters: list[Exporter], chance: random.Random) -> None:
        self._exporters = exporters
        self._chance = chance

    def by_name(self) -> dict[str, Fault]:
        """Return the faults."""
        return {
            "exporter is killed": self._kill,
            "exporter is stopped": self._stop,
            "exporter stands still": self._pause,
        }

    def _kill(self) -> None:
        one = self._chance.choice(self._exporters)
        one.kill()
        self._start_again(one)

    def _stop(self) -> None:
        one = self._chance.choice(self._exporters)
        one.stop()
        self._start_again(one)

    def _start_again(self, one: Exporter) -> None:
        """Start it until it stays, as a supervisor would: it does not start without its store."""
        time.sleep(self._chance.uniform(0, 0.5))
        until(lambda: _starts(one), "the exporter starts")

    def _pause(self) -> None:
        """Let a worker stand still, perhaps between what it has read and its commit."""
        worker = self._chance.choice(self._exporters).worker
        os.kill(worker, signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.1, 2.5))
        os.kill(worker, signal.SIGCONT)


def _starts(exporter: Exporter) -> bool:
    try:
        exporter.start()
    except AssertionError:
        exporter.kill()
        return False
    return True


class Hand(threading.Thread):
    """Makes faults, one after the other: each kind once in an order drawn by chance, then any of them.

    Args:
        faults: by name.
        chance: which is next, and when.
        end: when to stop, monotonic seconds; each kind is made once all the same.
        rest: waits between two of them, until so many more callbacks are kept.
        say: is told of each.
    """

    def __init__(
        self,
        faults: Mapping[str, Fault],
        chance: random.Random,
        end: float,
        rest: Callable[[int], None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._faults = faults
        self._chance = chance
        self._end = end
        self._rest = rest
        self._say = say
        self.made: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make them until it is over."""
        first = self._chance.sample(list(self._faults), len(self._faults))
        try:
            while first or time.monotonic() < self._end:
                self._rest(self._chance.randrange(1, MOST_BETWEEN))
                name = first.pop() if first else self._chance.choice(list(self._faults))
                self._say(name)
                self._faults[name]()
                self.made[name] += 1
        except BaseException as exc:
            self.error = exc

    def finish(self) -> Counter[str]:
        """Wait for its end; return how often each kind was made."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.made


def chaos(folder: Path, seconds: float, seed: int, connections: int, say: Callable[[str], None]) -> Done:
    """Break everything for so long, each kind of fault once at least, and return what came of it."""
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
            hands = []
            for make, target in kinds:
                chance = random.Random(f"{seed}/{make.__name__}")
                faults = make(target, chance).by_name()  # type: ignore[operator]
                hands.append(Hand(faults, chance, begun + seconds, sender.until_kept, say))
            for hand in hands:
                hand.start()
            try:
                made = sum((hand.finish() for hand in hands), Counter[str]())
            finally:
                for hand in hands:
                    hand.join()
        wrong = _wrong(exporters, prometheus, sender.kept, time.monotonic() - begun)
    return Done(made, sender.kept, sender.sent, sender.refused, wrong)


def _wrong(
    exporters: list[Exporter], prometheus: Prometheus, kept: Counter[str], seconds: float
) -> list[str]:
    """Return a line for each promise that was not kept."""
    try:
        check_all(exporters, kept)
    except AssertionError as exc:
        return [f"the totals: {exc}"]
    at = until(
        lambda: _scraped_at(prometheus, len(exporters), kept), "Prometheus has the last of all replicas"
    )
    wrong = []
    range_seconds = f"{seconds + 60:.0f}s"
    started = kept["TaskStart"]
    once = "sum(max without (instance, pod) (css_relay_tasks_started_total{}))".format
    for query, low, high in (
        (once(f" @ {at}"), started, started),
        (f"max_over_time(({once('')})[{range_seconds}:1s])", 0, started),  # its last step is a little before
        (f"sum(css_relay_tasks_started_total @ {at})", len(exporters) * started, len(exporters) * started),
    ):
        value = prometheus.value(query)
        if value is None or not low <= value <= high:
            wrong.append(f"{query} is {value}, expected {low} to {high}")
    for name in filter(_is_counter, prometheus.ask("label/__name__/values")):
        found = prometheus.query(f"resets({name}[{range_seconds}]) > 0")
        wrong += [f"{name} went backwards {s['value'][1]} times: {s['metric']}" for s in found]
    return wrong


def _scraped_at(prometheus: Prometheus, replicas: int, kept: Counter[str]) -> float | None:
    """Return a time at which Prometheus has every counter of every replica, as they are in the end."""
    at = round(time.time(), 3)
    counts = (f"count(count by (instance) (css_relay_{name} @ {at}))" for name in SEEN)
    applied = f"css_relay_callbacks_total{{outcome='applied'}} @ {at}"
    if any(prometheus.value(count) != replicas for count in counts):
        return None
    return at if prometheus.value(f"min(sum by (instance) ({applied}))") == kept.total() else None


def _is_counter(name: str) -> bool:
    """Whether it is a counter of the store's, and not of a process."""
    of_process = name.startswith("css_relay_exporter_") or "_rejected_" in name
    return bool(re.search("^css_relay_.*_(total|count|bucket|sum)$", name)) and not of_process


def report(done: Done) -> list[str]:
    """Return what is to be said of it, a line each."""
    return [
        f"{done.faults.total()} faults:",
        *(f"  {number:4} {name}" for name, number in done.faults.most_common()),
        f"{done.kept.total()} callbacks kept, {done.sent} times sent: {dict(done.kept)}",
        f"{done.refused} tries came to nothing",
        *(f"WRONG: {what}" for what in done.wrong),
        "" if done.wrong else "Totals exact on every replica; no counter went backwards.",
    ]


def main() -> int:
    """Break things; return 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.chaos", description="Break everything.")
    parser.add_argument("--minutes", type=float, default=10, help="for how long, default 10")
    parser.add_argument(
        "--seed", type=int, default=1, help="what is drawn by chance depends on it, default 1"
    )
    parser.add_argument("--connections", type=int, default=4, help="how many send at once, default 4")
    options = parser.parse_args()
    begun = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {what}\n", end="", flush=True)

    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        done = chaos(Path(folder), options.minutes * 60, options.seed, options.connections, say)
    print("\n".join(report(done)))
    return 1 if done.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
