"""`dump` and `load` with replicas that serve the store, servers that fail, and files that are not a store."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import valkey

from exporter.errors import StoreError, StoreUnavailable
from exporter.store.dump import Line
from exporter.store.sqlite.backup import back_up, restore
from exporter.store.transaction import Transaction
from exporter.store.valkey.client import META
from exporter.store.valkey.script_runner import Script
from tests.contract.conftest import without_retries
from tests.contract.test_dump import Place, dumped, fill
from tests.contract.test_store import count, put, task
from tests.takeover import KEPT, InFile
from tests.valkeys import ValkeyServer, Wire


def filled(url: str) -> Place:
    """Return a place with a store in it."""
    place = Place(url)
    with closing(place.open()) as store:
        fill(store)
    return place


@pytest.fixture
def served(empty_server: ValkeyServer) -> Place:
    """A store on a server."""
    return filled(f"valkey://127.0.0.1:{empty_server.port}/0")


@pytest.fixture
def other(served: Place) -> Place:
    """Another database of that server."""
    return Place(f"valkey://127.0.0.1:{served.url.port}/1")


@pytest.fixture
def client(other: Place) -> Iterator["valkey.Valkey"]:
    """A client of that database."""
    with valkey.Valkey(port=other.url.port, db=1, decode_responses=True) as client:
        yield client


@pytest.fixture
def file(tmp_path: Path) -> Place:
    """A store in a file."""
    return filled(f"sqlite:{tmp_path}/relay.db")


def _after(lines: Iterator[Line], number: int, call: Callable[[], object]) -> Iterator[Line]:
    """Yield lines; call `call` after `number` of them."""
    for at, line in enumerate(lines):
        if at == number:
            call()
        yield line


@pytest.mark.servers
@pytest.mark.parametrize("number", range(1, 16))
@pytest.mark.parametrize(
    "work",
    [count(1), put(task("late", host="new.example.com")), lambda transaction: transaction.delete("4/t0")],
    ids=["count", "put", "forget"],
)
def test_a_store_that_is_written_to_during_a_dump_is_not_dumped(
    served: Place, work: Callable[[Transaction], object], number: int
) -> None:
    """A dump has the state of one moment. If the store changes during the dump, the dump fails."""
    with closing(served.open()) as store:
        lines = _after(served.lines(), number, lambda: store.transact(work))
        with pytest.raises(
            StoreError, match="is damaged, or was written to during the dump; stop its exporters"
        ):
            dumped(lines)
    served.dump()


@pytest.mark.servers
def test_a_process_that_starts_during_a_load_does_not_open_the_store(served: Place, other: Place) -> None:
    """A process that opens the store during a load fails with an error that says why."""

    def check() -> None:
        for attach_only in (False, True):
            with pytest.raises(
                StoreError, match=r"is being loaded; wait .* or run it again if it was interrupted"
            ):
                other.open(attach_only=attach_only)
        with pytest.raises(StoreError, match="is being loaded"):
            other.dump()

    other.load(served.dump(), before_last_line=check)
    other.open().close()


@pytest.mark.servers
@pytest.mark.parametrize("number", [1, 5, 16])
def test_a_load_after_a_killed_load_succeeds(
    served: Place, other: Place, client: "valkey.Valkey", number: int
) -> None:
    """Nothing of the killed load is left. It was a load of another store, killed after some lines."""
    killed = Place(f"valkey://127.0.0.1:{served.url.port}/2")
    with closing(killed.open()) as store:
        store.transact(put(*(task(f"k{n}", host=f"{n}.example.com") for n in range(15))))
    kept: dict[str, bytes] = {}

    def save() -> None:
        kept.update({key: client.dump(key) for key in client.scan_iter()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.store.valkey.dump.LINES_AT_ONCE", 1)
        other.load_lines(_after(killed.lines(), number, save))
    client.flushdb()
    for key, value in kept.items():
        client.restore(key, 0, value)
    with pytest.raises(StoreError, match="is being loaded"):
        other.open()
    other.load(served.dump())
    assert other.dump() == served.dump()
    assert len([key for key in client.scan_iter() if ":ledger:" in key]) == 4


@pytest.mark.servers
def test_the_first_of_two_concurrent_loads_fails(served: Place, other: Place) -> None:
    """The store is that of the second load, and complete."""
    dump = served.dump()
    new = Place(f"valkey://127.0.0.1:{served.url.port}/2")
    new.open().close()
    with pytest.raises(StoreError, match="another process created or loaded a store there meanwhile"):
        other.load(dump, before_last_line=lambda: other.load(new.dump()))
    assert other.dump() == new.dump()


@pytest.mark.servers
def test_a_store_created_during_a_load_is_not_replaced(
    served: Place, other: Place, client: "valkey.Valkey"
) -> None:
    """--replace does not replace a store that was created after the check."""

    def late() -> Iterator[Line]:
        client.hset(META, "id", "x")
        yield from served.lines()

    with pytest.raises(StoreError, match="another process created or loaded a store there meanwhile"):
        other.load_lines(late(), replace=True)
    assert client.keys() == [META]


@pytest.mark.servers
def test_replicas_of_a_replaced_store_write_nothing(
    served: Place, other: Place, client: "valkey.Valkey"
) -> None:
    """Replicas of the old store answer 503, during the load and after it."""
    with closing(other.open()) as one, closing(other.open()) as two:
        one.transact(count(1))
        client.delete("css-relay:{0}:done")

        def check() -> None:
            with pytest.raises(
                StoreUnavailable, match=r"has lost all its data|was replaced by another store"
            ):
                one.transact(count(1))

        other.load(served.dump(), replace=True, before_last_line=check)
        with pytest.raises(StoreUnavailable, match="was replaced by another store"):
            two.transact(count(1))
    assert other.dump() == served.dump()


@pytest.mark.servers
def test_a_loaded_task_that_another_replica_deletes_stays_deleted(served: Place, other: Place) -> None:
    """A loaded task has a version, so a transaction detects that it was deleted."""
    other.load(served.dump())
    seen: list[bool] = []
    with closing(other.open()) as one, closing(other.open()) as two:

        def work(transaction: Transaction) -> None:
            seen.append(transaction.task("4/t0") is not None)
            if seen == [True]:
                two.transact(lambda transaction: transaction.delete("4/t0"))
            if seen[-1]:
                put(task("t0"))(transaction)

        one.transact(work)
        assert seen == [True, False]
        assert two.find_task("4/t0") is None


#: Bytes that identify a request: of the first script, of one that writes, and of the last one.
REQUESTS = {
    "begins": Script("begin_load", guarded=False).digest.encode(),
    "writes": Script("load", guarded=False).digest.encode(),
    "ends": b"HDEL",
}


@pytest.mark.servers
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_of_a_load_whose_answer_is_lost_is_repeated(served: Place, request_: str) -> None:
    """The request is sent again, and a script that runs twice has the same result."""
    dump = served.dump()
    Place(f"valkey://127.0.0.1:{served.url.port}/3").load(dump)  # the server knows the scripts
    with Wire(served.url.port) as wire:
        there = Place(f"valkey://127.0.0.1:{wire.port}/2")
        wire.sign, wire.to_lose = REQUESTS[request_], 1
        there.load(dump)
        assert wire.to_lose == 0
        assert there.dump() == dump


@pytest.mark.servers
def test_a_load_whose_last_answer_is_lost_leaves_a_complete_store(served: Place, other: Place) -> None:
    """The load fails, but the store is complete: it can be served, or replaced."""
    dump = served.dump()
    other.load(dump)
    with Wire(served.url.port) as wire:
        there = Place(f"valkey://127.0.0.1:{wire.port}/2")
        wire.sign, wire.to_lose = b"HDEL", 1000
        with without_retries(), pytest.raises(StoreUnavailable):
            there.load(dump)
        wire.to_lose = 0
        assert there.dump() == dump
        there.load(dump, replace=True)


@pytest.mark.servers
def test_a_failed_load_leaves_nothing_on_a_full_server(served: Place, tmp_path: Path) -> None:
    """A load into a server without memory leaves nothing. If the server dies, the error says so."""
    dump = served.dump()
    with ValkeyServer(tmp_path, "--maxmemory", "1mb") as server:
        with pytest.raises(StoreError, match="memory is full"):
            Place(server.url).load(dump)
        with server.client() as full:
            assert full.keys() == []
        with without_retries(), pytest.raises(StoreError, match="no server is there"):
            Place(server.url).load(dump, before_last_line=server.kill)


@pytest.mark.servers
def test_a_store_replaced_by_a_failed_load_is_not_started_anew(served: Place, other: Place) -> None:
    """An exporter does not start; the error says to load again. New counters at 0 would hide the loss."""
    other.load(served.dump())

    def fail() -> None:
        raise StoreError("the dump cannot be read")

    with pytest.raises(StoreError, match="the dump cannot be read"):
        other.load(served.dump(), replace=True, before_last_line=fail)
    with pytest.raises(StoreError, match=r"is being loaded; .* or run it again if it was interrupted"):
        other.open()
    other.load(served.dump())
    assert other.dump() == served.dump()


@pytest.mark.servers
def test_records_that_a_server_loses_during_a_load_are_detected(
    served: Place, other: Place, client: "valkey.Valkey"
) -> None:
    """The load fails, for example if a server with full memory evicts keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.store.valkey.dump.LINES_AT_ONCE", 1)
        with pytest.raises(StoreError, match="the server lost records during the load"):
            other.load(served.dump(), before_last_line=lambda: client.delete("css-relay:{0}:tasks"))
    assert client.keys() == []


