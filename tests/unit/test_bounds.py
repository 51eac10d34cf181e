"""What the fold does exactly at its bounds, and what a value of the core is when nothing is said of it."""

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
from exporter.store.records import encode
from tests.unit.histories import T0, WINDOWS, Delivery, callback, deliver

NEW = Task(appid=1, task_id="t")


def after(*steps: tuple[float, str, float | None, str], task: Task = NEW) -> Task:
    """Return a task after (arrival, event, time, subject), in seconds after T0."""
    for arrival, letter, time, subject in steps:
        call = callback(letter, None if time is None else T0 + time, subject)
        task = fold(task, call, T0 + arrival, WINDOWS).task
    return task


def test_what_is_not_said_is_empty() -> None:
    """A new task, a new entry, and the windows, which are those of the settings."""
    course = "[false,false,null,null,null,null,false]"
    assert encode(NEW) == f'[1,"t","","","","","",0.0,0.0,0,0,null,{{}},0,{course},[],{course},0]'
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
def test_times_are_compared_by_milliseconds_where_both_have_them(
    one: tuple[int, bool], other: tuple[int, bool], expected: bool
) -> None:
    """By the second otherwise."""
    a, b = (Entry("S", ms, exact, True, 99.0) for ms, exact in (one, other))
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
def test_nothing_is_settled_before_its_second_is_over_and_the_window_has_passed(
    time: float, arrival: float, due: float
) -> None:
    """A time ahead of the arrival is waited for a second at most."""
    entry = Entry("S", round((T0 + time) * 1000), True, True, T0 + arrival)
    assert entry_due(entry, WINDOWS) == T0 + due


def test_a_sweep_is_due_with_the_first_of_what_waits_and_settles_it_then() -> None:
    """Not a moment later; the rest still waits, and says where the task stands."""
    task = after((0.25, "S", 0.0, ""), (100.25, "E", 100.0, "0"))
    assert next_due(task, WINDOWS) == T0 + 181
    assert settle(task, T0 + 180.999, WINDOWS).task is task
    settled = settle(task, T0 + 181, WINDOWS).task
    assert [entry.kind.letter for entry in settled.log] == ["E"]
    assert (settled.settled.active, settled.current.active) == (True, False)
    assert next_due(settled, WINDOWS) == T0 + 281
    assert settled.settled_until == T0


@pytest.mark.parametrize(("late", "at_once"), [(5.0, True), (5.001, False)])
def test_a_callback_is_prompt_for_just_five_seconds(late: float, at_once: bool) -> None:
    """Then a duration that ends with it is told only when nothing can come between."""
    first = after((0.0, "S", None, ""))
    told = fold(first, callback("E", T0 + 50, "0"), T0 + 50 + late, WINDOWS).measurements
    assert any(name == "run_seconds" for name, _, _ in told) is at_once


def test_a_late_file_in_the_second_of_its_start_took_no_time() -> None:
    """Whole seconds between event times."""
    result = deliver([Delivery(callback("S", T0), T0 + 9), Delivery(callback("F", T0, "0"), T0 + 9)])
    assert result.durations["start_to_file_latency_seconds", 0.0] == 1


@pytest.mark.parametrize(
    ("begun", "finished", "ratio"),
    [(600.0, 5.0, 1.0), (0.0, 300.0, 2.0), (0.5, 0.0, 1200.0), (0.0, 0.0, None)],
)
def test_a_ratio_is_to_the_length_that_the_start_declares_or_else_the_finish(
    begun: float, finished: float, ratio: float | None
) -> None:
    """However short; none where neither does."""
    calls = [("S", None, 0.0, 0), ("F", "0", begun, 1), ("N", "0", finished, 601)]
    result = deliver(
        Delivery(callback(letter, None, subject or "", duration_seconds=length), T0 + at)
        for letter, subject, length, at in calls
    )
    assert {amount for name, amount in result.durations if name == "file_play_ratio"} == {ratio} - {None}


def test_what_a_callback_says_of_its_task_stays_until_another_says_otherwise() -> None:
    """One that lacks it does not wipe it."""
    said = {"to_host": "a", "source_host": "b", "stream_id": "c", "to_url": "d", "sources": "e"}
    task = fold(NEW, callback("S", T0, **said), T0, WINDOWS).task
    task = fold(task, callback("A", T0, "x", **dict.fromkeys(said, "")), T0 + 1, WINDOWS).task
    assert {name: getattr(task, name) for name in said} == said
    task = fold(
        task, callback("A", T0, "y", **{name: text * 2 for name, text in said.items()}), T0 + 2, WINDOWS
    ).task
    assert {name: getattr(task, name) for name in said} == {name: text * 2 for name, text in said.items()}


