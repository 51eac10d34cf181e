"""A store that is moved is the same store, whatever the places are; and it is never at two of them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import valkey
from msgspec.structs import replace

from exporter.commands.move import arrival, departure
from exporter.errors import StoreError
from exporter.exposition import Exposition
from exporter.relay import NONE, Task, settle
from exporter.store import Refused, Row, Snapshot, Store, Terms, Transaction
from exporter.store.mark import HANDING, LEAVING, MOVED, Mark
from exporter.store.moving import Contents, Departure, Head, Kept, Numbered, Page, move, stay
from exporter.store.records import decode_ledger
from exporter.store.sqlite import SqliteStore
from exporter.store.valkey.store import ValkeyStore
from exporter.storeurl import StoreUrl, parse_store
from exporter.telemetry import Telemetry
from tests.contract.test_store import LABELS, count, ledgers, put, task
from tests.unit.histories import T0, WINDOWS

MANY = 2500


class Place:
    """A place for a store.

    Args:
        url: where it is.
    """

    def __init__(self, url: str) -> None:
        self.url = parse_store(url)

    def __str__(self) -> str:
        return str(self.url)

    def open(self, **changes: Any) -> Store:
        """Open the store that is here."""
        terms = replace(Terms(judged_by="--relay.x=1"), **changes)
        if self.url.is_embedded:
            return SqliteStore(Path(self.url.path), terms, clock=lambda: 1000.25)
        return ValkeyStore(self.url, terms, clock=lambda: 1000.25)


def _file(request: pytest.FixtureRequest, number: int) -> str:
    return f"sqlite:{request.getfixturevalue('tmp_path')}/{number}.db"


def _valkey(request: pytest.FixtureRequest, number: int) -> str:
    return f"valkey://127.0.0.1:{request.getfixturevalue('server').port}/{number}"


def _redis(request: pytest.FixtureRequest, number: int) -> str:
    return f"redis://127.0.0.1:{request.getfixturevalue('redis').port}/{number}"


def _cluster(request: pytest.FixtureRequest, number: int) -> str:
    return f"valkey-cluster://127.0.0.1:{request.getfixturevalue('cluster')[0].port}"


KINDS: dict[str, Callable[[pytest.FixtureRequest, int], str]] = {
    "file": _file,
    "valkey": _valkey,
    "redis": _redis,
    "cluster": _cluster,
}
#: Each kind of store leaves once, and each arrives once.
WAYS = ("file-valkey", "valkey-file")

Pair = tuple[Place, Place]

pytestmark = pytest.mark.servers


@pytest.fixture(params=WAYS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Two places with nothing in them."""
    kinds = request.param.split("-")
    one, other = (Place(KINDS[kind](request, number)) for number, kind in enumerate(kinds))
    for place in (one, other):
        if not place.url.is_embedded:
            empty(place.url)
    return one, other


def empty(url: StoreUrl) -> None:
    """Empty a server, or all of a cluster."""
    ports = [url.port]
    if url.is_cluster:
        with valkey.Valkey(port=url.port) as client:
            ports = [int(node.rpartition(":")[2]) for node in client.execute_command("CLUSTER NODES")]
    for port in ports:
        with valkey.Valkey(port=port) as client:
            client.flushall()


def moved(
    source: Place,
    target: Place,
    *,
    labels: tuple[str, ...] = LABELS,
    replace: bool = False,
    happens: Callable[[], object] = lambda: None,
    at_end: bool = False,
) -> Contents | None:
    """Move a store; something may happen on the way."""
    with closing(departure(source.url)) as leaves, closing(arrival(target.url)) as arrives:
        return move(Disturbed(leaves, happens, at_end=at_end), arrives, labels=labels, replace=replace)


def interrupted() -> None:
    """Somebody gives up."""
    raise KeyboardInterrupt


