"""Properties of the fold that hold for every history, tested on generated examples.

The examples are the same in each run, so that results do not depend on chance. EXAMPLES=5000 tries 5000
others. If hypothesis finds a counterexample, pytest shows the arguments as plain data (in full with `-vv`):
the steps of a history and its deliveries. Copy them into an `@example` above the test, and keep it there
after the fault is fixed: such examples run first, on every machine. There is no database of examples,
because a reader of the test would not see it.
"""

from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.relay import ACTIVE, NONE, STATES, Task, Verdict, fold, settle, state_of
from exporter.relay.deduplication import MAX_IDENTITIES
from exporter.relay.fold import MAX_LOG
from exporter.store.protocol import StoreOptions, decode_task, encode
from exporter.store.sqlite.store import SqliteStore
from tests.unit.histories import (
    SETTINGS,
    T0,
    Delivery,
    Result,
    callback,
    counters,
    deliver,
    event_time,
    gauges,
    max_examples,
    random_history,
    record,
)

#: Seconds after a history at which all its windows have passed.
AFTER_ALL_WINDOWS = 40_000.0

#: A callback of a history: event, event time in seconds after T0, subject, duration of the file in seconds.
Step = tuple[str, float, str, float]
#: The deliveries of a history: the index of a callback, and its delay after the event time, in seconds.
Deliveries = list[tuple[int, float]]


def steps_of(random: Random) -> list[Step]:
    """Return a valid history as plain data."""
    return [
        (c.kind.letter, round(event_time(c) - T0, 3), c.subject, c.duration_seconds)
        for c in random_history(random)
    ]


def deliveries_of(random: Random, steps: list[Step], longest: float = 178.0) -> Deliveries:
    """Deliver each callback up to `longest` seconds late; a fifth of them again within the retry window."""
    deliveries: Deliveries = []
    for index in range(len(steps)):
        late = random.choice([0.0, 1.0, 4.0, random.uniform(0, longest), random.uniform(0, longest)])
        deliveries.append((index, round(late, 3)))
        if random.random() < 0.2:
            again = random.randint(1, 3)
            deliveries += [
                (index, round(late + random.uniform(0, SETTINGS.retry - 200), 3)) for _ in range(again)
            ]
    return deliveries


def delivered(steps: list[Step], deliveries: Deliveries) -> list[Delivery]:
    """Return the deliveries of a history, as `deliver` reads them."""
    calls = [callback(e, T0 + at, subject, duration_seconds=length) for e, at, subject, length in steps]
    return [Delivery(calls[index], T0 + steps[index][1] + late) for index, late in deliveries]


def in_order(steps: list[Step], late: float = 0.02) -> Deliveries:
    """Deliver each callback once, in order, `late` seconds after its event time."""
    return [(index, late) for index in range(len(steps))]


randoms = st.randoms(use_true_random=False)
histories = randoms.map(steps_of)


@st.composite
def delivered_histories(draw: st.DrawFn) -> tuple[list[Step], Deliveries]:
    """Draw a history, and deliveries that delay, reorder and repeat its callbacks."""
    steps = draw(histories)
    return steps, deliveries_of(draw(randoms), steps)


@given(delivered_histories())
# A file starts in the same second as the exit. The finish of the file before it arrives after both.
@example(
    (
        [
            ("S", 0.25, "", 0.0),
            ("F", 1.0, "0", 1.0),
            ("N", 2.0, "0", 1.0),
            ("F", 2.0, "1", 5.0),
            ("E", 2.9, "0", 0.0),
        ],
        [(4, 0.0), (3, 4.0), (2, 177.0), (0, 178.0), (1, 178.0)],
    )
)
# An exit and a restart within a second, delivered in reverse order, then everything again.
@example(
    (
        [("S", 0.1, "", 0.0), ("E", 10.1, "-5", 0.0), ("S", 10.9, "", 0.0), ("F", 11.0, "0", 60.0)],
        [(3, 0.0), (2, 1.0), (1, 100.0), (0, 178.0), (0, 3000.0), (1, 3000.0), (2, 3000.0), (3, 3000.0)],
    )
)
@max_examples(120)
def test_the_order_of_arrival_does_not_matter(drawn: tuple[list[Step], Deliveries]) -> None:
    """Callbacks delayed within the reorder window, shuffled or repeated give equal counters and gauges."""
    steps, deliveries = drawn
    end = T0 + steps[-1][1] + AFTER_ALL_WINDOWS
    expected = deliver(delivered(steps, in_order(steps)), until=end)
    actual = deliver(delivered(steps, deliveries), until=end)
    assert counters(actual) == counters(expected)
    assert gauges(actual) == gauges(expected)
    assert actual.outcomes["applied"] == len(steps)
    assert actual.outcomes["stale"] == 0


