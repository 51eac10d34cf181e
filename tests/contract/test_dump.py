"""A store loaded from a dump has the same content, for all kinds of the two stores."""

import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import valkey
from msgspec.structs import replace

from exporter.config.store_url import StoreUrl, parse_store
from exporter.errors import StoreError
from exporter.metrics.process import Telemetry
from exporter.relay import ACTIVE, NONE, Task, settle
from exporter.store.dump import EndLine, Line, TaskLine, read_dump, write_dump
from exporter.store.protocol import Store, StoreOptions
from exporter.store.sqlite.dump import dump_file, load_file
from exporter.store.sqlite.store import SqliteStore
from exporter.store.transaction import QuarantineEntry, TaskRow, Transaction
from exporter.store.valkey.dump import dump_server, load_server
from exporter.store.valkey.store import ValkeyStore
from exporter.web.scrape import Exposition
from tests.contract.test_store import LABELS, count, label_sets, put, task
from tests.unit.histories import SETTINGS, T0

MANY = 2500


class Place:
    """A place for a store.

    Args:
        url: the URL of the store.
    """

    def __init__(self, url: str) -> None:
        self.url = parse_store(url)

    def __str__(self) -> str:
        return str(self.url)

    def open(self, **changes: Any) -> Store:
        """Open the store in this place."""
        options = replace(StoreOptions(fold_settings_fingerprint="--relay.x=1"), **changes)
        if self.url.is_embedded:
            return SqliteStore(Path(self.url.path), options, clock=lambda: 1000.25)
        return ValkeyStore(self.url, options, clock=lambda: 1000.25)

    def lines(self) -> Iterator[Line]:
        """Return the lines of a dump, without the end line."""
        return dump_file(Path(self.url.path)) if self.url.is_embedded else dump_server(self.url)

    def dump(self) -> bytes:
        """Return a dump."""
        return dumped(self.lines())[0]

    def load(
        self,
        dump: bytes,
        *,
        labels: tuple[str, ...] = LABELS,
        replace: bool = False,
        before_last_line: Callable[[], object] = lambda: None,
    ) -> None:
        """Load a dump; call `before_last_line` before its last line."""
        self.load_lines(
            _with_call_before_last(read_dump(BytesIO(dump), "x.dump", labels), before_last_line),
            replace=replace,
        )

    def load_lines(self, lines: Iterator[Line], *, replace: bool = False) -> None:
        """Create a store from the lines of a dump."""
        if self.url.is_embedded:
            load_file(Path(self.url.path), lines, replace=replace)
        else:
            load_server(self.url, lines, replace=replace)

    def is_free(self) -> bool:
        """Return whether this place is completely empty."""
        if self.url.is_embedded:
            path = Path(self.url.path)
            return {file.name for file in path.parent.glob(f"{path.name}*")} <= {f"{path.name}-lock"}
        if self.url.is_cluster:
            return not any(_keys(port) for port in _ports(self.url))
        return not _keys(self.url.port, self.url.database)


def dumped(lines: Iterator[Line]) -> tuple[bytes, EndLine]:
    """Return a dump of these lines, and its end line."""
    file = BytesIO()
    end = write_dump(lines, file)
    return file.getvalue(), end


def _with_call_before_last(lines: Iterator[Line], call: Callable[[], object]) -> Iterator[Line]:
    last = next(lines)
    for line in lines:
        yield last
        last = line
    call()
    yield last


def _keys(port: int, database: int = 0) -> list[bytes]:
    with valkey.Valkey(port=port, db=database) as client:
        return list(client.keys())


def _ports(url: StoreUrl) -> list[int]:
    if not url.is_cluster:
        return [url.port]
    with valkey.Valkey(port=url.port) as client:
        return [int(node.rpartition(":")[2]) for node in client.execute_command("CLUSTER NODES")]


def empty(url: StoreUrl) -> None:
    """Empty a server, or all of a cluster."""
    for port in _ports(url):
        with valkey.Valkey(port=port) as client:
            client.flushall()


def _file(request: pytest.FixtureRequest, number: int) -> str:
    return f"sqlite:{request.getfixturevalue('tmp_path')}/{number}.db"


def _valkey(request: pytest.FixtureRequest, number: int) -> str:
    return f"valkey://127.0.0.1:{request.getfixturevalue('server').port}/{number}"


