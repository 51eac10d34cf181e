"""Replay: what is valid today is counted once, as of when it came; what is not stays."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.ingest.replay import Replayer, ReplayResult
from exporter.metrics.values import histogram_keys, series
from exporter.protocol.callback import Callback
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.relay import Task
from exporter.store.protocol import QuarantinedBody, QuarantineEntry, Store, StoreOptions
from exporter.store.records import decode_label_set, decode_task
from exporter.store.sqlite.store import SqliteStore
from tests.unit.histories import T0, WINDOWS

LABELS = ("appid", "to_host")
PARSER = Parser(schemas=Schemas(), redactor=Redactor(key=b"key", plain_hosts=[]))
FOLDER = BatchApplier(WINDOWS, LABELS)
HOUR = 3600.0


def body(event: str, at: float | None, msg: dict[str, Any] | None = None, **more: Any) -> bytes:
    """Return a callback of task 4/a that says it happened at a time (seconds)."""
    fields = {"appid": 4, "event_type": 314, "callback_event": event, "task_id": "a", "msg": msg or {}}
    return json.dumps(fields | ({} if at is None else {"event_time": int(at)}) | more).encode()


class Bench:
    """A store with a quarantine, and what is asked of them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def keep(self, raw: bytes, arrival: float, reason: str = "schema") -> QuarantinedBody:
        """Keep a body for a look."""
        self.store.transact(
            lambda transaction: transaction.quarantine(QuarantineEntry(reason, raw, "::1", arrival))
        )
        return next(held for held in self.store.bodies(limit=99) if held.body == raw)

    def live(self, raw: bytes, arrival: float) -> None:
        """Take a callback as it comes in."""
        arrived = BatchItem(arrival, PARSER.parse(raw))
        self.store.transact(lambda transaction: FOLDER.apply([arrived], transaction))

    def replay(self, held: QuarantinedBody, now: float) -> ReplayResult:
        """Replay a body."""
        return Replayer(store=self.store, parser=PARSER, applier=FOLDER, clock=lambda: now).replay(held)

    @property
    def kept(self) -> int:
        """How many bodies are in the quarantine."""
        return self.store.snapshot(1).quarantined

    @property
    def fleet(self) -> dict[str, int]:
        """The numbers of the fleet."""
        return decode_label_set(self.store.snapshot(1).fleet).values

    def counted(self, name: str) -> int:
        """Return a counter over all label sets."""
        return sum(
            decode_label_set(record).values.get(name, 0) for _, record in self.store.snapshot(1).label_sets
        )

    @property
    def task(self) -> Task:
        """Task 4/a."""
        record = self.store.find_task("4/a")
        assert record is not None
        return decode_task(record)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A new store."""
    store = SqliteStore(tmp_path / "relay.db", StoreOptions())
    yield Bench(store)
    store.close()


def test_a_body_counts_as_of_when_it_came(bench: Bench) -> None:
    """Its delay is that of its first arrival, and it moves its task as it would have then."""
    bench.live(body("TaskStart", T0), T0 + 0.5)
    held = bench.keep(body("TaskExit", T0 + 60, {"code": -22}), T0 + 61.0)
    assert bench.replay(held, T0 + 1800.0) == ReplayResult("applied")
    assert bench.kept == 0
    assert bench.counted(series("tasks_exited_total", "-22")) == bench.counted("tasks_failed_total") == 1
    assert bench.task.current.exit is not None
    assert bench.task.current.exit.arrival == T0 + 61.0
    assert bench.fleet[series("callbacks_total", "TaskExit", "applied")] == 1
    assert bench.fleet[histogram_keys("callback_delay_seconds", "TaskExit")[-1]] == 1_000_000


def test_a_body_counts_once_however_often_it_is_replayed(bench: Bench) -> None:
    """Also by one who listed it before another took it."""
    held = bench.keep(body("TaskStart", T0), T0 + 1.0)
    assert [bench.replay(held, T0 + 9.0).outcome for _ in range(3)] == ["applied", "not_found", "not_found"]
    assert bench.counted("tasks_started_total") == 1


def test_a_body_whose_redelivery_was_counted_is_a_duplicate(bench: Bench) -> None:
    """The sender went on until it was answered 200."""
    raw = body("TaskStart", T0)
    held = bench.keep(raw, T0 + 1.0)
    bench.live(raw + b" ", T0 + 120.0)
    assert bench.replay(held, T0 + 180.0) == ReplayResult("duplicate")
    assert bench.counted("tasks_started_total") == 1
    assert bench.kept == 0


@pytest.mark.parametrize("first", [T0 + 1.0, T0 + 3000.0])
def test_a_body_that_can_not_be_told_from_a_counted_one_is_stale(bench: Bench, first: float) -> None:
    """Hours later its identity is forgotten, perhaps its task too: it must not count a second time."""
    raw = body("TaskExit", T0, {"code": 0})
    held = bench.keep(raw, first)
    bench.live(raw + b" ", first + 120.0)
    for n in range(3):
        bench.live(body("TaskAlarm", T0 + n * 2 * HOUR, {"type": str(n)}), T0 + n * 2 * HOUR + 1)
    assert bench.replay(held, T0 + 9 * HOUR) == ReplayResult("stale")
    bench.keep(raw, first)
    bench.store.transact(lambda transaction: transaction.delete("4/a"))
    assert bench.replay(held, T0 + 9 * HOUR) == ReplayResult("stale")
    assert bench.counted(series("tasks_exited_total", "0")) == 1
    assert bench.fleet[series("callbacks_total", "TaskExit", "stale")] == 2
    assert bench.store.find_task("4/a") is None


def test_an_old_body_counts_if_nothing_as_new_is_known_of_its_task(bench: Bench) -> None:
    """The exit that was refused last week ends a task that seems to run ever since."""
    bench.live(body("TaskStart", T0), T0 + 1.0)
    held = bench.keep(body("TaskExit", T0 + HOUR, {"code": -5}), T0 + HOUR + 1)
    assert bench.replay(held, T0 + 100 * HOUR) == ReplayResult("applied")
    assert not bench.task.current.active
    bench.keep(held.body, held.first)
    assert bench.replay(held, T0 + 100 * HOUR) == ReplayResult("duplicate")
    assert bench.counted(series("tasks_exited_total", "-5")) == 1


def test_a_body_without_a_time_is_judged_by_its_task_within_the_retry_window_alone(bench: Bench) -> None:
    """After it no state can tell."""
    held = bench.keep(body("TaskStart", None), T0 + 1.0)
    assert bench.replay(held, T0 + HOUR) == ReplayResult("applied")
    bench.keep(held.body, held.first)
    assert bench.replay(held, T0 + HOUR + 2) == ReplayResult("stale")
    assert bench.counted("tasks_started_total") == 1


def test_an_exit_without_a_task_finds_its_owner(bench: Bench) -> None:
    """Or is stale when it is too old to be told."""
    sources = {"source_urls": ["http://a/x"]}
    bench.live(body("TaskStart", T0, **sources), T0 + 1.0)
    held = bench.keep(body("TaskExit", T0 + 60, {"code": 0}, task_id=None, **sources), T0 + 61.0)
    assert bench.replay(held, T0 + 120.0) == ReplayResult("applied")
    assert not bench.task.current.active
    late = bench.keep(body("TaskExit", T0 + 59, {"code": 0}, task_id="", **sources), T0 + 62.0)
    assert bench.replay(late, T0 + 9 * HOUR) == ReplayResult("stale")
    timeless = bench.keep(body("TaskExit", None, {"code": 0}, task_id="", **sources), T0 + 62.0)
    assert bench.replay(timeless, T0 + 9 * HOUR) == ReplayResult("stale")
    assert bench.counted(series("tasks_exited_total", "0")) == 1


@pytest.mark.parametrize(
    ("raw", "reason", "why"),
    [
        (b"{", "json", "expected JSON"),
        (body("TaskExit", T0, task_id=4.5), "schema", "/task_id"),
        (body("TaskPause", T0), "unknown_event", "still unknown"),
    ],
)
def test_what_is_still_of_no_use_stays_as_it_is(bench: Bench, raw: bytes, reason: str, why: str) -> None:
    """Nothing of it is counted."""
    held = bench.keep(raw, T0, reason)
    before = bench.store.snapshot(9)
    replayed = bench.replay(held, T0 + 9.0)
    assert replayed.outcome == "still_invalid"
    assert why in replayed.problem
    assert bench.store.snapshot(9) == before
    assert bench.store.bodies(limit=9) == [held]


def test_an_event_that_is_known_by_now_counts_under_its_name(bench: Bench) -> None:
    """That it was ignored when it came stays counted."""
    raw = body("TaskStart", T0)
    ignored = BatchItem(
        T0 + 1.0, PARSER.parse(body("TaskPause", T0)), QuarantineEntry("unknown_event", raw, "::1", T0)
    )
    bench.store.transact(lambda transaction: FOLDER.apply([ignored], transaction))
    (held,) = bench.store.bodies(limit=9)
    assert bench.replay(held, T0 + 9.0) == ReplayResult("applied")
    assert bench.fleet[series("callbacks_total", "other", "ignored")] == 1
    assert bench.fleet[series("callbacks_total", "TaskStart", "applied")] == 1
    assert series("quarantine_evicted_total") not in bench.fleet


def test_a_step_that_fails_leaves_the_body(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And counts nothing: both are one."""
    held = bench.keep(body("TaskStart", T0), T0 + 1.0)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    patch: Callable[..., None] = monkeypatch.setattr
    patch(FOLDER, "_count", fail)
    with pytest.raises(ZeroDivisionError):
        bench.replay(held, T0 + 9.0)
    assert (bench.kept, bench.counted("tasks_started_total")) == (1, 0)
    monkeypatch.undo()
    assert bench.replay(held, T0 + 9.0) == ReplayResult("applied")
    assert isinstance(PARSER.parse(held.body), Callback)
