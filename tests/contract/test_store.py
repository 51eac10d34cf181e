"""The contract of every store."""

import re
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import permutations, product

import pytest

from exporter.errors import StoreError
from exporter.metrics.values import LabelSetValues, labels_of, series
from exporter.relay import STATES, Task, settle, state_of
from exporter.store.protocol import Store, decode_label_set, decode_task
from exporter.store.transaction import QuarantineEntry, TaskRow, Transaction
from tests.contract.conftest import Open, run_concurrently
from tests.unit.histories import SETTINGS, T0, callback, fold

LABELS = ("appid", "to_host")
Work = Callable[[Transaction], object]


def task(
    task_id: str, letter: str = "S", host: str = "push.example.com", code: str = "-22", **more: str
) -> Task:
    """Return a task after one callback."""
    new = Task(appid=4, task_id=task_id)
    return fold(new, callback(letter, T0, code, to_host=host, **more), float(T0), SETTINGS).task


def put(*tasks: Task, due: float = 2000.0) -> Work:
    """Return the work of a transaction that writes tasks."""

    def work(transaction: Transaction) -> None:
        for each in tasks:
            transaction.put(TaskRow(each, labels_of(each, LABELS), state_of(each, SETTINGS), due))

    return work


def count(
    number: int = 1, host: str = "push.example.com", name: str = "tasks_started_total", label: str = ""
) -> Work:
    """Return the work of a transaction that increments a counter."""

    def work(transaction: Transaction) -> None:
        transaction.increments.record([(name, label, number)], ("4", host), "t", 9.0)

    return work


def label_sets(store: Store) -> dict[tuple[str, ...], LabelSetValues]:
    """Return the values of a snapshot's label sets, by labels."""
    return {labels: decode_label_set(record) for labels, record in store.snapshot(10).label_sets}


def fleet(store: Store) -> dict[str, int]:
    """Return the values of the fleet's families."""
    return decode_label_set(store.snapshot(10).fleet).values


def test_a_new_store_has_no_records(store: Store) -> None:
    """It has only a fleet without values, and a secret of its own."""
    snapshot = store.snapshot(10)
    assert (snapshot.label_sets, snapshot.counts, snapshot.tasks) == ([], [], [])
    assert (snapshot.left_out, snapshot.quarantined, snapshot.created) == (0, 0, 1000.0)
    assert fleet(store) == {}
    assert len(store.secret) == 16


def test_another_process_reads_what_was_written(open_store: Open) -> None:
    """It reads the same tasks, values, secret and creation time."""
    first = open_store()
    first.transact(put(task("a")))
    first.transact(count(3))
    second = open_store()
    assert second.transact(lambda transaction: transaction.task("4/a"))[0] == task("a")
    assert label_sets(second)["4", "push.example.com"].values == {"tasks_started_total": 3}
    assert second.secret == first.secret
    assert second.snapshot(1).created == first.snapshot(1).created


def test_a_transaction_reads_its_own_changes(store: Store) -> None:
    """A batch may therefore have two callbacks of one task."""

    def work(transaction: Transaction) -> tuple[Task | None, Task | None]:
        put(task("a"))(transaction)
        seen = transaction.task("4/a")
        transaction.delete("4/a")
        return seen, transaction.task("4/a")

    assert store.transact(work)[0] == (task("a"), None)
    assert store.find_task("4/a") is None


def test_a_failed_transaction_changes_nothing(store: Store) -> None:
    """Work that raises changes neither tasks nor values nor the quarantine. The next transaction works."""

    def work(transaction: Transaction) -> None:
        put(task("a"))(transaction)
        count()(transaction)
        transaction.quarantine(QuarantineEntry("json", b"x", "::1", 9.0))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.transact(work)
    assert store.find_task("4/a") is None
    assert label_sets(store) == {}
    assert store.snapshot(1).quarantined == 0
    store.transact(count())
    assert label_sets(store)["4", "push.example.com"].values == {"tasks_started_total": 1}