def fill(store: Store) -> None:
    """Put in something of every kind, with gaps, ties and odd characters."""
    lost = settle(task("lost"), T0 + WINDOWS.lost_after, WINDOWS).task
    store.transact(put(task("gone"), *(task(f"t{n}") for n in range(3)), due=0.1 + 0.2))
    store.transact(
        put(
            task("ä\t\x7f☃", host="ö.example.com", sources="00ff00ff00ff00ff"),
            task("failed", "E", sources="00ff00ff00ff00ff", message='zuviel \u2028 \\ "'),
            task("stopped", "E", code="0"),
            lost,
            task("finished", "N"),
            due=float("1e9"),
        )
    )
    store.transact(lambda step: step.forget("4/gone"))

    def work(step: Transaction) -> None:
        step.put(Row(Task(appid=4, task_id="", sources="ff00ff00ff00ff00"), (), NONE, 9.5))
        for number in range(70):
            step.tally.tell([("tasks_exited_total", str(-number), 2)], ("4", "push.example.com"), "t", 9.0)
        step.tally.tell([("start_to_file_latency_seconds", "", 2.5)], ("4", "a b"), "☃", 1e9 + 1 / 3)
        step.tally.tell([("run_seconds", "", 3)], ("4", "push.example.com"), "t", 9)
        step.tally.count("unknown_fields_total", "new field", amount=3)
        step.tally.mark("last_callback_timestamp_seconds", "TaskStart", 1e9 + 1 / 7)
        for at in (1 / 3, 7.0, 2.0):
            step.quarantine(Refused("json", bytes(range(256)) * 9, "2001:db8::1", at))
        step.quarantine(Refused("schema", b"", "192.0.2.1", 5.0))

    store.transact(work)
    store.transact(put(task("newest")))
    store.transact(lambda step: step.forget("4/newest"))


def everything(place: Place) -> tuple[Head, list[object]]:
    """Return all that a store holds."""
    with closing(departure(place.url)) as leaves:
        items = [item for page in leaves.pages() for item in page]
        return leaves.head(), sorted(items, key=lambda item: (type(item).__name__, _number(item)))


def _number(item: Any) -> Any:
    return item.number if isinstance(item, (Kept, Numbered)) else int(item.digest, 16)


def shown(snapshot: Snapshot) -> list[bytes]:
    """Return a scrape in both formats, the process's own families apart."""
    telemetry = Telemetry(version="", revision="")
    forms = [
        Exposition(openmetrics=openmetrics, labels=LABELS, windows=WINDOWS, telemetry=telemetry)
        for openmetrics in (False, True)
    ]
    return [form.write(snapshot).partition(b"# HELP css_relay_callbacks_rejected")[0] for form in forms]


