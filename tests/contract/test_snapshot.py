"""What changed since a scrape is all that the next one reads, and together they show what is there."""

import random
from collections.abc import Callable

import pytest

from exporter.exposition import Exposition
from exporter.relay import Task, settle
from exporter.store import Row, Snapshot, Store, Transaction
from exporter.store.records import decode_task
from exporter.telemetry import Telemetry
from tests.contract.conftest import Open
from tests.contract.test_store import LABELS, count, put, task
from tests.unit.histories import T0, WINDOWS

TELEMETRY = Telemetry(version="0", revision="0")
STEPS = 50


class Reader:
    """A scraper of one store: it shows what it has, and asks for what changed."""

    def __init__(self, store: Store, max_tasks: int) -> None:
        self.store = store
        self.max_tasks = max_tasks
        self.exposition = _exposition()

    def read(self) -> Snapshot:
        """Return what it has to read now."""
        return self.store.snapshot(self.max_tasks, self.exposition.bookmark)

    def shown(self) -> bytes:
        """Return the scrape made of what it had, and has read now."""
        return _of_store(self.exposition.write(self.read()))

    def afresh(self) -> bytes:
        """Return the scrape of one who had nothing."""
        return _of_store(_exposition().write(self.store.snapshot(self.max_tasks)))


def _exposition() -> Exposition:
    return Exposition(openmetrics=False, labels=LABELS, windows=WINDOWS, telemetry=TELEMETRY)


def _of_store(text: bytes) -> bytes:
    return text[: text.index(b"# HELP css_relay_callbacks_rejected")]


def _any_task(chance: random.Random) -> Task:
    host, name = chance.choice(["h1", "h2", "h3"]), f"{chance.randrange(25)}"
    made: list[Callable[[], Task]] = [
        lambda: task(name, host=host, to_url=f"rtmp://{host}/{chance.random()}"),
        lambda: task(name, "E", host=host),
        lambda: task(name, "E", host=host, code="0"),
        lambda: task(name, "N", host=host),
        lambda: settle(task(name, host=host), T0 + WINDOWS.lost_after, WINDOWS).task,
    ]
    return chance.choice(made)()


def _any_step(chance: random.Random) -> Callable[[Transaction], None]:
    tasks = [_any_task(chance) for _ in range(chance.randrange(4))]
    forgotten = [f"4/{chance.randrange(25)}" for _ in range(chance.randrange(3))]
    counted = chance.randrange(2)

    def work(step: Transaction) -> None:
        put(*tasks)(step)
        for key in forgotten:
            step.forget(key)
        if counted:
            count(host="h2")(step)

    return work


def test_after_any_steps_of_several_processes_a_scrape_is_one_made_afresh(open_store: Open) -> None:
    """A scrape made of changes equals one made afresh, after any steps of several processes."""
    chance = random.Random(1)
    stores = [open_store() for _ in range(3)]
    readers = [Reader(store, bound) for store in stores for bound in (0, 1, 7, 15, 99)]
    for _ in range(STEPS):
        # Long turns, so that what one process wrote alone is read too.
        writer = chance.choice(stores)
        for _ in range(chance.choice([1, 1, 2, 9])):
            writer.transact(_any_step(chance))
        for reader in chance.sample(readers, 3):
            assert reader.shown() == reader.afresh()


def test_what_did_not_change_is_not_read(store: Store) -> None:
    """Only the changed tasks are read again, and the next time none."""
    store.transact(put(*(task(f"{n}", host=f"h{n % 9}") for n in range(600))))
    reader = Reader(store, 5000)
    reader.shown()
    changed = [task(f"{n}", host=f"h{n % 9}", to_url="rtmp://changed/") for n in range(0, 600, 20)]
    store.transact(put(*changed))
    read = reader.read()
    assert not read.is_whole
    assert {decode_task(record).task_id for record in read.tasks} == {each.task_id for each in changed}
    assert reader.shown() == reader.afresh()
    assert (reader.read().is_whole, list(reader.read().tasks)) == (False, [])


def test_a_task_that_makes_room_lets_the_next_one_in(store: Store) -> None:
    """Past the bound, a forgotten task's place goes to one that was there all the time."""
    store.transact(put(task("a"), task("b"), task("c", "E")))
    reader = Reader(store, 2)
    assert b'task_id="c"' not in reader.shown()
    store.transact(lambda step: step.forget("4/a"))
    assert not reader.read().is_whole
    assert b'task_id="c"' in reader.shown()
    store.transact(put(task("d")))
    assert not reader.read().is_whole
    assert b'task_id="c"' not in reader.shown()


def test_a_task_that_is_forgotten_and_comes_again_is_another(store: Store) -> None:
    """A task that is forgotten and comes again stands where its age puts it, once."""
    store.transact(put(task("a"), task("b")))
    reader = Reader(store, 9)
    reader.shown()
    store.transact(lambda step: step.forget("4/a"))
    store.transact(put(task("a")))
    assert [decode_task(record).task_id for record in store.snapshot(9).tasks] == ["b", "a"]
    assert reader.shown() == reader.afresh()
    assert reader.shown().count(b"css_relay_task_info{") == 2


def test_a_step_that_fails_leaves_nothing_behind(store: Store) -> None:
    """A failed step leaves nothing in a scrape, and hides nothing that others change next."""
    store.transact(put(task("a"), task("b")))
    reader = Reader(store, 9)
    reader.shown()

    def fail(step: Transaction) -> None:
        put(task("a", "E"))(step)
        step.forget("4/b")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.transact(fail)
    assert reader.shown() == reader.afresh()
    store.transact(put(task("b", "E")))
    assert reader.shown() == reader.afresh()


def test_a_task_without_a_state_is_not_shown_any_more(store: Store) -> None:
    """A task is shown only while it has a state."""
    store.transact(put(task("a")))
    reader = Reader(store, 9)
    reader.shown()
    for state, shown in (("none", 0), ("active", 1)):
        store.transact(lambda step, s=state: step.put(Row(task("a"), ("4", "h"), s, 9.0)))
        assert reader.shown().count(b"css_relay_task_info{") == shown


def test_a_process_knows_again_what_changed_after_another_has_written(open_store: Open) -> None:
    """After two processes overlapped, the one that stays soon reads only changes again."""
    first, second = open_store(), open_store()
    reader = Reader(first, 9)
    for store in (first, second, first):
        store.transact(put(task("a", host="h")))
    reader.shown()
    first.transact(put(task("b")))
    read = reader.read()
    assert (read.is_whole, len(read.tasks)) == (False, 1)
    assert reader.shown() == reader.afresh()
