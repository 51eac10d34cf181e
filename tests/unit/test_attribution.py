"""The attribution of exits without a task_id."""

from exporter.relay import Attribution, Task, Verdict, attribute, fold, is_forgotten, state_of
from exporter.relay.deduplication import MAX_IDENTITIES
from tests.unit.histories import SETTINGS, T0, callback

SOURCES = "5ca1ab1e"
NAMELESS = Task(appid=1, task_id="", sources=SOURCES)


def task(task_id: str, letter: str = "S", at: float = T0) -> Task:
    """Return a task with SOURCES after one callback."""
    new = Task(appid=1, task_id=task_id)
    return fold(new, callback(letter, at, "0", sources=SOURCES), at, SETTINGS).task


def exit_at(
    arrival: float, nameless: Task, *tasks_with_sources: Task, time: float | None = None, code: str = "-22"
) -> Attribution:
    """Attribute an exit without a task_id."""
    return attribute(
        nameless, tasks_with_sources, callback("E", time, code, sources=SOURCES), arrival, SETTINGS
    )


def test_an_exit_belongs_to_the_only_active_task_with_its_sources() -> None:
    """A task that has exited is not a candidate."""
    found = exit_at(T0 + 9, NAMELESS, task("a"), task("b", "E"))
    assert found.owner is not None
    assert found.owner.task_id == "a"
    assert found.measurements == ()


def test_without_an_owner_the_code_is_counted_immediately() -> None:
    """There is no candidate, more than one, or the exit has no sources."""
    for tasks_with_sources in ((), (task("a"), task("b")), (task("a", "E"),)):
        found = exit_at(T0 + 9, NAMELESS, *tasks_with_sources)
        assert found.owner is None
        assert ("tasks_exited_total", "-22", 1) in found.measurements
        assert ("anomalies_total", "unattributed_exit", 1) in found.measurements
    sourceless = attribute(Task(appid=1, task_id=""), [task("a")], callback("E", None, "0"), T0 + 9, SETTINGS)
    assert sourceless.owner is None


def test_a_redelivery_is_not_attributed_to_another_task() -> None:
    """Whatever the state of the first owner is now."""
    first = exit_at(T0 + 9, NAMELESS, task("a"))
    again = exit_at(T0 + 69, first.nameless, task("b", at=T0 - 5))
    assert again.verdict is Verdict.DUPLICATE
    assert again.owner is None
    assert again.measurements == ()
    assert again.nameless is first.nameless


def test_a_redelivery_with_a_time_is_recognized_by_its_time() -> None:
    """It is stale after the retry window."""
    first = exit_at(T0 + 9, NAMELESS, time=T0 + 8.5)
    assert exit_at(T0 + 3600, first.nameless, task("b"), time=T0 + 8.5).verdict is Verdict.DUPLICATE
    assert exit_at(T0 + 3700, first.nameless, task("b"), time=T0 + 8.5).verdict is Verdict.STALE
    assert exit_at(T0 + 70, first.nameless, task("b"), time=T0 + 60).verdict is Verdict.APPLIED


def test_an_equal_exit_without_a_time_is_another_exit_after_a_start() -> None:
    """Only the start shows that the exit is another one."""
    first = exit_at(T0 + 9, NAMELESS, task("a"))
    restarted = task("a", at=T0 + 20)
    assert exit_at(T0 + 30, first.nameless, restarted).owner is restarted
    assert exit_at(T0 + 10, first.nameless, code="-5").verdict is Verdict.APPLIED


def test_a_start_since_the_exit_matters_only_without_an_event_time() -> None:
    """An exit with an event time is recognized by its time. Without one, any start makes it another exit."""
    restarted = task("b", at=T0 + 20)
    timed = exit_at(T0 + 9, NAMELESS, time=T0 + 8.5)
    assert exit_at(T0 + 30, timed.nameless, restarted, time=T0 + 8.5).verdict is Verdict.DUPLICATE
    timeless = exit_at(T0 + 9, NAMELESS)
    assert exit_at(T0 + 30, timeless.nameless, task("a"), restarted).verdict is Verdict.APPLIED
    assert exit_at(T0 + 30, timeless.nameless, task("a"), task("b", at=T0 + 9)).verdict is Verdict.DUPLICATE
    assert exit_at(T0 + 30, timeless.nameless, task("a"), task("b", at=T0 + 9.1)).verdict is Verdict.APPLIED


def test_the_identities_of_exits_without_a_task_id_are_bounded() -> None:
    """A deleted identity cannot count twice. Exits without event times leave no times."""
    nameless = NAMELESS
    for n in range(MAX_IDENTITIES + 1):
        nameless = exit_at(T0 + 900, nameless, time=float(T0 + n)).nameless
    assert len(nameless.identities) == MAX_IDENTITIES
    assert exit_at(T0 + 901, nameless, time=float(T0)).verdict is Verdict.STALE
    assert exit_at(T0 + 901, nameless, time=T0 + 1.0).verdict is Verdict.DUPLICATE
    timeless = exit_at(T0 + 9, NAMELESS).nameless
    assert (timeless.newest_ms, timeless.dedup_floor_ms, timeless.last_callback_at) == (0, 0, T0 + 9)


def test_the_record_of_exits_without_a_task_id_is_never_shown_and_is_forgotten() -> None:
    """It is not a task."""
    seen = exit_at(T0 + 9, NAMELESS).nameless
    assert state_of(seen, SETTINGS) == "none"
    assert not is_forgotten(seen, T0 + 3600, SETTINGS)
    assert is_forgotten(seen, T0 + 3609, SETTINGS)