@given(histories, randoms)
@max_examples(60)
def test_durations_are_exact_in_any_order_where_callbacks_state_their_times(
    steps: list[Step], random: Random
) -> None:
    """Durations between late callbacks are recorded by event time, when nothing can arrive in between."""
    end = T0 + steps[-1][1] + AFTER_ALL_WINDOWS
    # All callbacks are more than 5 s late: durations are then between event times, not between arrivals.
    late = [(index, random.uniform(7, 178)) for index in range(len(steps))]
    orderly = deliver(delivered(steps, in_order(steps, 7.0)), until=end)
    assert deliver(delivered(steps, late), until=end).durations == orderly.durations


@given(delivered_histories(), st.integers(2, 6))
@max_examples(60)
def test_delivering_anything_twice_changes_only_the_duplicate_count(
    drawn: tuple[list[Step], Deliveries], times: int
) -> None:
    """Each repeated delivery within the retry window is a duplicate."""
    steps, deliveries = drawn
    end = T0 + steps[-1][1] + AFTER_ALL_WINDOWS
    once = deliver(delivered(steps, deliveries), until=end)
    again = deliver([d for d in delivered(steps, deliveries) for _ in range(times)], until=end)
    assert again.counts == once.counts
    assert again.task == once.task
    assert again.outcomes == once.outcomes | {
        "duplicate": once.outcomes["duplicate"] + len(deliveries) * (times - 1)
    }


@given(delivered_histories(), st.lists(st.floats(0, 4000), max_size=8))
@max_examples(60)
def test_the_times_of_sweeps_do_not_matter(
    drawn: tuple[list[Step], Deliveries], sweep_times: list[float]
) -> None:
    """A sweep only records earlier what the next callback, or the last sweep, would record."""
    steps, deliveries = drawn
    end = T0 + steps[-1][1] + AFTER_ALL_WINDOWS
    expected = deliver(delivered(steps, deliveries), until=end)
    actual = Result(Task(appid=1, task_id="t"), Counter(), Counter(), Counter())
    events = [
        *((d.arrival, d.callback) for d in delivered(steps, deliveries)),
        *((T0 + m, None) for m in sweep_times),
    ]
    for at, call in sorted(events, key=lambda event: event[0]):
        folded = fold(actual.task, call, at, SETTINGS) if call else settle(actual.task, at, SETTINGS)
        actual.task = folded.task
        record(actual, folded.measurements)
    settled = settle(actual.task, end, SETTINGS)
    record(actual, settled.measurements)
    assert actual.counts == expected.counts
    assert settled.task == expected.task
    assert settle(settled.task, end, SETTINGS).measurements == ()


#: Any callback, of a valid history or not: event, arrival in seconds after T0, age then in seconds (None:
#: no event time; negative: the clock of the sender is ahead), subject, duration of the file in seconds.
AnyCallback = tuple[str, float, float | None, str, float]


def any_callback(min_age: int) -> st.SearchStrategy[AnyCallback]:
    """Draw a callback that is at least `min_age` seconds old when it arrives."""
    return st.tuples(
        st.sampled_from("SFNEAR"),
        st.integers(0, 5000) | st.floats(0, 5000),
        st.none() | st.integers(min_age, 8000) | st.floats(min_age, 8000),
        st.sampled_from(["", "0", "1", "-22"]),
        st.sampled_from([0.0, 1.0, 600.0]),
    )


def deliveries_of_any(drawn: list[AnyCallback]) -> list[Delivery]:
    """Return deliveries in the order of arrival."""
    calls = []
    for letter, arrival, age, subject, length in drawn:
        time = None if age is None else T0 + arrival - age
        calls.append(Delivery(callback(letter, time, subject, duration_seconds=length), T0 + arrival))
    return sorted(calls, key=lambda d: d.arrival)