def test_a_lost_task_plays_nothing() -> None:
    """Nor does it run, and one that is lost is lost once."""
    task = after((0, "S", 0, ""), (1, "F", 1, "0"))
    lost = settle(task, T0 + 1 + WINDOWS.lost_after, WINDOWS)
    assert lost.measurements == (("tasks_lost_total", "", 1),)
    assert (lost.task.current.file, lost.task.settled) == (None, lost.task.current)
    assert state_of(lost.task, WINDOWS) == "lost"


def test_a_full_log_gives_up_its_oldest_second_alone() -> None:
    """And what overflows it still moves the task."""
    task = NEW
    lengths = []
    for number in range(MAX_LOG + 2):
        task = after((300 + number / 100, "SE"[number % 2], float(number), "0"), task=task)
        lengths.append(len(task.log))
        assert task.current.active == (number % 2 == 0)
        assert task.log[-1].ms == (T0 + number) * 1000
    assert lengths == [*range(1, MAX_LOG + 1), MAX_LOG, MAX_LOG]
    assert task.settled_until == T0 + 1


def test_the_identities_with_the_oldest_times_are_given_up_first() -> None:
    """Whatever came when; those without a time before all others."""
    task = fold(NEW, callback("R"), T0 + 3000, WINDOWS).task
    times = [(37 * n) % MAX_IDENTITIES for n in range(MAX_IDENTITIES)]
    for time in times:
        task = after((3000, "A", float(time), "x"), task=task)
    assert len(task.identities) == MAX_IDENTITIES
    assert {fold(task, callback("A", T0 + t, "x"), T0 + 3001, WINDOWS).verdict for t in times} == {
        Verdict.DUPLICATE
    }
    assert task.dedup_floor_ms == 0
    task = after((3001, "A", 2000.0, "x"), task=task)
    assert fold(task, callback("A", T0, "x"), T0 + 3002, WINDOWS).verdict is Verdict.STALE
    assert fold(task, callback("A", T0 + 1, "x"), T0 + 3002, WINDOWS).verdict is Verdict.DUPLICATE
    assert fold(task, callback("A", T0 + 2000, "x"), T0 + 3002, WINDOWS).verdict is Verdict.DUPLICATE
    assert task.dedup_floor_ms == T0 * 1000


def test_identities_are_remembered_for_just_the_retry_window() -> None:
    """The next callback after it forgets them."""
    first = after((0, "A", 0.0, "x"))
    assert len(after((3600, "A", 3600.0, "y"), task=first).identities) == 2
    assert list(after((3600.5, "A", 3600.0, "y"), task=first).identities) == [f"{(T0 + 3600) * 1000}|Ay"]


def test_one_time_that_can_not_be_is_a_bad_time() -> None:
    """An event that has no other, or whose own time is missing."""
    for call in (callback("F", T0 + 99, "0"), callback("S", None, stated_ms=(T0 + 99) * 1000)):
        assert ("anomalies_total", "bad_time", 1) in fold(NEW, call, T0, WINDOWS).measurements
    assert ("anomalies_total", "bad_time", 1) not in fold(
        NEW, callback("F", None, "0"), T0, WINDOWS
    ).measurements


@pytest.mark.parametrize(
    ("offset", "known"), [(60, True), (61, False), (-31 * 86400, True), (-31 * 86400 - 1, False)]
)
def test_a_time_can_be_true_up_to_its_bounds(offset: int, known: bool) -> None:
    """Whole seconds and milliseconds alike."""
    for call in (callback("F", T0 + offset, "0"), callback("S", T0 + offset, event_time_seconds=None)):
        told = fold(NEW, call, T0, WINDOWS).measurements
        assert (("anomalies_total", "bad_time", 1) in told) is not known


def test_what_states_no_time_is_ordered_by_its_arrival_to_the_millisecond() -> None:
    """Where what it is compared with has milliseconds too; by arrival where that has none."""
    exact = after((0, "S", 0.0, ""), (10.8, "E", None, "0"), (12, "S", 10.5, ""))
    assert state_of(exact, WINDOWS) == "stopped"
    whole = callback("E", T0 + 10, "0", stated_ms=None)
    late = fold(after((0, "S", 0.0, ""), (10.6, "S", 10.5, "")), whole, T0 + 11, WINDOWS).task
    assert state_of(late, WINDOWS) == "stopped"


