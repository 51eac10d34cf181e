"""Replay: a quarantined body that is valid now counts once, at its arrival; an invalid body stays."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.commands.quarantine import Quarantine
from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.metrics.values import BatchIncrements, histogram_keys, series
from exporter.protocol.callback import Callback
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.relay import Task
from exporter.store.protocol import QuarantinedBody, Store, StoreOptions, decode_label_set, decode_task
from exporter.store.sqlite.store import SqliteStore
from exporter.store.transaction import QuarantineEntry
from tests.unit.histories import SETTINGS, T0

LABELS = ("appid", "to_host")
REDACTOR = Redactor(key=b"key", plain_hosts=[])
PARSER = Parser(schemas=Schemas(), redactor=REDACTOR)
APPLIER = BatchApplier(SETTINGS, LABELS)
HOUR = 3600.0


def body(event: str, at: float | None, msg: dict[str, Any] | None = None, **more: Any) -> bytes:
    """Return a callback of task 4/a with an event time in seconds."""
    fields = {"appid": 4, "event_type": 314, "callback_event": event, "task_id": "a", "msg": msg or {}}
    return json.dumps(fields | ({} if at is None else {"event_time": int(at)}) | more).encode()


class ReplaySetup:
    """A store with a quarantine, and the operations that the tests need."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def quarantine(self, raw: bytes, arrival: float, reason: str = "schema") -> QuarantinedBody:
        """Put a body into the quarantine."""
        self.store.transact(
            lambda transaction: transaction.quarantine(QuarantineEntry(reason, raw, "::1", arrival))
        )
        return next(stored for stored in self.store.bodies(limit=99) if stored.body == raw)

    def receive(self, raw: bytes, arrival: float) -> None:
        """Apply a callback that arrives."""
        arrived = BatchItem(arrival, PARSER.parse(raw))
        self.store.transact(lambda transaction: APPLIER.apply([arrived], transaction))

    def replay(self, stored: QuarantinedBody, now: float) -> tuple[str, str]:
        """Replay a body."""
        quarantine = Quarantine(
            self.store, parser=PARSER, redactor=REDACTOR, applier=APPLIER, clock=lambda: now
        )
        return quarantine.replay(stored)

    @property
    def quarantined(self) -> int:
        """The number of bodies in the quarantine."""
        return self.store.snapshot(1).quarantined

    @property
    def fleet(self) -> dict[str, int]:
        """The values of the fleet's families."""
        return decode_label_set(self.store.snapshot(1).fleet).values

    def counted(self, name: str) -> int:
        """Return the sum of a counter over all label sets."""
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
def replay_setup(tmp_path: Path) -> Iterator[ReplaySetup]:
    """A replay_setup on a new store."""
    store = SqliteStore(tmp_path / "relay.db", StoreOptions())
    yield ReplaySetup(store)
    store.close()


def test_a_replayed_body_counts_at_its_first_arrival(replay_setup: ReplaySetup) -> None:
    """Its delay is measured at its first arrival, and it changes the task as it would have then."""
    replay_setup.receive(body("TaskStart", T0), T0 + 0.5)
    stored = replay_setup.quarantine(body("TaskExit", T0 + 60, {"code": -22}), T0 + 61.0)
    assert replay_setup.replay(stored, T0 + 1800.0) == ("applied", "")
    assert replay_setup.quarantined == 0
    assert (
        replay_setup.counted(series("tasks_exited_total", "-22"))
        == replay_setup.counted("tasks_failed_total")
        == 1
    )
    assert replay_setup.task.current.exit is not None
    assert replay_setup.task.current.exit.arrival == T0 + 61.0
    assert replay_setup.fleet[series("callbacks_total", "TaskExit", "applied")] == 1
    assert replay_setup.fleet[histogram_keys("callback_delay_seconds", "TaskExit")[-1]] == 1_000_000


def test_a_body_counts_once_however_often_it_is_replayed(replay_setup: ReplaySetup) -> None:
    """Another process may have listed the body before it was replayed."""
    stored = replay_setup.quarantine(body("TaskStart", T0), T0 + 1.0)
    assert [replay_setup.replay(stored, T0 + 9.0)[0] for _ in range(3)] == [
        "applied",
        "not_found",
        "not_found",
    ]
    assert replay_setup.counted("tasks_started_total") == 1


def test_a_body_whose_redelivery_was_counted_is_a_duplicate(replay_setup: ReplaySetup) -> None:
    """The sender repeated the callback until it was answered 200."""
    raw = body("TaskStart", T0)
    stored = replay_setup.quarantine(raw, T0 + 1.0)
    replay_setup.receive(raw + b" ", T0 + 120.0)
    assert replay_setup.replay(stored, T0 + 180.0) == ("duplicate", "")
    assert replay_setup.counted("tasks_started_total") == 1
    assert replay_setup.quarantined == 0


@pytest.mark.parametrize("first", [T0 + 1.0, T0 + 3000.0])
def test_a_body_that_may_have_been_counted_is_stale(replay_setup: ReplaySetup, first: float) -> None:
    """Hours later the identity is deleted, perhaps the task too: the body must not count a second time."""
    raw = body("TaskExit", T0, {"code": 0})
    stored = replay_setup.quarantine(raw, first)
    replay_setup.receive(raw + b" ", first + 120.0)
    for n in range(3):
        replay_setup.receive(body("TaskAlarm", T0 + n * 2 * HOUR, {"type": str(n)}), T0 + n * 2 * HOUR + 1)
    assert replay_setup.replay(stored, T0 + 9 * HOUR) == ("stale", "")
    replay_setup.quarantine(raw, first)
    replay_setup.store.transact(lambda transaction: transaction.delete("4/a"))
    assert replay_setup.replay(stored, T0 + 9 * HOUR) == ("stale", "")
    assert replay_setup.counted(series("tasks_exited_total", "0")) == 1
    assert replay_setup.fleet[series("callbacks_total", "TaskExit", "stale")] == 2
    assert replay_setup.store.find_task("4/a") is None