def test_two_processes_add_to_the_same_values(open_store: Open) -> None:
    """Values in the memory of a process do not matter."""
    first, second = open_store(), open_store()
    for number in range(5):
        first.transact(count(1))
        second.transact(count(10))
        second.transact(put(task(f"t{number}")))
    assert label_sets(first) == label_sets(second)
    assert label_sets(first)["4", "push.example.com"].values == {"tasks_started_total": 55}


def test_concurrent_transactions_are_serialized(open_store: Open) -> None:
    """Each reads the changes of the other, so a counter in a task loses nothing."""
    stores = [open_store(), open_store()]

    def run(store: Store) -> None:
        for _ in range(30):
            store.transact(lambda transaction: put(_with_one_more_run(transaction.task("4/a")))(transaction))

    run_concurrently(partial(run, store) for store in stores)
    record = stores[0].find_task("4/a")
    assert record is not None
    assert decode_task(record).runs == 60


def _with_one_more_run(known: Task | None) -> Task:
    base = task("a")
    return Task(appid=4, task_id="a", current=base.current, runs=(known.runs if known else 0) + 1)


def test_tasks_with_sources_are_those_of_one_account_and_source(store: Store) -> None:
    """The result has the changes of the transaction, and not the record of exits without a task_id."""
    store.transact(put(task("a", sources="aa"), task("b", sources="bb"), task("c", sources="aa")))

    def work(transaction: Transaction) -> list[str]:
        put(task("d", sources="aa"), task("a", sources="bb"))(transaction)
        transaction.delete("4/c")
        transaction.put(TaskRow(Task(appid=4, task_id="", sources="aa"), (), "none", 9.0))
        return [t.task_id for t in transaction.tasks_with_sources(4, "aa")]

    assert store.transact(work)[0] == ["d"]
    assert [t.task_id for t in store.transact(lambda s: s.tasks_with_sources(4, "bb"))[0]] == ["a", "b"]
    assert store.transact(lambda s: s.tasks_with_sources(5, "aa"))[0] == []


def test_due_tasks_are_ordered_by_due_time(store: Store) -> None:
    """The earliest due time first, up to a limit, without tasks that are not due."""
    store.transact(put(task("a"), due=30.0))
    store.transact(put(task("b"), due=10.0))
    store.transact(put(task("c"), due=40.0))
    assert store.due_keys(30.0, 10) == ["4/b", "4/a"]
    assert store.due_keys(40.0, 1) == ["4/b"]
    store.transact(lambda transaction: transaction.delete("4/b"))
    assert store.due_keys(30.0, 10) == ["4/a"]


def test_all_tasks_become_due_once_when_the_fold_settings_change(open_store: Open) -> None:
    """Their states may be different under the new settings."""
    open_store(fold_settings_fingerprint="0").transact(put(task("a"), task("b", "E"), due=9e9))
    assert open_store(fold_settings_fingerprint="0").due_keys(1.0, 9) == []
    store = open_store(fold_settings_fingerprint="0,-22")
    assert sorted(store.due_keys(1.0, 9)) == ["4/a", "4/b"]
    store.transact(put(task("a"), task("b", "E"), due=9e9))
    assert open_store(fold_settings_fingerprint="0,-22").due_keys(1.0, 9) == []


def test_a_label_set_is_created_with_its_first_task(store: Store) -> None:
    """Its series therefore start at 0."""
    store.transact(put(task("a", host="new.example.com")))
    assert label_sets(store) == {("4", "new.example.com"): LabelSetValues(("4", "new.example.com"), 1000.0)}


def test_tasks_are_counted_by_label_set_and_state(store: Store) -> None:
    """A task without a known run is not counted."""
    store.transact(
        put(
            task("a"), task("b"), task("c", "E"), task("d", "E", code="0"), task("e", "N"), task("f", host="")
        )
    )
    assert sorted(store.snapshot(10).counts) == [
        (("4", "_unknown"), "active", 1),
        (("4", "push.example.com"), "active", 2),
        (("4", "push.example.com"), "failed", 1),
        (("4", "push.example.com"), "stopped", 1),
    ]
    store.transact(put(task("a", "E", code="0")))
    store.transact(lambda transaction: transaction.delete("4/b"))
    assert sorted(store.snapshot(10).counts)[1:] == [
        (("4", "push.example.com"), "failed", 1),
        (("4", "push.example.com"), "stopped", 2),
    ]