def comparable(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot without what each store keeps in its own form."""
    fleet = decode_ledger(snapshot.fleet)
    values = {key: value for key, value in fleet.values.items() if not key.startswith("seen ")}
    return replace(
        snapshot,
        fleet=replace(fleet, values=values),
        ledgers=[(labels, decode_ledger(record)) for labels, record in snapshot.ledgers],
        counts=sorted(snapshot.counts),
    )


@pytest.mark.parametrize("pair", [*WAYS, "redis-cluster"], indirect=True)
def test_a_moved_store_is_the_same_and_so_is_one_that_came_back(pair: Pair) -> None:
    """A moved store is the same in every record, number, time and secret, and its old place is given up."""
    source, target = pair
    with closing(source.open()) as store:
        fill(store)
        before, secret = store.snapshot(100), store.secret
        bodies = store.bodies(limit=10)
    start = everything(source)
    contents = moved(source, target)
    assert str(contents) == "9 tasks, 3 label sets, 2 bodies in the quarantine"
    assert everything(target) == start
    with closing(target.open()) as store:
        after = store.snapshot(100)
        assert shown(after) == shown(before)
        assert comparable(after) == comparable(before)
        assert (store.secret, store.bodies(limit=10)) == (secret, bodies)
        assert store.due(0.3, 9) == []
        assert len(store.due(0.1 + 0.2, 9)) == 3
    with pytest.raises(StoreError, match=f"was moved to {target}: give --store.url={target}$"):
        source.open()
    moved(target, source, replace=True)
    assert everything(source) == start
    with closing(source.open()) as store:
        assert shown(store.snapshot(100)) == shown(before)
    with pytest.raises(StoreError, match=f"was moved to {source}"):
        target.open(as_guest=True)


def test_a_moved_store_goes_on_where_it_was(pair: Pair) -> None:
    """Numbers, what was told apart, siblings, the order of tasks, and the quarantine."""
    source, target = pair
    with closing(source.open()) as store:
        fill(store)
    moved(source, target)
    with closing(target.open()) as store:
        before = ledgers(store)["4", "push.example.com"]
        assert before.values["tasks_exited_total _other"] == 12

        def work(step: Transaction) -> tuple[list[str], bool]:
            put(task("new"))(step)
            count(5)(step)
            step.tally.tell([("tasks_exited_total", "-1", 1)], ("4", "push.example.com"), "t", 9.0)
            step.tally.tell([("tasks_exited_total", "-999", 1)], ("4", "push.example.com"), "t", 9.0)
            step.quarantine(Refused("json", bytes(range(256)) * 9, "::2", 8.0))
            siblings = [each.task_id for each in step.siblings(4, "00ff00ff00ff00ff")]
            return sorted(siblings), step.release(store.bodies(limit=1, reason="schema")[0].digest)

        assert store.transact(work)[0] == (["failed", "ä\t\x7f☃"], True)
        now = ledgers(store)["4", "push.example.com"]
        grown = {key: n - before.values.get(key, 0) for key, n in now.values.items()}
        assert {key: n for key, n in grown.items() if n} == {
            "tasks_started_total": 5,
            "tasks_exited_total -1": 1,
            "tasks_exited_total _other": 1,
        }
        (held,) = store.bodies(limit=10)
        assert (held.count, held.first, held.last, held.source) == (4, 1 / 3, 8.0, "::2")
    with closing(target.open(max_quarantined_bytes=3000)) as store:
        store.transact(lambda step: step.quarantine(Refused("json", b"y" * 1000, "::1", 9.0)))
        assert [held.body for held in store.bodies(limit=10)] == [b"y" * 1000]
    tasks = [item for item in everything(target)[1] if isinstance(item, Kept)]
    assert '"new"' in tasks[-1].record


def test_many_pages_are_moved(pair: Pair) -> None:
    """And no task, body or label set at an edge is left behind."""
    source, target = pair

    def work(step: Transaction) -> None:
        put(*(task(f"t{n}", host=f"{n % 150}.example.com") for n in range(MANY)))(step)
        for number in range(150):
            step.quarantine(Refused("json", b"%d" % number, "::1", 9.0))

    with closing(source.open()) as store:
        store.transact(work)
    contents = moved(source, target)
    assert str(contents) == f"{MANY} tasks, 150 label sets, 150 bodies in the quarantine"
    assert everything(target) == everything(source)


def test_a_new_store_is_moved_too(pair: Pair) -> None:
    """Though there is hardly anything in it."""
    source, target = pair
    source.open().close()
    moved(source, target)
    assert everything(target) == everything(source)


def test_a_target_that_is_there_is_not_touched_without_replace(pair: Pair) -> None:
    """And the source goes on; neither is one that is in use."""
    source, target = pair
    with closing(source.open()) as store:
        store.transact(count(3))
    with closing(target.open()) as store:
        store.transact(count(1))
        before = store.snapshot(9)
        with pytest.raises(StoreError, match="is there already: give another p"):
            moved(source, target)
        with pytest.raises(StoreError, match="is in use: stop every process that serves it first"):
            moved(source, target, replace=True)
        assert store.snapshot(9) == before
    with closing(source.open()) as store:
        store.transact(count(3))
        assert b"tasks_started_total" in shown(store.snapshot(9))[0]


def test_labels_must_be_those_of_the_store(pair: Pair) -> None:
    """As for whoever serves it; and what is not there can't be moved."""
    source, target = pair
    with pytest.raises(StoreError, match="there is no store"):
        moved(source, target)
    source.open().close()
    with pytest.raises(StoreError, match=r"made with --metrics.labels=appid,to_host: give those"):
        moved(source, target, labels=("appid",))
    source.open().close()


def test_a_move_that_fails_takes_its_mark_back(pair: Pair) -> None:
    """And leaves nothing at the target: the store is served as before."""
    source, target = pair
    with closing(source.open()) as store:
        fill(store)
    start = everything(source)
    with pytest.raises(KeyboardInterrupt):
        moved(source, target, happens=interrupted)
    assert everything(source) == start
    source.open().close()
    with pytest.raises(StoreError, match="there is no store"):
        target.open(as_guest=True)
    moved(source, target)
    assert everything(target) == start


class Disturbed:
    """A departure during which something happens: after its first page, or else after its last.

    Args:
        whole: the departure.
        happens: what happens.
    """

    def __init__(self, whole: Departure, happens: Callable[[], object], *, at_end: bool = False) -> None:
        self._whole = whole
        self._happens = happens
        self._at_end = at_end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def pages(self) -> Iterator[Page]:
        """Yield the pages."""
        for number, page in enumerate(self._whole.pages()):
            yield page
            if number == 0 and not self._at_end:
                self._happens()
        if self._at_end:
            self._happens()


def test_a_move_that_was_cut_off_is_repeated_or_given_up(pair: Pair) -> None:
    """Nobody serves the store meanwhile, and the line says what to do."""
    source, target = pair
    with closing(source.open()) as store:
        fill(store)
    start = everything(source)
    cut = Mark(LEAVING, "0123", str(target))
    change(source, None, cut)
    with pytest.raises(StoreError, match=rf"is being moved to {target}: wait .* or `move --undo` to go on"):
        source.open()
    with closing(departure(source.url)) as leaves:
        stay(leaves)
        with pytest.raises(StoreError, match="is not being moved"):
            stay(leaves)
    source.open().close()
    change(source, None, cut)
    moved(source, target)
    assert everything(target) == start
    with closing(departure(source.url)) as leaves, pytest.raises(StoreError, match="was moved to"):
        stay(leaves)
    with pytest.raises(StoreError, match="was moved to"):
        moved(source, target, replace=True)
    assert everything(target) == start


def test_a_move_that_was_cut_off_at_its_very_end_is_told_from_one_that_was_not(pair: Pair) -> None:
    """The target is taken as it is, though it has been served since; or else all is moved again."""
    source, target = pair
    with closing(source.open()) as store:
        fill(store)
    change(source, None, Mark(HANDING, "0123", str(target)))
    with closing(departure(source.url)) as leaves, pytest.raises(StoreError, match=r"may be at .* already"):
        stay(leaves)
    moved(source, target)
    with closing(target.open()) as store:
        store.transact(count(7))
    after = everything(target)
    with closing(departure(source.url)) as leaves:
        done = leaves.mark()
        assert done is not None
        leaves.change(done, Mark(HANDING, done.move, done.to))
    assert moved(source, target) is None
    assert everything(target) == after
    with closing(departure(source.url)) as leaves:
        assert leaves.mark() == done
        assert done.stage == MOVED


def test_a_store_that_may_be_elsewhere_is_moved_nowhere_else(pair: Pair) -> None:
    """It could be served at both; a move that is refused does not make it free."""
    source, target = pair
    source.open().close()
    target.open().close()
    elsewhere, here = (Mark(HANDING, "0123", to) for to in ("sqlite:/elsewhere.db", str(target)))
    change(source, None, elsewhere)
    with pytest.raises(StoreError, match=r"may be at sqlite:/elsewhere.db already: move it to there"):
        moved(source, target)
    change(source, elsewhere, here)
    with pytest.raises(StoreError, match="is there already"):
        moved(source, target)
    with closing(departure(source.url)) as leaves:
        assert leaves.mark() == here


def change(place: Place, before: Mark | None, after: Mark | None) -> None:
    """Give the store another mark, as a move that is cut off then leaves it."""
    with closing(departure(place.url)) as leaves:
        leaves.change(before, after)
