"""The behaviour of the fold exactly at its limits, and the default values of the core."""

import doctest

import pytest
from msgspec.structs import replace

from exporter.config.settings import read
from exporter.relay import (
    FoldSettings,
    Task,
    fold,
    history,
    is_forgotten,
    next_due,
    settle,
    state_machine,
    state_of,
    with_replay_horizon,
)
from exporter.relay.deduplication import MAX_IDENTITIES, Verdict
from exporter.relay.fold import MAX_LOG
from exporter.relay.state_machine import is_later
from exporter.relay.task import Entry, RunState, entry_due
from exporter.store.protocol import encode
from tests.unit.histories import SETTINGS, T0, Delivery, callback, deliver

NEW = Task(appid=1, task_id="t")


def after(*steps: tuple[float, str, float | None, str], task: Task = NEW) -> Task:
    """Return a task after callbacks (arrival, event, event time, subject), in seconds after T0."""
    for arrival, letter, time, subject in steps:
        call = callback(letter, None if time is None else T0 + time, subject)
        task = fold(task, call, T0 + arrival, SETTINGS).task
    return task


def test_default_values_are_empty() -> None:
    """A new task and a new entry are empty; the fold settings are those of the flags."""
    run_state = "[false,false,null,null,null,null,false]"
    assert (
        encode(NEW).decode() == f'[1,"t","","","","","",0.0,0.0,0,0,null,{{}},0,{run_state},[],{run_state},0]'
    )
    assert Entry("S", 7, True, True, 1.0) == Entry("S", 7, True, True, 1.0, "", 0.0, 0, "")
    assert read({}, {}).fold_settings == FoldSettings()


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((10_500, True), (10_400, True), True),
        ((10_400, True), (10_500, True), False),
        ((10_400, True), (10_400, True), False),
        ((10_500, True), (10_000, False), False),
        ((10_000, False), (9_900, True), True),
        ((11_000, False), (10_000, False), True),
        ((10_000, False), (10_000, False), False),
        ((10_000, False), (10_999, True), False),
    ],
)
def test_times_are_compared_by_milliseconds_if_both_have_them(
    one: tuple[int, bool], other: tuple[int, bool], expected: bool
) -> None:
    """Otherwise by the second."""
    a, b = (Entry("S", ms, has_milliseconds, True, 99.0) for ms, has_milliseconds in (one, other))
    assert is_later(a, b) is expected


@pytest.mark.parametrize(
    ("time", "arrival", "due"),
    [
        (0.0, 5.0, 185.0),
        (0.0, 0.3, 181.0),
        (0.9, 0.95, 181.0),
        (3.2, 4.0, 184.0),
        (50.0, 0.25, 181.25),
        (0.6, 0.5, 181.0),
    ],
)
def test_an_entry_is_settled_after_its_second_and_the_reorder_window(
    time: float, arrival: float, due: float
) -> None:
    """An event time ahead of the arrival delays the settling by a second at most."""
    entry = Entry("S", round((T0 + time) * 1000), True, True, T0 + arrival)
    assert entry_due(entry, SETTINGS) == T0 + due


def test_a_sweep_is_due_with_the_oldest_entry_and_settles_it() -> None:
    """The sweep is due exactly then; later entries stay in the log and determine the current state."""
    task = after((0.25, "S", 0.0, ""), (100.25, "E", 100.0, "0"))
    assert next_due(task, SETTINGS) == T0 + 181
    assert settle(task, T0 + 180.999, SETTINGS).task is task
    settled = settle(task, T0 + 181, SETTINGS).task
    assert [entry.kind.letter for entry in settled.log] == ["E"]
    assert (settled.settled.active, settled.current.active) == (True, False)
    assert next_due(settled, SETTINGS) == T0 + 281
    assert settled.settled_until == T0


@pytest.mark.parametrize(("late", "is_immediate"), [(5.0, True), (5.001, False)])
def test_a_callback_is_prompt_up_to_five_seconds_after_its_event_time(
    late: float, is_immediate: bool
) -> None:
    """A duration that ends with a later callback is recorded only after the reorder window."""
    first = after((0.0, "S", None, ""))
    measurements = fold(first, callback("E", T0 + 50, "0"), T0 + 50 + late, SETTINGS).measurements
    assert any(name == "run_seconds" for name, _, _ in measurements) is is_immediate


def test_a_late_file_in_the_same_second_as_its_start_has_latency_0() -> None:
    """The latency is whole seconds between event times."""
    result = deliver([Delivery(callback("S", T0), T0 + 9), Delivery(callback("F", T0, "0"), T0 + 9)])
    assert result.durations["start_to_file_latency_seconds", 0.0] == 1


@pytest.mark.parametrize(
    ("begun", "finished", "ratio"),
    [(600.0, 5.0, 1.0), (0.0, 300.0, 2.0), (0.5, 0.0, 1200.0), (0.0, 0.0, None)],
)
def test_a_ratio_uses_the_duration_of_the_file_start_or_else_of_the_finish(
    begun: float, finished: float, ratio: float | None
) -> None:
    """Any duration above 0; without a duration there is no ratio."""
    calls = [("S", None, 0.0, 0), ("F", "0", begun, 1), ("N", "0", finished, 601)]
    result = deliver(
        Delivery(callback(letter, None, subject or "", duration_seconds=length), T0 + at)
        for letter, subject, length, at in calls
    )
    assert {amount for name, amount in result.durations if name == "file_play_ratio"} == {ratio} - {None}