def test_over_the_limit_stopped_tasks_are_left_out_first_and_active_ones_last(store: Store) -> None:
    """The snapshot has the number of tasks that are left out."""
    store.transact(
        put(task("stopped", "E", code="0"), task("failed", "E"), task("active"), task("none", "N"))
    )
    for limit, shown in ((3, ["active", "failed", "stopped"]), (2, ["active", "failed"]), (1, ["active"])):
        snapshot = store.snapshot(limit)
        assert [decode_task(record).task_id for record in snapshot.tasks] == shown
        assert snapshot.left_out == 3 - limit


def test_a_snapshot_reads_states_in_the_requested_order_and_counts_all_tasks(store: Store) -> None:
    """The counts do not depend on the limit or the order."""
    lost = settle(task("lost"), T0 + SETTINGS.lost_after, SETTINGS).task
    store.transact(
        put(task("stopped", "E", code="0"), task("active"), lost, task("failed", "E"), task("none", "N"))
    )
    store.transact(lambda transaction: transaction.quarantine(QuarantineEntry("json", b"x", "::1", 9.0)))
    store.transact(
        lambda transaction: transaction.increments.count("callbacks_total", "TaskStart", "applied", amount=7)
    )
    for order, limit in product(permutations(STATES), range(6)):
        snapshot = store.snapshot(limit, order)
        assert [decode_task(record).task_id for record in snapshot.tasks] == list(order[:limit])
        assert (snapshot.count_by_state, snapshot.left_out) == (Counter(STATES), max(4 - limit, 0))
        assert snapshot.quarantined == 1
        assert decode_label_set(snapshot.fleet).values[series("callbacks_total", "TaskStart", "applied")] == 7


def test_a_listing_is_read_page_by_page(store: Store) -> None:
    """The tasks are in the order of arrival, and of one state if requested."""
    store.transact(put(*(task(str(n)) for n in range(5)), task("x", "E")))
    first = store.list_tasks(state=None, after=0, limit=4)
    second = store.list_tasks(state=None, after=first[-1][0], limit=4)
    assert [decode_task(record).task_id for _, record in first + second] == ["0", "1", "2", "3", "4", "x"]
    assert [
        decode_task(record).task_id for _, record in store.list_tasks(state="failed", after=0, limit=9)
    ] == ["x"]


def test_label_sets_over_the_limit_share_one(open_store: Open) -> None:
    """Earlier label sets stay separate, and the overflow is returned."""
    store = open_store(max_label_sets=2)
    store.transact(count(host="a"))
    _, overflow = store.transact(count(host="b"))
    assert overflow.get("label_sets", 0) == 0
    for host in ("c", "d"):
        _, overflow = store.transact(count(host=host))
        assert overflow["label_sets"] == 1
    _, overflow = store.transact(put(task("t", host="e")))
    assert overflow["label_sets"] == 1
    store.transact(count(host="a"))
    assert {
        labels: label_set.values["tasks_started_total"] for labels, label_set in label_sets(store).items()
    } == {
        ("4", "a"): 2,
        ("4", "b"): 1,
        ("_other", "_other"): 2,
    }
    assert store.snapshot(1).counts == [(("_other", "_other"), "active", 1)]


def test_two_new_label_sets_over_the_limit_are_added_up_in_one_transaction(open_store: Open) -> None:
    """Two new label sets beyond the limit are added up, also within one transaction."""
    store = open_store(max_label_sets=1)
    store.transact(count(host="a"))

    def work(transaction: Transaction) -> None:
        count(2, host="b")(transaction)
        count(3, host="c")(transaction)

    store.transact(work)
    assert label_sets(store)["_other", "_other"].values == {"tasks_started_total": 5}


