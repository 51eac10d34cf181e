"""Whose is an exit that names no task?"""

from exporter.relay import Attribution, Task, Verdict, attribute_exit, fold, is_forgotten, state_of
from exporter.relay.deduplication import MAX_IDENTITIES
from tests.unit.histories import T0, WINDOWS, callback

SOURCES = "5ca1ab1e"
NAMELESS = Task(appid=1, task_id="", sources=SOURCES)


def task(task_id: str, letter: str = "S", at: float = T0) -> Task:
    """Return a task with SOURCES after one callback."""
    new = Task(appid=1, task_id=task_id)
    return fold(new, callback(letter, at, "0", sources=SOURCES), at, WINDOWS).task


def exit_at(
    arrival: float, nameless: Task, *tasks_with_sources: Task, time: float | None = None, code: str = "-22"
) -> Attribution:
    """Attribute an exit that names no task."""
    return attribute_exit(
        nameless, tasks_with_sources, callback("E", time, code, sources=SOURCES), arrival, WINDOWS
    )


def test_it_belongs_to_the_only_active_task_of_its_sources() -> None:
    """One that has ended already is no candidate."""
    found = exit_at(T0 + 9, NAMELESS, task("a"), task("b", "E"))
    assert found.owner is not None
    assert found.owner.task_id == "a"
    assert found.measurements == ()


def test_without_an_owner_its_code_is_counted_at_once() -> None:
    """No candidate, or more than one, or no sources to go by."""
    for tasks_with_sources in ((), (task("a"), task("b")), (task("a", "E"),)):
        found = exit_at(T0 + 9, NAMELESS, *tasks_with_sources)
        assert found.owner is None
        assert ("tasks_exited_total", "-22", 1) in found.measurements
        assert ("anomalies_total", "unattributed_exit", 1) in found.measurements
    sourceless = attribute_exit(
        Task(appid=1, task_id=""), [task("a")], callback("E", None, "0"), T0 + 9, WINDOWS
    )
    assert sourceless.owner is None


def test_a_redelivery_is_not_given_to_another_task() -> None:
    """Whatever has become of the first one's owner."""
    first = exit_at(T0 + 9, NAMELESS, task("a"))
    again = exit_at(T0 + 69, first.nameless, task("b", at=T0 - 5))
    assert again.verdict is Verdict.DUPLICATE
    assert again.owner is None
    assert again.measurements == ()
    assert again.nameless is first.nameless


def test_a_redelivery_that_states_its_time_is_known_by_it() -> None:
    """Until the retry window is over; then it is stale."""
    first = exit_at(T0 + 9, NAMELESS, time=T0 + 8.5)
    assert exit_at(T0 + 3600, first.nameless, task("b"), time=T0 + 8.5).verdict is Verdict.DUPLICATE
    assert exit_at(T0 + 3700, first.nameless, task("b"), time=T0 + 8.5).verdict is Verdict.STALE
    assert exit_at(T0 + 70, first.nameless, task("b"), time=T0 + 60).verdict is Verdict.APPLIED


def test_an_equal_exit_is_a_new_one_when_something_has_started_since() -> None:
    """Without a time there is no other way to tell."""
    first = exit_at(T0 + 9, NAMELESS, task("a"))
    restarted = task("a", at=T0 + 20)
    assert exit_at(T0 + 30, first.nameless, restarted).owner is restarted
    assert exit_at(T0 + 10, first.nameless, code="-5").verdict is Verdict.APPLIED


def test_what_has_started_since_matters_only_to_an_exit_without_a_time() -> None:
    """One that states its time is known by it, whatever has started; without one, any start will do."""
    restarted = task("b", at=T0 + 20)
    timed = exit_at(T0 + 9, NAMELESS, time=T0 + 8.5)
    assert exit_at(T0 + 30, timed.nameless, restarted, time=T0 + 8.5).verdict is Verdict.DUPLICATE
    timeless = exit_at(T0 + 9, NAMELESS)
    assert exit_at(T0 + 30, timeless.nameless, task("a"), restarted).verdict is Verdict.APPLIED
    assert exit_at(T0 + 30, timeless.nameless, task("a"), task("b", at=T0 + 9)).verdict is Verdict.DUPLICATE
    assert exit_at(T0 + 30, timeless.nameless, task("a"), task("b", at=T0 + 9.1)).verdict is Verdict.APPLIED


def test_what_is_remembered_of_them_is_bounded() -> None:
    """What was given up can't count twice; of times that none stated nothing is known."""
    nameless = NAMELESS
    for n in range(MAX_IDENTITIES + 1):
        nameless = exit_at(T0 + 900, nameless, time=float(T0 + n)).nameless
    assert len(nameless.identities) == MAX_IDENTITIES
    assert exit_at(T0 + 901, nameless, time=float(T0)).verdict is Verdict.STALE
    assert exit_at(T0 + 901, nameless, time=T0 + 1.0).verdict is Verdict.DUPLICATE
    timeless = exit_at(T0 + 9, NAMELESS).nameless
    assert (timeless.newest_ms, timeless.dedup_floor_ms, timeless.last_callback_at) == (0, 0, T0 + 9)


def test_what_is_remembered_of_them_is_never_shown_and_forgotten_in_time() -> None:
    """It is no task."""
    seen = exit_at(T0 + 9, NAMELESS).nameless
    assert state_of(seen, WINDOWS) == "none"
    assert not is_forgotten(seen, T0 + 3600, WINDOWS)
    assert is_forgotten(seen, T0 + 3609, WINDOWS)
