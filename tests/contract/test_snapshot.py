"""A snapshot has the commits of all processes, and a scrape with cached lines equals one without."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from exporter.metrics.process import Telemetry
from exporter.relay import STATES, Task, settle, state_of
from exporter.store.protocol import Store, decode_label_set, decode_task
from exporter.store.transaction import TaskRow, Transaction
from exporter.web.scrape import Exposition
from tests.contract.conftest import Open
from tests.contract.test_store import LABELS, count, put, task
from tests.unit.histories import SETTINGS, T0

TELEMETRY = Telemetry(version="0", revision="0")
STEPS = 50


class Reader:
    """A reader that scrapes one store, with a cache of the lines of records."""

    def __init__(self, store: Store, max_tasks: int) -> None:
        self.store = store
        self.max_tasks = max_tasks
        self.exposition = _exposition()

    def shown(self) -> bytes:
        """Return a scrape with the cache."""
        return _of_store(self.exposition.write(self.store.snapshot(self.max_tasks)))

    def without_cache(self) -> bytes:
        """Return a scrape without a cache."""
        return _of_store(_exposition().write(self.store.snapshot(self.max_tasks)))


def _exposition() -> Exposition:
    return Exposition(openmetrics=False, labels=LABELS, fold_settings=SETTINGS, telemetry=TELEMETRY)


def _of_store(text: bytes) -> bytes:
    return text[: text.index(b"# HELP css_relay_callbacks_rejected")]


def _random_task(rng: random.Random) -> Task:
    host, name = rng.choice(["h1", "h2", "h3"]), f"{rng.randrange(25)}"
    made: list[Callable[[], Task]] = [
        lambda: task(name, host=host, to_url=f"rtmp://{host}/{rng.random()}"),
        lambda: task(name, "E", host=host),
        lambda: task(name, "E", host=host, code="0"),
        lambda: task(name, "N", host=host),
        lambda: settle(task(name, host=host), T0 + SETTINGS.lost_after, SETTINGS).task,
    ]
    return rng.choice(made)()


def _random_transaction(
    rng: random.Random, known: dict[str, Task], counted: int
) -> Callable[[Transaction], None]:
    """Return a random transaction that counts `counted` starts; update `known` to the expected tasks."""
    tasks = [_random_task(rng) for _ in range(rng.randrange(4))]
    forgotten = [f"{rng.randrange(25)}" for _ in range(rng.randrange(3))]
    known.update({each.task_id: each for each in tasks})
    for name in forgotten:
        known.pop(name, None)

    def work(transaction: Transaction) -> None:
        put(*tasks)(transaction)
        for name in forgotten:
            transaction.delete(f"4/{name}")
        if counted:
            count(counted, host="h2")(transaction)

    return work


def test_a_scrape_is_correct_after_random_transactions_of_several_processes(open_store: Open) -> None:
    """Each process shows the current tasks in order, whatever it has cached."""
    rng = random.Random(1)
    stores = [open_store() for _ in range(3)]
    readers = [Reader(store, limit) for store in stores for limit in (0, 1, 7, 15, 99)]
    known: dict[str, Task] = {}
    counted = 0
    for _ in range(STEPS):
        for _ in range(rng.choice([1, 1, 2, 9])):
            number = rng.randrange(2)
            counted += number
            rng.choice(stores).transact(_random_transaction(rng, known, number))
        states = Counter(state_of(each, SETTINGS) for each in known.values())
        for reader in rng.sample(readers, 3):
            snapshot = reader.store.snapshot(reader.max_tasks)
            tasks = [decode_task(record) for record in snapshot.tasks]
            assert all(known[each.task_id] == each for each in tasks)
            order = [state for state in STATES for _ in range(states[state])]
            assert [state_of(each, SETTINGS) for each in tasks] == order[: reader.max_tasks]
            assert snapshot.count_by_state == {state: n for state, n in states.items() if state in STATES}
            assert reader.shown() == reader.without_cache()
            label_sets = {labels: decode_label_set(record).values for labels, record in snapshot.label_sets}
            assert label_sets.get(("4", "h2"), {}).get("tasks_started_total", 0) == counted


def test_tasks_of_a_state_are_ordered_by_their_labels_then_by_age(store: Store) -> None:
    """The order is the same at each scrape, so that a limited scrape shows the same tasks each time."""
    names = [("a", "h1"), ("b", "h2"), ("c", "h1"), ("d", "h3"), ("e", "h2")]
    for name, host in names:
        store.transact(put(task(name, host=host)))
    store.transact(put(task("b", host="h2", to_url="rtmp://changed/")))
    shown = [decode_task(record).task_id for record in store.snapshot(99).tasks]
    assert shown == ["a", "c", "b", "e", "d"]


def test_a_deleted_task_is_replaced_by_one_beyond_the_limit(store: Store) -> None:
    """When a shown task is deleted, a task beyond the limit is shown instead."""
    store.transact(put(task("a"), task("b"), task("c", "E")))
    reader = Reader(store, 2)
    assert b'task_id="c"' not in reader.shown()
    store.transact(lambda transaction: transaction.delete("4/a"))
    assert b'task_id="c"' in reader.shown()
    store.transact(put(task("d")))
    assert b'task_id="c"' not in reader.shown()


def test_a_forgotten_task_that_starts_again_is_a_new_task(store: Store) -> None:
    """It is shown once, in the order of its new age."""
    store.transact(put(task("a"), task("b")))
    reader = Reader(store, 9)
    reader.shown()
    store.transact(lambda transaction: transaction.delete("4/a"))
    store.transact(put(task("a")))
    assert [decode_task(record).task_id for record in store.snapshot(9).tasks] == ["b", "a"]
    assert reader.shown() == reader.without_cache()
    assert reader.shown().count(b"css_relay_task_info{") == 2


def test_a_failed_transaction_changes_no_scrape(store: Store) -> None:
    """A failed transaction leaves nothing in a scrape, and hides no later change."""
    store.transact(put(task("a"), task("b")))
    reader = Reader(store, 9)
    before = reader.shown()

    def fail(transaction: Transaction) -> None:
        put(task("a", "E"))(transaction)
        transaction.delete("4/b")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.transact(fail)
    assert reader.shown() == before
    store.transact(put(task("b", "E")))
    assert reader.shown() == reader.without_cache() != before


def test_a_task_without_a_state_is_not_shown(store: Store) -> None:
    """A task is shown only while it has a state."""
    store.transact(put(task("a")))
    reader = Reader(store, 9)
    reader.shown()
    for state, shown in (("none", 0), ("active", 1)):
        store.transact(lambda transaction, s=state: transaction.put(TaskRow(task("a"), ("4", "h"), s, 9.0)))
        assert reader.shown().count(b"css_relay_task_info{") == shown
