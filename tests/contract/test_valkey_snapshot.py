"""What the shared store tells a scrape to have changed: all of it, or it says that it can't tell."""

from collections.abc import Iterator

import pytest

from exporter.errors import StoreUnavailable
from exporter.store import Terms
from exporter.store.valkey.client import META
from exporter.store.valkey.store import ValkeyStore
from exporter.storeurl import parse_store
from tests.contract.test_snapshot import Reader
from tests.contract.test_store import count, put, task
from tests.valkeys import ValkeyServer

FORGOTTEN, DONE, TASKS = (META.replace("meta", name) for name in ("forgotten", "done", "tasks"))
MAX_FORGOTTEN = 10_000

pytestmark = pytest.mark.servers


@pytest.fixture
def store(empty_server: ValkeyServer) -> Iterator[ValkeyStore]:
    """A new store with some tasks in it."""
    store = ValkeyStore(parse_store(empty_server.url), Terms(), clock=lambda: 1000.0)
    store.transact(put(task("a"), task("b"), task("c", "E")))
    yield store
    store.close()


def sent(server: ValkeyServer) -> int:
    """Return how many bytes the server has sent."""
    with server.client() as client:
        return int(client.info("stats")["total_net_output_bytes"])


def test_the_server_sends_what_changed(empty_server: ValkeyServer, store: ValkeyStore) -> None:
    """The server sends little where little has changed, and next to nothing where nothing has."""
    tasks = [task(f"{number}", host=f"h{number % 100}") for number in range(3000)]
    store.transact(put(*tasks))
    reader = Reader(store, 9999)
    marks = [sent(empty_server)]
    for changed in (tasks, tasks[::30], []):
        store.transact(put(*changed))
        marks.append(sent(empty_server))
        reader.shown()
        marks.append(sent(empty_server))
    first, few, none = (marks[index] - marks[index - 1] for index in (2, 4, 6))
    assert first > 1_000_000
    assert few < first / 10
    assert none < first / 100


def test_who_writes_without_telling_is_noticed(empty_server: ValkeyServer, store: ValkeyStore) -> None:
    """While an older version writes beside this one, which tells no changes, everything is read."""
    reader = Reader(store, 9)
    reader.shown()
    with empty_server.client() as client:
        client.hset(TASKS, "4/a", client.hget(TASKS, "4/b"))
        client.hincrby(META, "commits", 1)
    assert reader.read().is_whole
    store.transact(put(task("b", "E")))
    assert reader.read().is_whole
    assert reader.shown() == reader.afresh()
    store.transact(put(task("b")))
    assert not reader.read().is_whole


def test_a_store_without_what_this_version_writes_is_read_whole(
    empty_server: ValkeyServer, store: ValkeyStore
) -> None:
    """A store of an older version is read whole until this version's first commit."""
    with empty_server.client() as client:
        client.delete(*(META.replace("meta", name) for name in ("changed", "forgotten", "posted")))
        client.hdel(META, "last", "floor")
    reader = Reader(store, 9)
    for _ in range(2):
        assert reader.read().is_whole
        assert reader.shown() == reader.afresh()
    store.transact(put(task("d")))
    assert reader.read().is_whole
    assert reader.shown() == reader.afresh()
    store.transact(count(host="new"))
    assert not reader.read().is_whole
    assert reader.shown() == reader.afresh()


def test_what_is_remembered_of_forgotten_tasks_is_bounded(
    empty_server: ValkeyServer, store: ValkeyStore
) -> None:
    """10,000 forgotten tasks are remembered; who is further behind reads all."""
    reader, behind = Reader(store, 9), Reader(store, 9)
    behind.shown()
    with empty_server.client() as client:
        commits = int(client.hget(META, "commits") or 0)
        client.zadd(FORGOTTEN, {f"{10**9 + number}": commits + 1 for number in range(MAX_FORGOTTEN)})
        store.transact(count())
        reader.shown()
        store.transact(lambda step: step.forget("4/a"))
        assert client.zcard(FORGOTTEN) == MAX_FORGOTTEN
    assert not reader.read().is_whole
    assert behind.read().is_whole
    assert reader.shown() == behind.shown() == reader.afresh()


def test_a_bookmark_of_what_the_store_has_lost_since_is_no_use(
    empty_server: ValkeyServer, store: ValkeyStore
) -> None:
    """A bookmark is void if the store came back older, though others made up for the commits."""
    other = ValkeyStore(parse_store(empty_server.url), Terms(), clock=lambda: 1000.0)
    reader = Reader(other, 9)
    reader.shown()
    with empty_server.client() as client:
        (name,) = client.hkeys(DONE)
        client.hset(DONE, name, "0 9999999999999999")
    other.transact(count())
    assert reader.read().is_whole
    other.close()


def test_a_bookmark_is_good_however_long_nobody_has_committed(
    empty_server: ValkeyServer, store: ValkeyStore
) -> None:
    """A bookmark holds however long nobody has committed, also when its author is not remembered."""
    reader = Reader(store, 9)
    reader.shown()
    with empty_server.client() as client:
        client.delete(DONE)
    assert not reader.read().is_whole


def test_what_was_shown_is_not_shown_when_the_store_is_another(
    empty_server: ValkeyServer, store: ValkeyStore
) -> None:
    """Nothing is shown from a store that is another than it was."""
    reader = Reader(store, 9)
    reader.shown()
    with empty_server.client() as client:
        client.hset(META, "id", "0" * 16)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="another one"):
            reader.read()
