"""The history of a task: the events that its record still holds."""

from random import Random

from exporter.protocol.events import EventKind
from exporter.relay import HistoryEvent, Task, history
from tests.unit.histories import (
    T0,
    Delivery,
    callback,
    deliver,
    event_time,
    in_order,
    random_history,
    shuffled,
)


def history_after(*deliveries: Delivery) -> list[HistoryEvent]:
    """Return the history of a task after some deliveries."""
    return history(deliver(deliveries).task)


def at(letter: str, time: float, subject: str = "", **more: object) -> Delivery:
    """Return a delivery of a callback 0.1 s after its event time."""
    return Delivery(callback(letter, T0 + time, subject, **more), T0 + time + 0.1)


def test_a_new_task_has_no_history() -> None:
    """As before its first callback."""
    assert history(Task(appid=1, task_id="t")) == []


def test_each_event_is_listed_once_newest_first() -> None:
    """An exit has its code and message. Settled events are listed too."""
    deliveries = [
        at("S", 0),
        at("F", 1, "0"),
        at("N", 61, "0"),
        at("A", 62, "FileEndEarly"),
        at("R", 63),
        at("E", 70.5, "-22", message="why"),
    ]
    expected = [
        HistoryEvent((T0 + 70) * 1000 + 500, EventKind.EXIT, "-22", "why"),
        HistoryEvent((T0 + 63) * 1000, EventKind.CONFIG_RESET),
        HistoryEvent((T0 + 62) * 1000, EventKind.ALARM, "FileEndEarly"),
        HistoryEvent((T0 + 61) * 1000, EventKind.FILE_FINISH, "0"),
        HistoryEvent((T0 + 1) * 1000, EventKind.FILE_START, "0"),
        HistoryEvent(T0 * 1000, EventKind.START),
    ]
    assert history_after(*deliveries) == expected
    assert history_after(*deliveries, *deliveries) == expected
    assert history(deliver(deliveries, until=T0 + 75.0).task) == expected


def test_an_event_without_a_time_is_listed_at_its_arrival() -> None:
    """An alarm has no other time."""
    alarm = Delivery(callback("A", None, "FileEndEarly"), T0 + 5.0)
    assert history_after(alarm) == [HistoryEvent((T0 + 5) * 1000, EventKind.ALARM, "FileEndEarly")]


def test_runs_with_the_same_start_time_are_listed_separately() -> None:
    """The first at its start time, each later run at its `event_time`."""
    later = Delivery(callback("S", T0, event_time_seconds=T0 + 60), T0 + 60.1)
    starts = [h.ms for h in history_after(at("S", 0), at("E", 30, "-22"), later) if h.kind.letter == "S"]
    assert starts == [(T0 + 60) * 1000, T0 * 1000]


def test_the_history_does_not_depend_on_the_order_of_arrival() -> None:
    """Every callback of the last hour is in it."""
    for seed in range(100):
        random = Random(seed)
        calls = random_history(random, runs=1)
        expected = {(round(event_time(c) * 1000), c.kind.letter, c.subject) for c in calls}
        for deliveries in (in_order(calls), shuffled(calls, random)):
            task = deliver(deliveries).task
            known = {(h.ms, h.kind.letter, h.subject) for h in history(task)}
            recent = {e for e in expected if e[0] / 1000 > task.last_callback_at - 3000}
            assert recent <= known <= expected, seed