def _redis(request: pytest.FixtureRequest, number: int) -> str:
    return f"redis://127.0.0.1:{request.getfixturevalue('redis').port}/{number}"


def _cluster(request: pytest.FixtureRequest, _: int) -> str:
    return f"valkey-cluster://127.0.0.1:{request.getfixturevalue('cluster')[0].port}"


KINDS: dict[str, Callable[[pytest.FixtureRequest, int], str]] = {
    "file": _file,
    "valkey": _valkey,
    "redis": _redis,
    "cluster": _cluster,
}
#: Each kind of store is dumped, and each is loaded into.
KINDS_OF_PLACES: list[Any] = ["file-file", pytest.param("file-valkey", marks=pytest.mark.servers)]
KINDS_OF_PLACES += [pytest.param("valkey-file", marks=pytest.mark.servers)]
ALL_KINDS = pytest.param("file-valkey-redis-cluster-file", marks=pytest.mark.servers)

Places = list[Place]


@pytest.fixture(params=KINDS_OF_PLACES)
def places(request: pytest.FixtureRequest) -> Places:
    """Empty places for stores."""
    found = [Place(KINDS[kind](request, number)) for number, kind in enumerate(request.param.split("-"))]
    for place in found:
        if not place.url.is_embedded:
            empty(place.url)
    return found


def fill(store: Store) -> None:
    """Add records of every kind, with gaps, ties and unusual characters."""
    lost = settle(task("lost"), T0 + SETTINGS.lost_after, SETTINGS).task
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
    store.transact(lambda transaction: transaction.delete("4/gone"))

    def work(transaction: Transaction) -> None:
        transaction.put(TaskRow(Task(appid=4, task_id="", sources="ff00ff00ff00ff00"), (), NONE, 9.5))
        for number in range(70):
            transaction.increments.record(
                [("tasks_exited_total", str(-number), 2)], ("4", "push.example.com"), "t", 9.0
            )
        transaction.increments.record(
            [("start_to_file_latency_seconds", "", 2.5)], ("4", "a b"), "☃", 1e9 + 1 / 3
        )
        transaction.increments.record([("run_seconds", "", 3)], ("4", "push.example.com"), "t", 9)
        transaction.increments.count("unknown_fields_total", "new field", amount=3)
        transaction.increments.set_time("last_callback_timestamp_seconds", "TaskStart", 1e9 + 1 / 7)
        for at in (1 / 3, 7.0, 2.0):
            transaction.quarantine(QuarantineEntry("json", bytes(range(256)) * 9, "2001:db8::1", at))
        transaction.quarantine(QuarantineEntry("schema", b"", "192.0.2.1", 5.0))

    store.transact(work)
    store.transact(put(task("newest")))
    store.transact(lambda transaction: transaction.delete("4/newest"))


def shown(store: Store) -> list[bytes]:
    """Return a scrape in both formats, without the families of the process."""
    telemetry = Telemetry(version="", revision="")
    forms = [
        Exposition(openmetrics=openmetrics, labels=LABELS, fold_settings=SETTINGS, telemetry=telemetry)
        for openmetrics in (False, True)
    ]
    return [
        form.write(store.snapshot(100)).partition(b"# HELP css_relay_callbacks_rejected")[0] for form in forms
    ]


@pytest.mark.parametrize("places", [*KINDS_OF_PLACES, ALL_KINDS], indirect=True)
def test_a_loaded_store_has_the_same_content_and_the_same_dump(places: Places) -> None:
    """Every record, number, time and secret is the same, and so are all bytes of a dump and of a scrape."""
    with closing(places[0].open()) as store:
        fill(store)
        before, secret, bodies = shown(store), store.secret, store.bodies(limit=10)
    dump, end = dumped(places[0].lines())
    assert str(end) == "9 tasks, 3 label sets, 2 bodies in the quarantine"
    for source, target in pairwise(places):
        target.load(source.dump())
        assert target.dump() == dump
        with closing(target.open()) as store:
            assert shown(store) == before
            assert (store.secret, store.bodies(limit=10)) == (secret, bodies)
            assert store.due_keys(0.3, 9) == []
            assert len(store.due_keys(0.1 + 0.2, 9)) == 3
        assert target.dump() == dump