@given(st.lists(any_callback(-70), max_size=40))
@max_examples(120)
def test_any_callbacks_leave_the_task_in_one_state_and_its_record_can_be_read(
    drawn: list[AnyCallback],
) -> None:
    """No callback raises; only a run, an exit or a file makes the task known."""
    task = Task(appid=1, task_id="t")
    runs = 0
    for d in deliveries_of_any(drawn):
        folded = fold(task, d.callback, d.arrival, SETTINGS)
        task = folded.task
        runs += folded.verdict is Verdict.APPLIED and d.callback.kind.letter == "S"
        assert (state_of(task, SETTINGS) in STATES) == (
            task.current.start is not None or task.current.exit is not None
        )
        assert task.current.active == (state_of(task, SETTINGS) == ACTIVE)
        assert task.current.file is None or task.current.active
        assert task.runs == runs
        assert decode_task(encode(task)) == task
        assert all(amount >= 0 for _, _, amount in folded.measurements)
        seconds = [entry.second for entry in task.log]
        assert seconds == sorted(seconds)
        assert not seconds or seconds[0] >= task.settled_until


@given(st.lists(any_callback(0), max_size=20, unique_by=lambda one: int(one[1])))
@max_examples(120)
def test_any_callback_sent_twice_at_the_same_time_counts_once(drawn: list[AnyCallback]) -> None:
    """The history may be invalid, and the callback may have no event time.

    Here no clock is ahead, and no two callbacks arrive in the same second. Otherwise a file without an event
    time may belong to a run that has ended when it arrives. Then the state does not show its redelivery.
    """
    task = Task(appid=1, task_id="t")
    for d in deliveries_of_any(drawn):
        first = fold(task, d.callback, d.arrival, SETTINGS)
        again = fold(first.task, d.callback, d.arrival, SETTINGS)
        task = again.task
        assert again.verdict is not Verdict.APPLIED
        assert (again.task, again.measurements) == (first.task, ())


@given(st.integers(0, 2**32), st.integers(MAX_IDENTITIES, MAX_IDENTITIES + 200))
@max_examples(4)
def test_the_identities_and_the_log_of_a_task_are_bounded(seed: int, number: int) -> None:
    """The limits hold for any number of callbacks within the windows. Each callback counts at most once."""
    random = Random(seed)
    event_times = random.sample(range(3000), number)
    calls = [callback(random.choice("FN"), T0 + at, str(at % 7), duration_seconds=1.0) for at in event_times]
    task = Task(appid=1, task_id="t")
    for n, call in enumerate(calls):
        folded = fold(task, call, T0 + 3000 + n / 1000, SETTINGS)
        task = folded.task
        assert folded.verdict is Verdict.APPLIED or call.event_time_seconds * 1000 <= task.dedup_floor_ms  # type: ignore[operator]
        assert len(task.identities) <= MAX_IDENTITIES
        assert len(task.log) <= MAX_LOG
    for call in calls:
        assert fold(task, call, T0 + 3010, SETTINGS).verdict is not Verdict.APPLIED


@given(st.lists(st.tuples(st.sampled_from("abc"), any_callback(-70)), max_size=40), st.floats(0, 45 * 86400))
@max_examples(15)
def test_the_tasks_by_state_add_up_to_the_known_tasks(
    drawn: list[tuple[str, AnyCallback]], later: float
) -> None:
    """A task is known when a run or an exit of it is known. Forgotten tasks are not counted."""
    applier = BatchApplier(SETTINGS, ("appid",))
    calls = [
        BatchItem(d.arrival, replace(d.callback, task_id=task_id))
        for task_id, one in drawn
        for d in deliveries_of_any([one])
    ]
    with (
        TemporaryDirectory() as folder,
        closing(SqliteStore(Path(folder) / "relay.db", StoreOptions(labels=("appid",)))) as store,
    ):
        for arrived in sorted(calls, key=lambda a: a.arrival):
            store.transact(lambda transaction, arrived=arrived: applier.apply([arrived], transaction))  # type: ignore[misc]
            compare_states(store)
        now = T0 + 5000 + later
        store.transact(lambda transaction: applier.sweep(store.due_keys(now, 9), now, transaction))
        compare_states(store)


def compare_states(store: SqliteStore) -> None:
    """Assert that the store counts the tasks by state correctly."""
    kept = [decode_task(record) for _, record in store.list_tasks(state=None, after=0, limit=99)]
    states = Counter(state_of(task, SETTINGS) for task in kept)
    del states[NONE]
    assert Counter({state: number for _, state, number in store.snapshot(99).counts if number}) == states
