"""Valid histories of a task, and deliveries of them: in order, delayed, reordered, repeated."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from hypothesis import settings
from msgspec import Struct

from exporter.metrics.catalogue import CATALOGUE
from exporter.protocol.callback import Callback
from exporter.protocol.events import BY_LETTER
from exporter.relay import FoldSettings, Task, fold, settle

T0 = 1_795_500_000
SETTINGS = FoldSettings()


def max_examples(number: int) -> settings:
    """Try a property on this many examples, the same in each run; EXAMPLES=5000 tries 5000 others."""
    other_examples = int(os.environ.get("EXAMPLES", "0"))
    return settings(
        max_examples=other_examples or number,
        derandomize=not other_examples,
        deadline=None,
        print_blob=bool(other_examples),
    )


def callback(letter: str, time: float | None = None, subject: str = "", **more: Any) -> Callback:
    """Return a callback of task 1/t; `time` is in seconds, and in milliseconds too if the event has them."""
    kind = BY_LETTER[letter]
    stated = round(time * 1000) if time is not None and kind.time_field else None
    values = {
        "kind": kind,
        "appid": 1,
        "task_id": "t",
        "to_host": "push.example.com",
        "event_time_seconds": None if time is None else int(time),
        "stated_ms": stated,
        "subject": subject,
    }
    return Callback(**(values | more))


class Delivery(Struct, frozen=True):
    """A callback and its arrival."""

    callback: Callback
    arrival: float


class Result(Struct):
    """The task after some deliveries, the measurements and the outcomes."""

    task: Task
    counts: Counter[tuple[str, str]]
    outcomes: Counter[str]
    durations: Counter[tuple[str, float]]


def deliver(
    deliveries: Iterable[Delivery], fold_settings: FoldSettings = SETTINGS, until: float | None = None
) -> Result:
    """Fold deliveries in the order of arrival; settle the task at `until`, or past the reorder window."""
    task = Task(appid=1, task_id="t", first_seen=0.0)
    result = Result(task, Counter(), Counter(), Counter())
    last = 0.0
    for delivery in sorted(deliveries, key=lambda d: d.arrival):
        folded = fold(result.task, delivery.callback, delivery.arrival, fold_settings)
        result.task = folded.task
        result.outcomes[folded.verdict.value] += 1
        record(result, folded.measurements)
        last = delivery.arrival
    settled = settle(result.task, until or last + fold_settings.reorder + 2.0, fold_settings)
    result.task = settled.task
    record(result, settled.measurements)
    return result


def record(result: Result, measurements: Iterable[tuple[str, str, float]]) -> None:
    """Add increments, and the number of observations of histograms, to the counts."""
    for name, label, amount in measurements:
        if CATALOGUE[name].kind == "histogram" and name != "callback_delay_seconds":
            result.durations[name, round(amount, 6)] += 1
        result.counts[name, label] += 1 if CATALOGUE[name].kind == "histogram" else int(amount)


def counters(result: Result) -> dict[tuple[str, str], int]:
    """Return the counters, without histograms."""
    return {key: n for key, n in result.counts.items() if CATALOGUE[key[0]].kind == "counter"}


def gauges(result: Result) -> tuple[object, ...]:
    """Return the gauges of the task, without those that depend on the arrivals."""
    now = result.task.current
    event_times = tuple(
        (e.kind, e.ms, e.subject, e.message) if e else None for e in (now.start, now.exit, now.file)
    )
    return (now.running, now.lost, now.played, event_times, result.task.runs)


def random_history(random: Random, runs: int | None = None) -> list[Callback]:
    """Return a valid history: runs of files played one after the other, exits, restarts, alarms."""
    history: list[Callback] = []
    clock = T0 + random.random()
    for number in range(runs or random.randint(1, 4)):
        clock, callbacks = _random_run(random, clock, is_last=number == (runs or 4) - 1)
        history += callbacks
        clock += random.choice([1.01, 2.0, 30.0, 400.0]) + random.random()
    return history


def _random_run(random: Random, clock: float, *, is_last: bool) -> tuple[float, list[Callback]]:
    callbacks = [callback("S", clock)]
    index = random.randint(0, 2)
    for _ in range(random.randint(0, 5)):
        clock += random.choice([0.0, 0.4, 1.5, 30.0])
        length = float(random.choice([1, 5, 60, 600]))
        subject = str(index % 3)
        callbacks.append(callback("F", clock, subject, duration_seconds=length))
        clock += length + random.random()
        if random.random() < 0.15:
            break
        callbacks.append(callback("N", clock, subject, duration_seconds=length))
        index += random.choice([0, 1])
    if random.random() < 0.3:
        callbacks.append(callback("A", clock, "PullFileUnstable"))
    if not is_last or random.random() < 0.5:
        clock += 1.0 + random.random()
        callbacks.append(callback("E", clock, random.choice(["0", "-22", "-5"]), message=f"at {clock}"))
    return clock, callbacks


def in_order(history: Sequence[Callback]) -> list[Delivery]:
    """Deliver each callback once, 20 ms after its event time."""
    return [Delivery(c, event_time(c) + 0.02) for c in history]


# The default is below the reorder window of 180 s: later callbacks would arrive after the gap is settled.
def shuffled(history: Sequence[Callback], random: Random, longest: float = 178.0) -> list[Delivery]:
    """Deliver each callback up to `longest` seconds late; deliver a fifth of them once or more again."""
    deliveries = []
    for c in history:
        first = event_time(c) + random.choice(
            [0.0, 1.0, 4.0, random.uniform(0, longest), random.uniform(0, longest)]
        )
        deliveries.append(Delivery(c, first))
        if random.random() < 0.2:
            again = random.randint(1, 3)
            deliveries += [Delivery(c, first + random.uniform(0, SETTINGS.retry - 200)) for _ in range(again)]
    return deliveries


def event_time(c: Callback) -> float:
    """Return the event time of a callback, in seconds."""
    return c.stated_ms / 1000 if c.stated_ms else float(c.event_time_seconds or 0)