def test_codes_over_the_limit_share_a_series_across_label_sets(store: Store) -> None:
    """64 codes are counted separately across all label sets; later codes share a series."""
    for number in range(70):
        _, overflow = store.transact(
            count(host=f"h{number % 3}", name="tasks_exited_total", label=str(number))
        )
        assert overflow.get("codes", 0) == (number >= 64)
    known = {key for label_set in label_sets(store).values() for key in label_set.values}
    assert series("tasks_exited_total", "63") in known
    assert series("tasks_exited_total", "64") not in known
    assert (
        sum(led.values.get(series("tasks_exited_total", "_other"), 0) for led in label_sets(store).values())
        == 6
    )


def test_a_body_is_kept_once_and_counted(store: Store) -> None:
    """A body that is received again is not stored again; distinct bodies are counted by reason."""

    def work(transaction: Transaction) -> None:
        for body in (b"a", b"b", b"a"):
            transaction.quarantine(QuarantineEntry("schema", body, "::1", 9.0))

    store.transact(work)
    store.transact(work)
    assert store.snapshot(1).quarantined == 2
    assert fleet(store)[series("quarantined_bodies_total", "schema")] == 2


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"max_quarantined": 2}, 2),
        ({"max_quarantined_bytes": 25}, 2),
        ({"max_quarantined_age_seconds": 1.5}, 2),
    ],
)
def test_a_full_quarantine_deletes_the_bodies_not_received_for_the_longest_time(
    open_store: Open, limits: dict[str, float], kept: int
) -> None:
    """Deleted bodies are counted."""
    store = open_store(**limits)
    for number in range(5):
        store.transact(
            lambda transaction, n=number: transaction.quarantine(
                QuarantineEntry("json", b"0123456789" + bytes([n]), "::1", float(n))
            )
        )
    assert store.snapshot(1).quarantined == kept
    assert fleet(store)["quarantine_evicted_total"] == 5 - kept


def quarantined(*bodies: bytes, arrival: float = 9.0, reason: str = "schema") -> Work:
    """Return the work of a transaction that quarantines bodies."""

    def work(transaction: Transaction) -> None:
        for body in bodies:
            transaction.quarantine(QuarantineEntry(reason, body, "::1", arrival))

    return work


def test_a_body_is_stored_unchanged_with_its_metadata(store: Store) -> None:
    """Byte for byte, with reason, last source, count, first and last arrival."""
    body = b"\x00\xff{'\r\n" * 9
    for arrival in (30.0, 10.0, 20.0):
        store.transact(quarantined(body, arrival=arrival))
    (stored,) = store.bodies(limit=9)
    assert (stored.reason, stored.body, stored.source) == ("schema", body, "::1")
    assert (stored.count, stored.first, stored.last) == (3, 10.0, 30.0)
    assert re.fullmatch("[0-9a-f]{32}", stored.digest)


def test_bodies_are_listed_by_first_arrival_page_by_page(store: Store) -> None:
    """The bodies are of one reason, or have a prefix of the digest, if requested."""
    for number in range(5):
        store.transact(quarantined(b"%d" % number, arrival=50.0 - number))
    store.transact(quarantined(b"a", b"b", arrival=1.0, reason="json"))
    listed = store.bodies(limit=99)
    assert [stored.body for stored in listed[2:]] == [b"4", b"3", b"2", b"1", b"0"]
    assert {stored.body for stored in listed[:2]} == {b"a", b"b"}
    paged = store.bodies(limit=1)
    while more := store.bodies(limit=2, after=paged[-1]):
        paged += more
    assert paged == listed
    assert store.bodies(limit=99, reason="json") == listed[:2]
    assert store.bodies(limit=99, prefix=listed[3].digest[:9]) == [listed[3]]
    assert store.bodies(limit=99, prefix=listed[3].digest, reason="json") == []
    assert store.bodies(limit=99, prefix="%") == []