def test_a_loaded_store_continues_from_the_state_of_the_dumped_one(places: Places) -> None:
    """It continues counters, limits of label values, sources, the order of tasks, and the quarantine."""
    source, target = places
    with closing(source.open()) as store:
        fill(store)
    target.load(source.dump())
    with closing(target.open()) as store:
        before = label_sets(store)["4", "push.example.com"]
        assert before.values["tasks_exited_total _other"] == 12

        def work(transaction: Transaction) -> tuple[list[str], bool]:
            put(task("new"), task("elsewhere", host="new.example.com"))(transaction)
            count(5)(transaction)
            transaction.increments.record(
                [("tasks_exited_total", "-1", 1)], ("4", "push.example.com"), "t", 9.0
            )
            transaction.increments.record(
                [("tasks_exited_total", "-999", 1)], ("4", "push.example.com"), "t", 9.0
            )
            transaction.quarantine(QuarantineEntry("json", bytes(range(256)) * 9, "::2", 8.0))
            tasks_with_sources = [
                each.task_id for each in transaction.tasks_with_sources(4, "00ff00ff00ff00ff")
            ]
            return sorted(tasks_with_sources), transaction.delete_body(
                store.bodies(limit=1, reason="schema")[0].digest
            )

        assert store.transact(work)[0] == (["failed", "ä\t\x7f☃"], True)
        now = label_sets(store)["4", "push.example.com"]
        grown = {key: n - before.values.get(key, 0) for key, n in now.values.items()}
        assert {key: n for key, n in grown.items() if n} == {
            "tasks_started_total": 5,
            "tasks_exited_total -1": 1,
            "tasks_exited_total _other": 1,
        }
        (stored,) = store.bodies(limit=10)
        assert (stored.count, stored.first, stored.last, stored.source) == (4, 1 / 3, 8.0, "::2")
    with closing(target.open(max_quarantined_bytes=3000)) as store:
        store.transact(
            lambda transaction: transaction.quarantine(QuarantineEntry("json", b"y" * 1000, "::1", 9.0))
        )
        assert [stored.body for stored in store.bodies(limit=10)] == [b"y" * 1000]
    tasks = [line.record.task_id for line in target.lines() if isinstance(line, TaskLine)]
    assert tasks[:3] == ["t0", "t1", "t2"]
    assert tasks[-2:] == ["new", "elsewhere"]


def test_many_pages_are_loaded(places: Places) -> None:
    """No task, body or label set at the edge of a page is lost."""
    source, target = places

    def work(transaction: Transaction) -> None:
        put(*(task(f"t{n}", host=f"{n % 150}.example.com") for n in range(MANY)))(transaction)
        for number in range(150):
            transaction.quarantine(QuarantineEntry("json", b"%d" % number, "::1", 9.0))

    with closing(source.open()) as store:
        store.transact(work)
    dump, end = dumped(source.lines())
    assert str(end) == f"{MANY} tasks, 150 label sets, 150 bodies in the quarantine"
    target.load(dump)
    assert target.dump() == dump


def test_memory_does_not_grow_with_the_records(places: Places) -> None:
    """Memory for a store on a server grows only with the keys of its tasks: 150 bytes each."""
    source, target = places
    with closing(source.open()) as store:
        store.transact(put(*(task(f"t{n}", message="x" * 200) for n in range(MANY * 2))))
    size = len(source.dump())
    tracemalloc.start()
    try:
        target.load_lines(source.lines())
        assert tracemalloc.get_traced_memory()[1] < size / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("places", KINDS_OF_PLACES[:2], indirect=True)
def test_a_store_with_high_task_numbers_keeps_the_order_of_its_tasks(places: Places) -> None:
    """A file gives a task a new id with every change; such ids are too large for a server."""
    source, target = places
    with closing(source.open()) as store:
        store.transact(put(task("old", host="b"), task("other", host="a")))
    with closing(sqlite3.connect(source.url.path)) as connection, connection:
        connection.execute("UPDATE sqlite_sequence SET seq = ?", (1 << 33,))
    with closing(source.open()) as store:
        store.transact(put(task("new", host="b"), task("newest", host="a")))
        before = shown(store)
    target.load(source.dump())
    with closing(target.open()) as store:
        assert shown(store) == before
        store.transact(put(task("next", host="a")))
        listed = store.list_tasks(state=ACTIVE, after=0, limit=9)
    assert max(number for number, _ in listed) % (1 << 32) == 5


