"""What a move promises where replicas serve the store, its server fails, or a file is no store."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import valkey

from exporter.commands.move import arrival, departure
from exporter.errors import StoreError, StoreUnavailable
from exporter.store import Transaction
from exporter.store.copies import back_up, restore
from exporter.store.mark import LEAVING, Mark
from exporter.store.moving import Page, move, stay
from exporter.store.valkey.client import ARRIVING, META
from exporter.store.valkey.link import Script
from exporter.store.valkey.moving import UNTOUCHED_SECONDS
from tests.contract.conftest import impatient
from tests.contract.test_moving import Disturbed, Place, change, everything, fill, moved
from tests.contract.test_store import LABELS, count, ledgers, put, task
from tests.valkeys import ValkeyServer, Wire

pytestmark = pytest.mark.servers

TASKS = ARRIVING.replace("meta", "tasks")


@pytest.fixture
def served(empty_server: ValkeyServer) -> Place:
    """A store on a server."""
    place = Place(f"valkey://127.0.0.1:{empty_server.port}/0")
    with closing(place.open()) as store:
        fill(store)
    return place


@pytest.fixture
def file(tmp_path: Path) -> Place:
    """A place for a file."""
    return Place(f"sqlite:{tmp_path}/relay.db")


@pytest.fixture
def other(served: Place) -> Place:
    """Another database of that server."""
    return Place(f"valkey://127.0.0.1:{served.url.port}/1")


@pytest.fixture
def client(other: Place) -> Iterator["valkey.Valkey"]:
    """A client of that database."""
    with valkey.Valkey(port=other.url.port, db=1, decode_responses=True) as client:
        yield client


def test_nothing_is_counted_from_the_first_mark_on(served: Place, file: Place) -> None:
    """By replicas that run: they answer 503 and say why, and go on if the move comes to nothing."""
    with closing(served.open()) as store:
        store.transact(count(1))

        def counts_nothing() -> None:
            for use in (lambda: store.transact(count(1)), lambda: store.snapshot(1), store.probe):
                with pytest.raises(StoreUnavailable, match=f"is being moved to {file}: wait until"):
                    use()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            moved(served, file, happens=counts_nothing)
        store.transact(count(1))
        before = ledgers(store)
        moved(served, file)
        with pytest.raises(StoreUnavailable, match=f"was moved to {file}: give --store.url={file}$"):
            store.transact(count(1))
    with closing(file.open()) as store:
        assert ledgers(store) == before


def test_what_is_counted_up_to_the_first_mark_is_moved(served: Place, other: Place) -> None:
    """With the numbers that tasks were given until then."""
    with closing(served.open()) as store, closing(departure(served.url)) as leaves:
        late = Late(leaves, lambda: store.transact(put(task("late"))))
        with closing(arrival(other.url)) as arrives:
            move(late, arrives, labels=LABELS, replace=False)
    assert everything(other) == everything(served)
    with closing(other.open()) as store:
        assert store.find("4/late")
        store.transact(put(task("later")))
        numbers = [number for number, _ in store.listing(state=None, after=0, limit=100)]
        assert len(numbers) == len(set(numbers))


class Late(Disturbed):
    """A departure where something happens before it has a mark."""

    def change(self, before: Mark | None, after: Mark | None) -> None:
        """Let it happen first."""
        if before is None:
            self._happens()
        self._whole.change(before, after)

    def pages(self) -> Iterator[Page]:
        """Yield the pages."""
        return self._whole.pages()


def test_a_moved_task_that_another_replica_forgets_is_not_brought_back(served: Place, other: Place) -> None:
    """Its version tells it from one that is not there."""
    moved(served, other)
    seen: list[bool] = []
    with closing(other.open()) as one, closing(other.open()) as two:

        def work(step: Transaction) -> None:
            seen.append(step.task("4/t0") is not None)
            if seen == [True]:
                two.transact(lambda step: step.forget("4/t0"))
            if seen[-1]:
                put(task("t0"))(step)

        one.transact(work)
        assert seen == [True, False]
        assert two.find("4/t0") is None


def test_a_process_that_starts_at_the_target_meanwhile_finds_no_half_a_store(
    served: Place, other: Place, client: "valkey.Valkey"
) -> None:
    """It does not start. What is left of a move that was cut off goes away by itself."""

    def look() -> None:
        for as_guest in (False, True):
            with pytest.raises(StoreError, match=r"a store is being moved to .*: start again"):
                other.open(as_guest=as_guest)
        keys = client.keys()
        assert {key.startswith(ARRIVING[:-4]) for key in keys} == {True}
        assert all(0 < client.ttl(key) <= UNTOUCHED_SECONDS for key in keys)

    moved(served, other, happens=look, at_end=True)
    keys = client.keys()
    assert not any(":arriving:" in key for key in keys)
    assert {client.ttl(key) for key in keys} == {-1}
    other.open().close()


def test_what_is_lost_on_the_way_is_noticed(served: Place, other: Place, client: "valkey.Valkey") -> None:
    """The target is read back before the source is given up; nothing is left of it."""
    start = everything(served)

    def lose() -> None:
        client.hdel(TASKS, client.hkeys(TASKS)[0])
        client.hset(TASKS, "4/lost", "[4]")

    for happens in (lose, lambda: client.delete(*client.keys())):
        with pytest.raises(StoreError, match=r"does not give back what|taken over by another move"):
            moved(served, other, happens=happens, at_end=True)
        assert client.keys() == []
        assert everything(served) == start
        served.open().close()


def test_of_two_moves_at_once_the_first_comes_to_nothing(served: Place, other: Place, file: Place) -> None:
    """The store is at one place, whole."""
    start = everything(served)
    with pytest.raises(StoreError, match="by somebody else meanwhile"):
        moved(served, other, happens=lambda: moved(served, file))
    assert everything(file) == start
    with pytest.raises(StoreError, match=f"was moved to {file}"):
        served.open()
    with pytest.raises(StoreError, match="there is no store"):
        other.open(as_guest=True)


def test_a_store_that_stays_after_all_ends_the_move(served: Place, file: Place) -> None:
    """Though somebody gave it up who thought that it was cut off."""

    def give_up() -> None:
        with closing(departure(served.url)) as leaves:
            stay(leaves)
        with closing(served.open()) as store:
            store.transact(count(1))

    with pytest.raises(StoreError, match="by somebody else meanwhile"):
        moved(served, file, happens=give_up)
    served.open().close()
    with pytest.raises(StoreError, match="there is no store"):
        file.open(as_guest=True)


def test_a_store_that_has_come_into_being_meanwhile_is_not_replaced(
    served: Place, other: Place, client: "valkey.Valkey"
) -> None:
    """Not even with --replace: it is not the one that was to be given up."""
    with pytest.raises(StoreError, match="has come into being meanwhile"):
        moved(served, other, replace=True, happens=lambda: client.hset(META, "id", "x"), at_end=True)
    assert client.keys() == [META]
    served.open().close()


def test_a_store_that_nobody_writes_to_any_more_can_be_replaced(
    served: Place, other: Place, client: "valkey.Valkey"
) -> None:
    """Whoever serves it writes once a minute. Nothing of it is left."""
    with closing(other.open()) as store:
        fill(store)
    new = Place(f"valkey://127.0.0.1:{served.url.port}/2")
    new.open().close()
    with pytest.raises(StoreError, match="is in use"):
        moved(new, other, replace=True)
    done = META.replace("meta", "done")
    for name, text in client.hgetall(done).items():
        number, micros = text.split()
        client.hset(done, name, f"{number} {int(micros) - 91_000_000}")
    start = everything(new)
    moved(new, other, replace=True)
    assert everything(other) == start
    assert len(client.keys()) == 3


@pytest.mark.parametrize("script", ["arrive", "take", "publish", "mark"])
def test_answers_that_are_lost_change_nothing(served: Place, file: Place, script: str) -> None:
    """To the server and away from it: each script does no harm when it is run again."""
    start = everything(served)
    with Wire(served.url.port) as wire:
        wire.sign = Script(script, guarded=False).digest.encode()
        there = Place(f"valkey://127.0.0.1:{wire.port}/2")
        wire.to_lose = 3
        moved(served, there)
        assert everything(there) == start
        lost = wire.to_lose
        moved(there, file)
        assert everything(file) == start
        assert 0 in (lost, wire.to_lose)


def test_a_last_answer_that_never_comes_leaves_nobody_to_serve_the_old_store(served: Place) -> None:
    """The new one may be there: here it is, and the next move finds it."""
    start = everything(served)
    with Wire(served.url.port) as wire:
        wire.sign = Script("publish", guarded=False).digest.encode()
        there = Place(f"valkey://127.0.0.1:{wire.port}/2")
        wire.to_lose = 1000
        with impatient(), pytest.raises(StoreError, match="it may be done or not: run `move` again"):
            moved(served, there)
        with pytest.raises(StoreError, match="is being moved to"):
            served.open()
        wire.to_lose = 0
        assert moved(served, there) is None
        assert everything(there) == start
    with pytest.raises(StoreError, match="was moved to"):
        served.open()


def test_a_target_that_fails_leaves_the_store_where_it_is(served: Place, file: Place, tmp_path: Path) -> None:
    """With its own line; and so does one that is full."""
    start = everything(served)
    with ValkeyServer(tmp_path) as server:
        there = Place(server.url)
        with impatient(), pytest.raises(StoreError, match="the server is not there"):
            moved(served, there, happens=server.kill)
    assert everything(served) == start
    served.open().close()
    with ValkeyServer(tmp_path, "--maxmemory", "1mb") as server:
        with pytest.raises(StoreError, match="memory is full"):
            moved(served, Place(server.url))
        with server.client() as client:
            assert client.keys() == []
    served.open().close()


def test_the_user_of_an_exporter_may_move_its_store(
    served: Place, other: Place, client: "valkey.Valkey"
) -> None:
    """With no more rights than the documentation asks for."""
    rights = ["+@read", "+@write", "+@scripting", "+@connection", "+time", "~css-relay:*"]
    client.execute_command("ACL SETUSER", "mover", "on", ">word", *rights)
    there = Place(str(other).replace("127", "mover:word@127"))
    start = everything(served)
    try:
        moved(served, there)
        assert everything(there) == start
        moved(there, served, replace=True)
        assert everything(served) == start
    finally:
        client.execute_command("ACL DELUSER", "mover")


def _version(place: Place) -> None:
    with closing(sqlite3.connect(place.url.path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _cut(place: Place) -> None:
    path = Path(place.url.path)
    path.write_bytes(path.read_bytes()[:20_000])


def _overwrite(place: Place) -> None:
    Path(place.url.path).write_bytes(b"nonsense" * 999)


@pytest.mark.parametrize(
    ("harm", "line"),
    [(_version, "is of version 99"), (_cut, "malformed"), (_overwrite, "not a database")],
)
def test_a_file_that_is_no_store_of_this_program_is_not_moved(
    tmp_path: Path, served: Place, other: Place, harm: Callable[[Place], None], line: str
) -> None:
    """And gets no mark."""
    source = Place(f"sqlite:{tmp_path}/harmed.db")
    moved(served, source)
    harm(source)
    with pytest.raises(StoreError, match=line):
        moved(source, other)
    assert b"leaving" not in Path(source.url.path).read_bytes()


def test_a_file_in_use_is_not_moved(tmp_path: Path, served: Place, other: Place) -> None:
    """The lock says so, and nobody can open it while it is moved."""
    source = Place(f"sqlite:{tmp_path}/used.db")
    moved(served, source)
    with closing(source.open()), pytest.raises(StoreError, match="is in use: stop every process"):
        moved(source, other)

    def look() -> None:
        with pytest.raises(StoreError, match="is being restored or moved"):
            source.open()

    moved(source, other, happens=look)


def test_a_server_of_another_version_or_that_lost_something_is_not_moved(served: Place, file: Place) -> None:
    """It is for an exporter to begin its new generation."""
    with valkey.Valkey(port=served.url.port) as client:
        client.hset(META, "torn", 1)
        with pytest.raises(StoreError, match="is older than it was: start an exporter on it first"):
            moved(served, file)
        client.hdel(META, "torn")
        client.hset(META, "version", "2")
        with pytest.raises(StoreError, match="is of version 2 in 1 parts"):
            moved(served, file)


def test_a_file_that_is_restored_is_free_of_its_mark(tmp_path: Path, served: Place) -> None:
    """A restore is a store of its own: it is the way back when all else is lost."""
    source = Place(f"sqlite:{tmp_path}/used.db")
    moved(served, source)
    change(source, None, Mark(LEAVING, "0123", "valkey://nowhere:6379/0"))
    back_up(Path(source.url.path), tmp_path / "copy.db", replace=False)
    restore(tmp_path / "copy.db", Path(source.url.path), replace=True, now=2000.0)
    with closing(source.open()) as store:
        assert store.snapshot(1).created == 2000.0
