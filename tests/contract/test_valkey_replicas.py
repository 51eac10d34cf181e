"""`?wait-replicas=`: what is answered is on a replica, and an abrupt failover loses none of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import StoreError, StoreUnavailable
from exporter.store.valkey import client as clients
from exporter.store.valkey import store as module
from exporter.store.valkey.client import META
from exporter.store.valkey.link import Script
from exporter.store.valkey.store import ValkeyStore
from tests.contract.test_store import count, ledgers
from tests.contract.test_valkey import opened, started
from tests.support import until
from tests.valkeys import Pair, ValkeyServer, knows_replica, node, replicate, running_cluster

WAITING = "?wait-replicas=1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sooner."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.6)
    monkeypatch.setattr(clients, "REPLICAS_SECONDS", 0.2)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A primary and its replica."""
    with Pair(tmp_path) as pair:
        yield pair


@pytest.fixture
def store(pair: Pair) -> Iterator[ValkeyStore]:
    """A store on them that waits for the replica, with one commit."""
    store = opened(pair.url + WAITING)
    store.transact(count())
    yield store
    store.close()


def on_server(server: ValkeyServer) -> int:
    """Return what a server itself holds of what was counted."""
    with server.client() as client, client.pipeline(transaction=False) as row:
        row.execute_command("READONLY")  # a replica of a cluster would name its primary
        row.hgetall(META.replace("meta", "ledger:1"))
        found = row.execute(raise_on_error=False)[1]
    return sum(int(number) for key, number in found.items() if "tasks_started" in key)


def refused(store: ValkeyStore) -> None:
    """A commit is not answered 200, since no replica has it."""
    with pytest.raises(StoreUnavailable, match=r"0 of 1 replicas have it.*wait-replicas"):
        store.transact(count())


def test_what_is_answered_is_on_the_replica(pair: Pair, store: ValkeyStore) -> None:
    """At once, without a look at how far it is."""
    for number in range(2, 30):
        store.transact(count())
        assert on_server(pair.replica) == number


def test_an_abrupt_failover_loses_nothing_that_was_answered(pair: Pair, store: ValkeyStore) -> None:
    """What was not is no loss that is told; the old primary becomes the replica, and all goes on."""
    store.transact(count())
    pair.detach()
    refused(store)
    assert (on_server(pair.primary), on_server(pair.replica)) == (3, 2)
    pair.fail_over()
    refused(store)
    pair.follow()
    assert started(store) == 3
    store.transact(count())
    assert (started(store), on_server(pair.replica)) == (4, 4)


def test_without_waiting_a_failover_that_loses_answers_is_told(pair: Pair) -> None:
    """Nobody writes on top of it: a restart begins a new generation."""
    store = opened(pair.url)
    store.transact(count())
    until(pair.is_in_step, "the replica has all")
    pair.detach()
    store.transact(count())
    pair.fail_over()
    for _ in range(2):
        with pytest.raises(
            StoreUnavailable, match="older than it was: commits that were answered 200 are lost"
        ):
            store.transact(count())
    assert started(opened(pair.url)) == 0


def test_a_lost_answer_does_not_pass_for_a_replica(pair: Pair, store: ValkeyStore) -> None:
    """The commit is known when it is tried again, on a connection that has written nothing of it."""
    pair.detach()
    pair.wire.sign, pair.wire.to_lose = Script("commit").digest.encode(), 1
    refused(store)
    assert pair.wire.to_lose == 0
    assert on_server(pair.primary) == 2
    pair.follow()
    pair.wire.to_lose = 1
    store.transact(count())
    assert started(store) == on_server(pair.replica) == 3


def test_what_was_shown_without_a_replica_and_then_lost_is_told(pair: Pair, store: ValkeyStore) -> None:
    """Counters are shown while the replica is away; lower ones would be taken for a reset."""
    pair.detach()
    refused(store)
    assert started(store) == 2
    pair.fail_over()
    with pytest.raises(StoreUnavailable, match="older than it was"):
        store.snapshot(1)


def test_a_store_opens_and_is_ready_only_with_its_replicas(pair: Pair, store: ValkeyStore) -> None:
    """What it would begin with may be lost else; a command beside it does not ask for them."""
    pair.detach()
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
        store.probe()
    with pytest.raises(StoreError, match="0 of 1 replicas"):
        opened(pair.url + WAITING)
    guest = opened(pair.url + WAITING, as_guest=True)
    guest.transact(count())
    guest.close()
    pair.follow()
    store.probe()
    assert started(store) == 2


def test_a_server_that_takes_no_writes_without_replicas_counts_nothing(tmp_path: Path) -> None:
    """`min-replicas-to-write`: nothing is left on the primary alone, and counters are still shown."""
    with Pair(tmp_path, "--min-replicas-to-write", "1", "--min-replicas-max-lag", "1") as pair:
        store = opened(pair.url + WAITING)
        store.transact(count())
        pair.detach()
        with pytest.raises(StoreUnavailable, match=r"NOREPLICAS.*min-replicas-to-write"):
            store.transact(count())
        assert on_server(pair.primary) == started(store) == 1
        store.close()


def test_label_sets_of_a_refused_commit_are_found_again(pair: Pair, store: ValkeyStore) -> None:
    """They are numbered on the primary, and may be gone after a failover."""
    pair.detach()
    with pytest.raises(StoreUnavailable):
        store.transact(count(host="a"))
    pair.fail_over()
    pair.follow()
    for host in ("b", "a"):
        store.transact(count(host=host))
    hosts = {labels[1]: sum(ledger.values.values()) for labels, ledger in ledgers(store).items()}
    assert hosts == {"push.example.com": 1, "a": 1, "b": 1}


def test_a_user_that_may_not_wait_is_told(tmp_path: Path) -> None:
    """With what to give it."""
    with ValkeyServer(tmp_path) as server, server.client() as client:
        rights = ("~css-relay:*", "+@read", "+@write", "+@scripting", "+@connection", "+time")
        client.execute_command("ACL", "SETUSER", "relay", "on", ">word", *rights, "-wait")
        with pytest.raises(StoreError, match=r"permissions.*\+wait"):
            opened(f"valkey://relay:word@127.0.0.1:{server.port}/0{WAITING}")


def test_in_a_cluster_the_server_that_has_the_store_waits(tmp_path: Path) -> None:
    """It is found again when its replica has taken over; and answers 200 when it has a replica once more."""
    with running_cluster(tmp_path) as cluster, node(tmp_path / "replica") as replica:
        with cluster[0].client() as client:
            slot = client.execute_command("CLUSTER KEYSLOT", META)
            ranges = client.execute_command("CLUSTER SLOTS")
        port = next(found[2][1] for found in ranges if found[0] <= slot <= found[1])
        owner = next(server for server in cluster if server.port == port)
        replicate(replica, owner)
        until(lambda: all(knows_replica(server) for server in cluster), "all know the replica")
        store = opened(f"valkey-cluster://127.0.0.1:{cluster[0].port}{WAITING}")
        for number in range(1, 9):
            store.transact(count())
            assert on_server(replica) == number
        owner.kill()
        until(lambda: "0 of 1 replicas" in told(store), "the replica has taken over, and has none of its own")
        owner.start()
        until(lambda: told(store) == "", "it is answered again")
        answered = sum(told(store) == "" for _ in range(5))
        assert answered == 5
        assert 8 + 1 + answered <= on_server(owner) == started(store)
        store.close()


def told(store: ValkeyStore) -> str:
    """Try a commit; return what stood in its way."""
    try:
        store.transact(count())
    except StoreUnavailable as exc:
        return str(exc)
    return ""