def test_an_old_body_counts_if_it_is_newer_than_all_callbacks_of_its_task(replay_setup: ReplaySetup) -> None:
    """An exit that was rejected last week ends a task that has been active since."""
    replay_setup.receive(body("TaskStart", T0), T0 + 1.0)
    stored = replay_setup.quarantine(body("TaskExit", T0 + HOUR, {"code": -5}), T0 + HOUR + 1)
    assert replay_setup.replay(stored, T0 + 100 * HOUR) == ("applied", "")
    assert not replay_setup.task.current.active
    replay_setup.quarantine(stored.body, stored.first)
    assert replay_setup.replay(stored, T0 + 100 * HOUR) == ("duplicate", "")
    assert replay_setup.counted(series("tasks_exited_total", "-5")) == 1


def test_a_body_without_a_time_is_checked_against_its_task_within_the_retry_window_only(
    replay_setup: ReplaySetup,
) -> None:
    """The state of the task does not show later whether the body was counted."""
    stored = replay_setup.quarantine(body("TaskStart", None), T0 + 1.0)
    assert replay_setup.replay(stored, T0 + HOUR) == ("applied", "")
    replay_setup.quarantine(stored.body, stored.first)
    assert replay_setup.replay(stored, T0 + HOUR + 2) == ("stale", "")
    assert replay_setup.counted("tasks_started_total") == 1


def test_an_exit_without_a_task_id_is_attributed(replay_setup: ReplaySetup) -> None:
    """It is stale if it is too old to attribute."""
    sources = {"source_urls": ["http://a/x"]}
    replay_setup.receive(body("TaskStart", T0, **sources), T0 + 1.0)
    stored = replay_setup.quarantine(
        body("TaskExit", T0 + 60, {"code": 0}, task_id=None, **sources), T0 + 61.0
    )
    assert replay_setup.replay(stored, T0 + 120.0) == ("applied", "")
    assert not replay_setup.task.current.active
    late = replay_setup.quarantine(body("TaskExit", T0 + 59, {"code": 0}, task_id="", **sources), T0 + 62.0)
    assert replay_setup.replay(late, T0 + 9 * HOUR) == ("stale", "")
    timeless = replay_setup.quarantine(body("TaskExit", None, {"code": 0}, task_id="", **sources), T0 + 62.0)
    assert replay_setup.replay(timeless, T0 + 9 * HOUR) == ("stale", "")
    assert replay_setup.counted(series("tasks_exited_total", "0")) == 1


@pytest.mark.parametrize(
    ("raw", "reason", "why"),
    [
        (b"{", "json", "expected JSON"),
        (body("TaskExit", T0, task_id=4.5), "schema", "/task_id"),
        (body("TaskMadeUp", T0), "unknown_event", "still unknown"),
    ],
)
def test_a_body_that_is_still_invalid_stays_unchanged(
    replay_setup: ReplaySetup, raw: bytes, reason: str, why: str
) -> None:
    """Nothing is counted."""
    stored = replay_setup.quarantine(raw, T0, reason)
    before = replay_setup.store.snapshot(9)
    replayed = replay_setup.replay(stored, T0 + 9.0)
    assert replayed[0] == "still_invalid"
    assert why in replayed[1]
    assert replay_setup.store.snapshot(9) == before
    assert replay_setup.store.bodies(limit=9) == [stored]


def test_an_event_that_is_known_now_counts_under_its_name(replay_setup: ReplaySetup) -> None:
    """The earlier `ignored` stays counted."""
    raw = body("TaskStart", T0)
    ignored = BatchItem(
        T0 + 1.0, PARSER.parse(body("TaskMadeUp", T0)), QuarantineEntry("unknown_event", raw, "::1", T0)
    )
    replay_setup.store.transact(lambda transaction: APPLIER.apply([ignored], transaction))
    (stored,) = replay_setup.store.bodies(limit=9)
    assert replay_setup.replay(stored, T0 + 9.0) == ("applied", "")
    assert replay_setup.fleet[series("callbacks_total", "other", "ignored")] == 1
    assert replay_setup.fleet[series("callbacks_total", "TaskStart", "applied")] == 1
    assert series("quarantine_evicted_total") not in replay_setup.fleet


def test_a_failed_transaction_keeps_the_body_and_counts_nothing(
    replay_setup: ReplaySetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion of the body and its counting are one transaction."""
    stored = replay_setup.quarantine(body("TaskStart", T0), T0 + 1.0)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    patch: Callable[..., None] = monkeypatch.setattr
    patch(BatchIncrements, "set_time", fail)
    with pytest.raises(ZeroDivisionError):
        replay_setup.replay(stored, T0 + 9.0)
    assert (replay_setup.quarantined, replay_setup.counted("tasks_started_total")) == (1, 0)
    monkeypatch.undo()
    assert replay_setup.replay(stored, T0 + 9.0) == ("applied", "")
    assert isinstance(PARSER.parse(stored.body), Callback)