@pytest.mark.servers
def test_the_documented_rights_are_enough_for_dump_and_load(
    served: Place, other: Place, client: "valkey.Valkey"
) -> None:
    """An exporter's user has these rights."""
    rights = ["+@read", "+@write", "+@scripting", "+@connection", "+time", "~css-relay:*"]
    client.execute_command("ACL SETUSER", "operator", "on", ">word", *rights)
    try:
        mine, there = (Place(str(place).replace("127", "operator:word@127")) for place in (served, other))
        there.load(mine.dump())
    finally:
        client.execute_command("ACL DELUSER", "operator")
    assert other.dump() == served.dump()


@pytest.mark.servers
def test_a_store_of_another_version_or_with_lost_commits_is_not_dumped(served: Place) -> None:
    """An exporter must reset its counters first; the error says so."""
    with valkey.Valkey(port=served.url.port) as client:
        client.hset(META, "torn", 1)
        with pytest.raises(StoreError, match="has lost commits; start an exporter on it first"):
            served.dump()
        client.hdel(META, "torn")
        client.hset(META, "version", "2")
        with pytest.raises(StoreError, match="has version 2 and 1 partitions"):
            served.dump()


def _version(place: Place) -> None:
    with closing(sqlite3.connect(place.url.path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _cut(place: Place) -> None:
    path = Path(place.url.path)
    path.write_bytes(path.read_bytes()[:20_000])


def _overwrite(place: Place) -> None:
    Path(place.url.path).write_bytes(b"nonsense" * 999)


def _garble(place: Place) -> None:
    with closing(sqlite3.connect(place.url.path)) as connection, connection:
        connection.execute("UPDATE tasks SET record = '[4]'")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (_version, "has version 99"),
        (_cut, "malformed"),
        (_overwrite, "not a database"),
        (_garble, "is damaged"),
    ],
)
def test_a_file_that_is_not_a_valid_store_is_not_dumped(
    file: Place, damage: Callable[[Place], None], line: str
) -> None:
    """The file is not changed."""
    damage(file)
    before = Path(file.url.path).read_bytes()
    with pytest.raises(StoreError, match=line):
        file.dump()
    assert Path(file.url.path).read_bytes() == before