def test_a_start_time_that_is_kept_for_all_runs_is_told_apart_by_the_newest() -> None:
    """A run begins when an exit lies between, at either end too; it stands at its whole second."""
    first = callback("S", T0 + 0.25)
    task = fold(NEW, first, T0 + 0.5, WINDOWS).task
    task = after((60, "E", 60.5, "-5"), task=task)
    begun = fold(task, replace(first, event_time_seconds=T0 + 60), T0 + 61, WINDOWS)
    assert begun.verdict is Verdict.APPLIED
    assert ("callback_delay_seconds", "TaskStart", 1.0) in begun.measurements
    assert begun.task.newest_ms == (T0 + 60) * 1000 + 500
    assert state_of(begun.task, WINDOWS) == "active"  # in the second of the exit, and it came later
    again = fold(begun.task, replace(first, event_time_seconds=T0 + 70), T0 + 71, WINDOWS)
    assert again.verdict is Verdict.APPLIED  # the exit is in the second of the newest
    more = fold(again.task, replace(first, event_time_seconds=T0 + 80), T0 + 81, WINDOWS)
    assert more.verdict is Verdict.DUPLICATE
    at_once = after((0.4, "E", 0.3, "-5"), task=fold(NEW, first, T0 + 0.5, WINDOWS).task)
    assert (
        fold(at_once, replace(first, event_time_seconds=T0 + 9), T0 + 9, WINDOWS).verdict is Verdict.APPLIED
    )


def test_every_run_with_one_start_time_is_in_the_history() -> None:
    """Those before the last too, when only their identities are left."""
    first = callback("S", T0)
    task = fold(NEW, first, T0 + 0.5, WINDOWS).task
    for at in (100, 400, 700):
        task = after((at, "E", float(at), "0"), task=task)
        task = fold(task, replace(first, event_time_seconds=T0 + at + 50), T0 + at + 50, WINDOWS).task
    starts = [h.ms // 1000 - T0 for h in history(task) if h.kind.letter == "S"]
    assert starts == [750, 450, 150, 0]


def test_files_without_a_time_are_in_the_history_until_they_are_settled() -> None:
    """The one that plays, and those before it."""
    task = after((0, "S", None, ""), *((n, "F", None, str(n)) for n in (1, 2, 3)))
    assert [h.subject for h in history(task) if h.kind.letter == "F"] == ["3", "2", "1"]


def test_a_replayed_callback_is_judged_by_what_is_known_of_the_task() -> None:
    """Without a time, up to the retry window; with one, by the newest time that is known, if any is."""
    timeless = after((0, "S", None, ""))
    assert with_replay_horizon(timeless, callback("A", None, "x"), T0, T0 + 3600, WINDOWS) is timeless
    assert with_replay_horizon(timeless, callback("A", None, "x"), T0, T0 + 3600.1, WINDOWS) is None
    seen = with_replay_horizon(timeless, callback("A", T0, "x"), T0, T0 + 9000, WINDOWS)
    assert seen is not None
    assert seen.dedup_floor_ms == (T0 + 9000 - 3600) * 1000
    timed = with_replay_horizon(after((0, "S", 0.25, "")), callback("A", T0, "x"), T0, T0 + 9000, WINDOWS)
    assert timed is not None
    assert timed.dedup_floor_ms == T0 * 1000 + 250


def test_a_task_is_not_forgotten_while_it_may_be_reordered() -> None:
    """Where that window is the longest, with the second that must be over."""
    windows = FoldSettings(retry=60.0, reorder=7200.0, forget_stopped_after=60.0)
    task = fold(NEW, callback("E", T0, "0"), T0 + 1.5, windows).task
    settled = settle(task, T0 + 7300, windows).task
    assert not is_forgotten(settled, T0 + 7202.4, windows)
    assert is_forgotten(settled, T0 + 7202.5, windows)


def test_a_course_that_was_inferred_is_one_until_its_start_is_known() -> None:
    """Also when that comes after its absence was told."""
    inferred = settle(after((3, "F", 2, "0")), T0 + 300, WINDOWS).task
    assert (inferred.current.inferred, RunState().inferred) == (True, False)
    begun = after((400, "S", 0.25, ""), task=inferred)
    assert (begun.current.inferred, begun.settled.inferred) == (False, False)
    assert begun.current.file == inferred.current.file


def test_the_worked_example_of_the_state_machine_is_true() -> None:
    """The example in the docstring of the state machine gives the output that it shows."""
    result = doctest.testmod(state_machine)
    assert (result.failed, result.attempted > 0) == (0, True)