def test_a_field_of_a_task_keeps_its_value_until_a_callback_changes_it() -> None:
    """A callback that lacks the field does not clear it."""
    fields = {"to_host": "a", "source_host": "b", "stream_id": "c", "to_url": "d", "sources": "e"}
    task = fold(NEW, callback("S", T0, **fields), T0, SETTINGS).task
    task = fold(task, callback("A", T0, "x", **dict.fromkeys(fields, "")), T0 + 1, SETTINGS).task
    assert {name: getattr(task, name) for name in fields} == fields
    task = fold(
        task, callback("A", T0, "y", **{name: text * 2 for name, text in fields.items()}), T0 + 2, SETTINGS
    ).task
    assert {name: getattr(task, name) for name in fields} == {name: text * 2 for name, text in fields.items()}


def test_a_lost_task_has_no_file() -> None:
    """It has no run either, and it is counted as lost once."""
    task = after((0, "S", 0, ""), (1, "F", 1, "0"))
    lost = settle(task, T0 + 1 + SETTINGS.lost_after, SETTINGS)
    assert lost.measurements == (("tasks_lost_total", "", 1),)
    assert (lost.task.current.file, lost.task.settled) == (None, lost.task.current)
    assert state_of(lost.task, SETTINGS) == "lost"


def test_a_full_log_settles_only_its_oldest_second() -> None:
    """A callback that arrives while the log is full still changes the state."""
    task = NEW
    lengths = []
    for number in range(MAX_LOG + 2):
        task = after((300 + number / 100, "SE"[number % 2], float(number), "0"), task=task)
        lengths.append(len(task.log))
        assert task.current.active == (number % 2 == 0)
        assert task.log[-1].ms == (T0 + number) * 1000
    assert lengths == [*range(1, MAX_LOG + 1), MAX_LOG, MAX_LOG]
    assert task.settled_until == T0 + 1


def test_the_identities_with_the_oldest_times_are_deleted_first() -> None:
    """The order of arrival does not matter. Identities without an event time are deleted first."""
    task = fold(NEW, callback("R"), T0 + 3000, SETTINGS).task
    times = [(37 * n) % MAX_IDENTITIES for n in range(MAX_IDENTITIES)]
    for time in times:
        task = after((3000, "A", float(time), "x"), task=task)
    assert len(task.identities) == MAX_IDENTITIES
    assert {fold(task, callback("A", T0 + t, "x"), T0 + 3001, SETTINGS).verdict for t in times} == {
        Verdict.DUPLICATE
    }
    assert task.dedup_floor_ms == 0
    task = after((3001, "A", 2000.0, "x"), task=task)
    assert fold(task, callback("A", T0, "x"), T0 + 3002, SETTINGS).verdict is Verdict.STALE
    assert fold(task, callback("A", T0 + 1, "x"), T0 + 3002, SETTINGS).verdict is Verdict.DUPLICATE
    assert fold(task, callback("A", T0 + 2000, "x"), T0 + 3002, SETTINGS).verdict is Verdict.DUPLICATE
    assert task.dedup_floor_ms == T0 * 1000


def test_identities_are_kept_for_exactly_the_retry_window() -> None:
    """The next callback after the retry window deletes them."""
    first = after((0, "A", 0.0, "x"))
    assert len(after((3600, "A", 3600.0, "y"), task=first).identities) == 2
    assert list(after((3600.5, "A", 3600.0, "y"), task=first).identities) == [f"{(T0 + 3600) * 1000}|Ay"]


def test_an_invalid_time_without_another_time_is_a_bad_time() -> None:
    """The event has no time of its own, or the callback has no `event_time`."""
    for call in (callback("F", T0 + 99, "0"), callback("S", None, stated_ms=(T0 + 99) * 1000)):
        assert ("anomalies_total", "bad_time", 1) in fold(NEW, call, T0, SETTINGS).measurements
    assert ("anomalies_total", "bad_time", 1) not in fold(
        NEW, callback("F", None, "0"), T0, SETTINGS
    ).measurements


@pytest.mark.parametrize(
    ("offset", "known"), [(60, True), (61, False), (-31 * 86400, True), (-31 * 86400 - 1, False)]
)
def test_an_event_time_is_valid_exactly_up_to_its_limits(offset: int, known: bool) -> None:
    """The limits are the same for whole seconds and milliseconds."""
    for call in (callback("F", T0 + offset, "0"), callback("S", T0 + offset, event_time_seconds=None)):
        measurements = fold(NEW, call, T0, SETTINGS).measurements
        assert (("anomalies_total", "bad_time", 1) in measurements) is not known