def test_a_store_without_tasks_is_dumped_and_loaded(places: Places) -> None:
    """A store without any task can be dumped and loaded."""
    source, target = places
    source.open().close()
    target.load(source.dump())
    assert target.dump() == source.dump()


def test_an_existing_store_is_not_changed_without_replace(places: Places) -> None:
    """Without --replace an existing store is refused; with it, a store that is in use is refused."""
    source, target = places
    with closing(source.open()) as store:
        store.transact(count(3))
    dump = source.dump()
    with closing(target.open()) as store:
        store.transact(count(1))
        before = store.snapshot(9)
        with pytest.raises(StoreError, match="already exists; give another "):
            target.load(dump)
        with pytest.raises(StoreError, match=r"is in use; stop every process that uses it, .*then try again"):
            target.load(dump, replace=True)
        assert store.snapshot(9) == before


def test_a_store_that_is_not_in_use_is_replaced(places: Places) -> None:
    """Nothing of the old store is left. A shared store without a write for 90 s is not in use."""
    source, target = places
    source.open().close()
    with closing(target.open()) as store:
        fill(store)
    if not target.url.is_embedded:
        with valkey.Valkey(port=target.url.port, db=target.url.database, decode_responses=True) as client:
            for name, text in client.hgetall("css-relay:{0}:done").items():
                number, micros = text.split()
                client.hset("css-relay:{0}:done", name, f"{number} {int(micros) - 91_000_000}")
    target.load(source.dump(), replace=True)
    assert target.dump() == source.dump()
    if not target.url.is_embedded:
        assert len(_keys(target.url.port, target.url.database)) == 3


def test_labels_must_be_those_of_the_store(places: Places) -> None:
    """A dump with other labels cannot be loaded, and a missing store cannot be dumped."""
    source, target = places
    with pytest.raises(StoreError, match="there is no store"):
        source.dump()
    source.open().close()
    with pytest.raises(
        StoreError, match=r"x.dump has other labels; run `load` with --metrics.labels=appid,to_host$"
    ):
        target.load(source.dump(), labels=("appid",))
    assert target.is_free()


def interrupted() -> None:
    """Interrupt the load, as Ctrl-C does."""
    raise KeyboardInterrupt


def test_a_load_that_fails_leaves_nothing(places: Places) -> None:
    """Nothing is left if the dump is incomplete, damaged, has a task twice, or the load is interrupted."""
    source, target = places
    with closing(source.open()) as store:
        fill(store)
    dump = source.dump()
    lines = dump.splitlines(keepends=True)
    for number in range(len(lines)):
        with pytest.raises(StoreError, match=f"x.dump is incomplete, it ends after line {number};"):
            target.load(b"".join(lines[:number]))
        assert target.is_free()
    with pytest.raises(StoreError, match=f"x.dump, line {len(lines)}: damaged, or not a dump"):
        target.load(dump.replace(b"zuviel", b"zuwenig"))
    with pytest.raises(KeyboardInterrupt):
        target.load(dump, before_last_line=interrupted)
    given = list(source.lines())
    twice = next(line for line in given if isinstance(line, TaskLine))
    with pytest.raises(StoreError, match=r"UNIQUE constraint failed: tasks.key|lost records during the load"):
        target.load_lines(iter([*given, twice]))
    assert target.is_free()
    target.load(dump)
    assert target.dump() == dump


def test_a_store_that_an_earlier_version_moved_is_not_served(places: Places) -> None:
    """The error names the new place. If there is no store in it, the old store can be dumped and loaded."""
    source, target = places
    with closing(source.open()) as store:
        fill(store)
    mark = f"handing 0123 {target}"
    if source.url.is_embedded:
        with closing(sqlite3.connect(source.url.path)) as connection, connection:
            connection.execute("INSERT INTO meta VALUES ('moved', ?)", (mark,))
    else:
        with valkey.Valkey(port=source.url.port) as client:
            client.hset("css-relay:{0}:meta", "moved", mark)
    for attach_only in (False, True):
        with pytest.raises(
            StoreError, match=f"was moved to {target}, .* set --store.url={target}. If there is no store"
        ):
            source.open(attach_only=attach_only)
    target.load(source.dump())
    target.open().close()
