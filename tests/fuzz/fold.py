"""Fuzz the fold with impossible histories, in any order, with clocks that jump."""

import math
from collections.abc import Iterator

from msgspec import Struct

from exporter.metrics.catalogue import CATALOGUE
from exporter.metrics.values import BatchIncrements
from exporter.protocol.callback import Callback
from exporter.protocol.events import BY_LETTER
from exporter.relay import (
    NONE,
    STATES,
    Folded,
    FoldSettings,
    Task,
    Verdict,
    fold,
    history,
    next_due,
    settle,
    state_of,
)
from exporter.relay.deduplication import MAX_IDENTITIES, event_time_of
from exporter.relay.fold import MAX_LOG
from exporter.store.protocol import decode_task, encode
from tests.fuzz.reader import Reader

T0 = 1_795_500_000
WINDOWS = FoldSettings(forget_after=7200.0, lost_after=86_400.0)
LETTERS = "SFNESFNEAR"
STEPS = (0.001, 0.002, 0.5, 1.0, 2.0, 7.0, 60.0, 181.0, 3600.0, 90_000.0, -1.0, -600.0)
AGES = (0.0, 0.0, 0.3, 1.0, 5.0, 100.0, 179.0, 3601.0, 100_000.0, -1.0, -2.5, -61.0)
MAX_CALLBACKS = 200
SUBJECTS = ("0", "1", "-22")
#: The largest record in bytes: the log, the identities and a few more entries, each of some hundred bytes at
#: most.
MAX_RECORD = (MAX_LOG + 9) * 700 + MAX_IDENTITIES * 300


class Arrived(Struct, frozen=True):
    """A callback with its arrival, in UNIX seconds."""

    callback: Callback
    arrival: float


def callbacks_in(data: bytes, tasks: int = 1) -> Iterator[Arrived]:
    """Yield the callbacks in `data`: a byte for the kind of sender, then about seven per callback."""
    reader, arrival = Reader(data), float(T0)
    always, never = reader.one_of(
        ((3, 0), (1, 2), (0, 3), (0, 0))
    )  # bits of the times that a callback states
    for _ in range(MAX_CALLBACKS):
        if reader.is_empty:
            return
        arrival += reader.one_of(STEPS)
        letter = reader.one_of(LETTERS)
        time = arrival - reader.one_of(AGES)
        has = reader.number() & ~never | always
        yield Arrived(_callback(reader, letter, time, has, tasks), round(arrival, 3))


def _callback(reader: Reader, letter: str, time: float, has: int, tasks: int) -> Callback:
    kind, subject = BY_LETTER[letter], reader.one_of(SUBJECTS)
    is_nameless = tasks > 1 and letter == "E" and has & 12 == 12
    return Callback(
        kind=kind,
        appid=1,
        task_id="" if is_nameless else f"t{reader.number() % tasks}",
        to_host="push.example.com",
        sources="5eed5eed5eed5eed",
        event_time_seconds=int(time) if has & 1 else None,
        stated_ms=int(time * 1000) if has & 2 and kind.time_field else None,
        subject="PullFileUnstable" if letter == "A" else "" if letter in "SR" else subject,
        duration_seconds=float(reader.one_of((0, 1, 60, 600))) if letter in "FN" else 0.0,
        message="why" * (has >> 6) if letter == "E" else "",
    )


def check_fold(data: bytes) -> None:
    """Fold the callbacks in `data`, and check the invariants after every step.

    Raises:
        AssertionError: an invariant does not hold.
    """
    task, increments = Task(appid=1, task_id="t0"), BatchIncrements()
    latest = 0.0
    for arrived in callbacks_in(data):
        folded = fold(task, arrived.callback, arrived.arrival, WINDOWS)
        _check_step(task, folded, arrived)
        event_time = event_time_of(arrived.callback, arrived.arrival, WINDOWS)
        # A callback without a time is recognized as a redelivery only if all callbacks so far had no time
        # either and arrived earlier.
        if event_time.is_stated or latest < arrived.arrival:
            _check_redelivery(folded.task, arrived)
        latest = math.inf if event_time.is_stated else max(latest, arrived.arrival)
        increments.record(folded.measurements, ("1",), "t0", arrived.arrival)
        task = folded.task
    end = settle(task, T0 + 1e9, WINDOWS)
    increments.record(end.measurements, ("1",), "t0", T0 + 1e9)
    assert not end.task.log
    assert not end.task.current.active
    for counted in increments.by_labels.values():
        assert all(amount >= 0 for amount in counted.values.values()), counted


def _check_step(before: Task, folded: Folded, arrived: Arrived) -> None:
    task = folded.task
    record = encode(task)
    assert decode_task(record) == task
    assert len(record) <= MAX_RECORD
    assert len(task.identities) <= MAX_IDENTITIES
    assert len(task.log) <= MAX_LOG
    assert [e.second for e in task.log] == sorted(e.second for e in task.log)
    assert state_of(task, WINDOWS) in (*STATES, NONE)
    assert next_due(task, WINDOWS) > 0
    assert all(
        amount >= 0 and math.isfinite(amount) and name in CATALOGUE for name, _, amount in folded.measurements
    )
    assert task.runs - before.runs in (0, 1)
    known = [(h.ms, h.kind.letter, h.subject) for h in history(task)]
    assert known == sorted(known, reverse=True)
    if folded.verdict is not Verdict.APPLIED:
        assert task == settle(before, arrived.arrival, WINDOWS).task
    assert settle(task, arrived.arrival, WINDOWS).task == task


def _check_redelivery(task: Task, arrived: Arrived) -> None:
    """Check that an immediate redelivery is not applied, counts nothing and changes nothing."""
    again = fold(task, arrived.callback, arrived.arrival, WINDOWS)
    assert again.verdict is not Verdict.APPLIED, arrived
    assert again.task == task
    assert again.measurements == ()