def test_a_file_in_use_is_not_dumped(file: Place) -> None:
    """No process can open a file during a dump either."""
    with closing(file.open()), pytest.raises(StoreError, match="is in use; stop every process"):
        file.dump()
    lines = file.lines()
    next(lines)
    with pytest.raises(StoreError, match="is being restored, dumped or loaded"):
        file.open()
    lines.close()
    file.open().close()


def test_a_backup_is_dumped_unchanged(file: Place, tmp_path: Path) -> None:
    """Nothing is written to it, also if an earlier version wrote it; no files are created beside it."""
    copy = Place(f"sqlite:{tmp_path}/copy.db")
    back_up(Path(file.url.path), Path(copy.url.path), replace=False)
    assert copy.dump() == file.dump()
    for kept in KEPT.iterdir():
        old = Place(f"sqlite:{tmp_path}/{kept.name}.db")
        InFile(Path(old.url.path)).load(kept)
        before = Path(old.url.path).read_bytes()
        new = Place(f"sqlite:{tmp_path}/{kept.name}-new.db")
        dump, end = dumped(old.lines())
        new.load(dump, labels=("appid", "to_host", "source_host"))
        assert end.tasks > 0
        assert new.dump() == dump
        assert Path(old.url.path).read_bytes() == before
        assert [file.name for file in tmp_path.glob(f"{kept.name}.db*")] == [f"{kept.name}.db"]


def test_a_restored_file_has_no_mark_of_a_move(file: Place, tmp_path: Path) -> None:
    """A backup of a moved store can be restored and served: it may be the last copy."""
    path = Path(file.url.path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO meta VALUES ('moved', 'moved 0123 valkey://nowhere:6379/0')")
    back_up(path, tmp_path / "copy.db", replace=False)
    restore(tmp_path / "copy.db", path, replace=True, now=2000.0)
    with closing(file.open()) as store:
        assert store.snapshot(1).created == 2000.0