def test_an_empty_body_is_released_and_evicted_like_others(open_store: Open) -> None:
    """An empty body is released, or deleted for room, like any other."""
    store = open_store(max_quarantined=1)
    for body in (b"", b"x"):
        store.transact(
            lambda transaction, body=body: transaction.quarantine(QuarantineEntry("json", body, "::1", 9.0))
        )
    assert fleet(store)["quarantine_evicted_total"] == 1
    store.transact(lambda transaction: transaction.quarantine(QuarantineEntry("json", b"", "::1", 99.0)))
    (stored,) = store.bodies(limit=9)
    assert (stored.body, store.transact(lambda transaction: transaction.delete_body(stored.digest))[0]) == (
        b"",
        True,
    )
    assert store.snapshot(1).quarantined == 0


def test_a_body_is_released_once(open_store: Open) -> None:
    """Only one transaction of one process releases a body; this is not counted as an eviction."""
    first, second = open_store(), open_store()
    first.transact(quarantined(b"a", b"b"))
    digest = first.bodies(limit=1)[0].digest

    def work(transaction: Transaction) -> bool:
        return transaction.delete_body(digest) and (count()(transaction) is None)

    def fail(transaction: Transaction) -> None:
        work(transaction)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        first.transact(fail)
    assert first.snapshot(1).quarantined == 2
    assert [store.transact(work)[0] for store in (first, second, first)] == [True, False, False]
    assert second.snapshot(1).quarantined == 1
    assert label_sets(second)["4", "push.example.com"].values == {"tasks_started_total": 1}
    assert fleet(second) == {series("quarantined_bodies_total", "schema"): 2}
    assert not first.transact(lambda transaction: transaction.delete_body("no digest"))[0]


def test_old_bodies_are_deleted_without_new_bodies(open_store: Open) -> None:
    """So are bodies over a limit that was lowered."""
    open_store().transact(quarantined(b"a", b"b", b"c", arrival=10.0))
    store = open_store(max_quarantined=2, max_quarantined_age_seconds=5.0)
    for now, kept in ((15.0, 2), (15.0, 2), (15.1, 0), (99.0, 0)):
        store.transact(lambda transaction, at=now: transaction.evict(at))
        assert store.snapshot(1).quarantined == kept
        assert fleet(store)["quarantine_evicted_total"] == 3 - kept


def test_attach_only_opens_a_store_without_changing_it(open_store: Open) -> None:
    """It creates no store and makes no task due; the error names the missing settings."""
    with pytest.raises(StoreError, match=r"no store .* --store.url"):
        open_store(attach_only=True)
    open_store(fold_settings_fingerprint="--a=1 --b=2").transact(put(task("a"), due=9e9))
    assert open_store(fold_settings_fingerprint="--a=1 --b=2", attach_only=True).due_keys(1.0, 9) == []
    with pytest.raises(StoreError, match=r"add --b=2 to this command$"):
        open_store(fold_settings_fingerprint="--a=1 --b=3", attach_only=True)
    assert open_store(fold_settings_fingerprint="--a=1 --b=2").due_keys(1.0, 9) == []


def test_a_probe_can_be_repeated(store: Store) -> None:
    """It changes nothing that is shown."""
    before = store.snapshot(10)
    store.probe()
    store.probe()
    assert store.snapshot(10) == before


def test_a_store_with_other_labels_is_refused(open_store: Open) -> None:
    """The error says what to do."""
    open_store()
    with pytest.raises(StoreError, match=r"--metrics.labels=appid,to_host.*--store.url"):
        open_store(labels=("appid",))


def test_a_snapshot_has_every_transaction_committed_before_it(store: Store) -> None:
    """This holds also while another thread writes."""

    def write() -> None:
        for _ in range(100):
            store.transact(count())

    thread = threading.Thread(target=write)
    thread.start()
    last, is_running = 0, True
    while is_running:
        is_running = thread.is_alive()
        now = sum(label_set.values["tasks_started_total"] for label_set in label_sets(store).values())
        assert now >= last
        last = now
    thread.join()
    assert last == 100
