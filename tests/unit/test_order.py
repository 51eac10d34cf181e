"""What must hold of the fold for every history: truths of the design, tried on drawn examples.

They are the same each time, so that no verdict hangs on chance; EXAMPLES=5000 tries so many others. Where
hypothesis finds a counterexample, pytest shows the arguments as plain data (whole with `-vv`): steps of
a history, and how the wire delivers them. Copy them into an `@example` above the test, and keep it there when
the fold is mended: examples are run first each time, on every machine. Nothing else is kept: a database of
examples says nothing to who reads the test.
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
from exporter.store.protocol import StoreOptions
from exporter.store.records import decode_task, encode
from exporter.store.sqlite.store import SqliteStore
from tests.unit.histories import (
    T0,
    WINDOWS,
    Delivery,
    Result,
    callback,
    counters,
    deliver,
    gauges,
    happened,
    random_history,
    tell,
    tried,
)

FAR = 40_000.0

#: A callback of a history: event, seconds after T0, subject, length of the file.
Step = tuple[str, float, str, float]
#: How the wire delivers a history: which callback, and how many seconds after it happened.
Wire = list[tuple[int, float]]


def steps_of(random: Random) -> list[Step]:
    """Return a valid history as plain data."""
    return [
        (c.kind.letter, round(happened(c) - T0, 3), c.subject, c.duration_seconds)
        for c in random_history(random)
    ]


def wire_of(random: Random, steps: list[Step], longest: float = 178.0) -> Wire:
    """Deliver each callback up to `longest` seconds late, a fifth of them again within the retry window."""
    wire: Wire = []
    for place in range(len(steps)):
        late = random.choice([0.0, 1.0, 4.0, random.uniform(0, longest), random.uniform(0, longest)])
        wire.append((place, round(late, 3)))
        if random.random() < 0.2:
            again = random.randint(1, 3)
            wire += [(place, round(late + random.uniform(0, WINDOWS.retry - 200), 3)) for _ in range(again)]
    return wire


def sent(steps: list[Step], wire: Wire) -> list[Delivery]:
    """Return the deliveries of a history over a wire."""
    calls = [callback(e, T0 + at, subject, duration_seconds=length) for e, at, subject, length in steps]
    return [Delivery(calls[place], T0 + steps[place][1] + late) for place, late in wire]


def prompt(steps: list[Step], late: float = 0.02) -> Wire:
    """Deliver each callback once, in order."""
    return [(place, late) for place in range(len(steps))]


randoms = st.randoms(use_true_random=False)
histories = randoms.map(steps_of)


@st.composite
def wired(draw: st.DrawFn) -> tuple[list[Step], Wire]:
    """A history, and a wire that delays, reorders and repeats it."""
    steps = draw(histories)
    return steps, wire_of(draw(randoms), steps)


@given(wired())
# A file that begins in the second of the exit, and whose finish was overtaken by both.
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
# A restart within a second, told backwards, and everything again.
@example(
    (
        [("S", 0.1, "", 0.0), ("E", 10.1, "-5", 0.0), ("S", 10.9, "", 0.0), ("F", 11.0, "0", 60.0)],
        [(3, 0.0), (2, 1.0), (1, 100.0), (0, 178.0), (0, 3000.0), (1, 3000.0), (2, 3000.0), (3, 3000.0)],
    )
)
@tried(120)
def test_the_order_of_arrival_does_not_matter(found: tuple[list[Step], Wire]) -> None:
    """Delayed by up to the reorder window, shuffled, some twice or more: the same counters and gauges."""
    steps, wire = found
    end = T0 + steps[-1][1] + FAR
    expected = deliver(sent(steps, prompt(steps)), until=end)
    actual = deliver(sent(steps, wire), until=end)
    assert counters(actual) == counters(expected)
    assert gauges(actual) == gauges(expected)
    assert actual.outcomes["applied"] == len(steps)
    assert actual.outcomes["stale"] == 0


@given(histories, randoms)
@tried(60)
def test_durations_are_exact_in_any_order_where_callbacks_state_their_times(
    steps: list[Step], random: Random
) -> None:
    """Late callbacks are measured by their own times, once nothing can come in between any more."""
    end = T0 + steps[-1][1] + FAR
    late = [(place, random.uniform(7, 178)) for place in range(len(steps))]
    orderly = deliver(sent(steps, prompt(steps, 7.0)), until=end)
    assert deliver(sent(steps, late), until=end).durations == orderly.durations


@given(wired(), st.integers(2, 6))
@tried(60)
def test_delivering_anything_twice_changes_only_the_duplicate_count(
    found: tuple[list[Step], Wire], times: int
) -> None:
    """Whatever is sent again within the retry window is a duplicate, and nothing else."""
    steps, wire = found
    end = T0 + steps[-1][1] + FAR
    once = deliver(sent(steps, wire), until=end)
    again = deliver([d for d in sent(steps, wire) for _ in range(times)], until=end)
    assert again.counts == once.counts
    assert again.task == once.task
    assert again.outcomes == once.outcomes | {
        "duplicate": once.outcomes["duplicate"] + len(wire) * (times - 1)
    }


@given(wired(), st.lists(st.floats(0, 4000), max_size=8))
@tried(60)
def test_when_sweeps_come_does_not_matter(found: tuple[list[Step], Wire], moments: list[float]) -> None:
    """A sweep only tells sooner what the next callback, or the last sweep, would tell."""
    steps, wire = found
    end = T0 + steps[-1][1] + FAR
    expected = deliver(sent(steps, wire), until=end)
    actual = Result(Task(appid=1, task_id="t"), Counter(), Counter(), Counter())
    events = [*((d.arrival, d.callback) for d in sent(steps, wire)), *((T0 + m, None) for m in moments)]
    for at, call in sorted(events, key=lambda event: event[0]):
        folded = fold(actual.task, call, at, WINDOWS) if call else settle(actual.task, at, WINDOWS)
        actual.task = folded.task
        tell(actual, folded.measurements)
    settled = settle(actual.task, end, WINDOWS)
    tell(actual, settled.measurements)
    assert actual.counts == expected.counts
    assert settled.task == expected.task
    assert settle(settled.task, end, WINDOWS).measurements == ()


#: What may be sent, valid history or not: event, seconds of arrival after T0, how old it then is (None: no
#: time is stated; negative: its clock is ahead), subject, length of the file.
Odd = tuple[str, float, float | None, str, float]


def odd(youngest: int) -> st.SearchStrategy[Odd]:
    """A callback that is at least so many seconds old when it comes."""
    return st.tuples(
        st.sampled_from("SFNEAR"),
        st.integers(0, 5000) | st.floats(0, 5000),
        st.none() | st.integers(youngest, 8000) | st.floats(youngest, 8000),
        st.sampled_from(["", "0", "1", "-22"]),
        st.sampled_from([0.0, 1.0, 600.0]),
    )


def odd_deliveries(found: list[Odd]) -> list[Delivery]:
    """Return deliveries in the order they come."""
    calls = []
    for letter, arrival, age, subject, length in found:
        time = None if age is None else T0 + arrival - age
        calls.append(Delivery(callback(letter, time, subject, duration_seconds=length), T0 + arrival))
    return sorted(calls, key=lambda d: d.arrival)


@given(st.lists(odd(-70), max_size=40))
@tried(120)
def test_whatever_is_sent_the_task_is_in_one_state_and_its_record_is_read_as_it_was_written(
    found: list[Odd],
) -> None:
    """No callback makes an error; a run, an exit or a file makes the task known, and nothing else does."""
    task = Task(appid=1, task_id="t")
    runs = 0
    for d in odd_deliveries(found):
        folded = fold(task, d.callback, d.arrival, WINDOWS)
        task = folded.task
        runs += folded.verdict is Verdict.APPLIED and d.callback.kind.letter == "S"
        assert (state_of(task, WINDOWS) in STATES) == (
            task.current.start is not None or task.current.exit is not None
        )
        assert task.current.active == (state_of(task, WINDOWS) == ACTIVE)
        assert task.current.file is None or task.current.active
        assert task.runs == runs
        assert decode_task(encode(task)) == task
        assert all(amount >= 0 for _, _, amount in folded.measurements)
        seconds = [entry.second for entry in task.log]
        assert seconds == sorted(seconds)
        assert not seconds or seconds[0] >= task.settled_until


@given(st.lists(odd(0), max_size=20, unique_by=lambda one: int(one[1])))
@tried(120)
def test_whatever_is_sent_twice_at_once_counts_once(found: list[Odd]) -> None:
    """With a time or without one, in a valid history or not.

    But no clock is ahead, and no two come in one second: otherwise a file without a time may belong to a run
    that is over when it comes, and no state tells it from its redelivery.
    """
    task = Task(appid=1, task_id="t")
    for d in odd_deliveries(found):
        first = fold(task, d.callback, d.arrival, WINDOWS)
        again = fold(first.task, d.callback, d.arrival, WINDOWS)
        task = again.task
        assert again.verdict is not Verdict.APPLIED
        assert (again.task, again.measurements) == (first.task, ())


@given(st.integers(0, 2**32), st.integers(MAX_IDENTITIES, MAX_IDENTITIES + 200))
@tried(4)
def test_what_is_remembered_of_a_task_is_bounded(seed: int, number: int) -> None:
    """However many callbacks come within the windows; and each is counted once all the same."""
    random = Random(seed)
    moments = random.sample(range(3000), number)
    calls = [callback(random.choice("FN"), T0 + at, str(at % 7), duration_seconds=1.0) for at in moments]
    task = Task(appid=1, task_id="t")
    for n, call in enumerate(calls):
        folded = fold(task, call, T0 + 3000 + n / 1000, WINDOWS)
        task = folded.task
        assert folded.verdict is Verdict.APPLIED or call.event_time_seconds * 1000 <= task.dedup_floor_ms  # type: ignore[operator]
        assert len(task.identities) <= MAX_IDENTITIES
        assert len(task.log) <= MAX_LOG
    for call in calls:
        assert fold(task, call, T0 + 3010, WINDOWS).verdict is not Verdict.APPLIED


@given(st.lists(st.tuples(st.sampled_from("abc"), odd(-70)), max_size=40), st.floats(0, 45 * 86400))
@tried(15)
def test_the_tasks_by_state_are_as_many_as_the_known_tasks(
    found: list[tuple[str, Odd]], later: float
) -> None:
    """At all times, also when some are forgotten; known is a task of which a run or an exit is known."""
    folder = BatchApplier(WINDOWS, ("appid",))
    calls = [
        BatchItem(d.arrival, replace(d.callback, task_id=task_id))
        for task_id, one in found
        for d in odd_deliveries([one])
    ]
    with (
        TemporaryDirectory() as place,
        closing(SqliteStore(Path(place) / "relay.db", StoreOptions(labels=("appid",)))) as store,
    ):
        for arrived in sorted(calls, key=lambda a: a.arrival):
            store.transact(lambda transaction, arrived=arrived: folder.apply([arrived], transaction))  # type: ignore[misc]
            compare_states(store)
        now = T0 + 5000 + later
        store.transact(lambda transaction: folder.sweep(store.due_keys(now, 9), now, transaction))
        compare_states(store)


def compare_states(store: SqliteStore) -> None:
    """Compare what is counted by state with the states of the tasks that are kept."""
    kept = [decode_task(record) for _, record in store.list_tasks(state=None, after=0, limit=99)]
    states = Counter(state_of(task, WINDOWS) for task in kept)
    del states[NONE]
    assert Counter({state: number for _, state, number in store.snapshot(99).counts if number}) == states