def test_a_callback_without_a_time_is_ordered_by_its_arrival_to_the_millisecond() -> None:
    """This holds if the other callback has milliseconds too; otherwise the order is that of arrival."""
    with_milliseconds = after((0, "S", 0.0, ""), (10.8, "E", None, "0"), (12, "S", 10.5, ""))
    assert state_of(with_milliseconds, SETTINGS) == "stopped"
    whole = callback("E", T0 + 10, "0", stated_ms=None)
    late = fold(after((0, "S", 0.0, ""), (10.6, "S", 10.5, "")), whole, T0 + 11, SETTINGS).task
    assert state_of(late, SETTINGS) == "stopped"


def test_a_start_time_repeated_for_several_runs_is_compared_with_the_newest_start() -> None:
    """A run begins if an exit is between the two `event_time`s, inclusive; its time is the whole second."""
    first = callback("S", T0 + 0.25)
    task = fold(NEW, first, T0 + 0.5, SETTINGS).task
    task = after((60, "E", 60.5, "-5"), task=task)
    begun = fold(task, replace(first, event_time_seconds=T0 + 60), T0 + 61, SETTINGS)
    assert begun.verdict is Verdict.APPLIED
    assert ("callback_delay_seconds", "TaskStart", 1.0) in begun.measurements
    assert begun.task.newest_ms == (T0 + 60) * 1000 + 500
    assert state_of(begun.task, SETTINGS) == "active"  # same second as the exit, later arrival
    again = fold(begun.task, replace(first, event_time_seconds=T0 + 70), T0 + 71, SETTINGS)
    assert again.verdict is Verdict.APPLIED  # the exit is in the same second as the newest start
    more = fold(again.task, replace(first, event_time_seconds=T0 + 80), T0 + 81, SETTINGS)
    assert more.verdict is Verdict.DUPLICATE
    exit_in_same_second = after((0.4, "E", 0.3, "-5"), task=fold(NEW, first, T0 + 0.5, SETTINGS).task)
    assert (
        fold(exit_in_same_second, replace(first, event_time_seconds=T0 + 9), T0 + 9, SETTINGS).verdict
        is Verdict.APPLIED
    )


def test_every_run_with_the_same_start_time_is_in_the_history() -> None:
    """So are the earlier runs, of which only the identities are left."""
    first = callback("S", T0)
    task = fold(NEW, first, T0 + 0.5, SETTINGS).task
    for at in (100, 400, 700):
        task = after((at, "E", float(at), "0"), task=task)
        task = fold(task, replace(first, event_time_seconds=T0 + at + 50), T0 + at + 50, SETTINGS).task
    starts = [h.ms // 1000 - T0 for h in history(task) if h.kind.letter == "S"]
    assert starts == [750, 450, 150, 0]


def test_files_without_a_time_are_in_the_history_until_they_are_settled() -> None:
    """The file that plays, and the files before it."""
    task = after((0, "S", None, ""), *((n, "F", None, str(n)) for n in (1, 2, 3)))
    assert [h.subject for h in history(task) if h.kind.letter == "F"] == ["3", "2", "1"]


def test_a_replayed_callback_is_checked_against_the_newest_time_of_its_task() -> None:
    """A callback without an event time is accepted up to the retry window only."""
    timeless = after((0, "S", None, ""))
    assert with_replay_horizon(timeless, callback("A", None, "x"), T0, T0 + 3600, SETTINGS) is timeless
    assert with_replay_horizon(timeless, callback("A", None, "x"), T0, T0 + 3600.1, SETTINGS) is None
    seen = with_replay_horizon(timeless, callback("A", T0, "x"), T0, T0 + 9000, SETTINGS)
    assert seen is not None
    assert seen.dedup_floor_ms == (T0 + 9000 - 3600) * 1000
    timed = with_replay_horizon(after((0, "S", 0.25, "")), callback("A", T0, "x"), T0, T0 + 9000, SETTINGS)
    assert timed is not None
    assert timed.dedup_floor_ms == T0 * 1000 + 250


def test_a_task_is_not_forgotten_within_the_reorder_window() -> None:
    """This holds also if that is the longest window; the second of the event must have passed too."""
    settings = FoldSettings(retry=60.0, reorder=7200.0, forget_stopped_after=60.0)
    task = fold(NEW, callback("E", T0, "0"), T0 + 1.5, settings).task
    settled = settle(task, T0 + 7300, settings).task
    assert not is_forgotten(settled, T0 + 7202.4, settings)
    assert is_forgotten(settled, T0 + 7202.5, settings)


def test_a_run_state_is_inferred_until_its_start_arrives() -> None:
    """This holds also if the start arrives after `missed_start` was counted."""
    inferred = settle(after((3, "F", 2, "0")), T0 + 300, SETTINGS).task
    assert (inferred.current.inferred, RunState().inferred) == (True, False)
    begun = after((400, "S", 0.25, ""), task=inferred)
    assert (begun.current.inferred, begun.settled.inferred) == (False, False)
    assert begun.current.file == inferred.current.file


def test_the_worked_example_of_the_state_machine_is_correct() -> None:
    """The example in the docstring of the state machine gives the output that it shows."""
    result = doctest.testmod(state_machine)
    assert (result.failed, result.attempted > 0) == (0, True)
