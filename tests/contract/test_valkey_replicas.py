"""`?wait-replicas=`: what is answered is on a replica, and an abrupt failover loses none of it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import StoreError, StoreUnavailable
from exporter.store.valkey.client import META
from exporter.store.valkey.script_runner import Script
from exporter.store.valkey.store import ValkeyStore
from tests.clusters import holder, running_cluster
from tests.contract.conftest import OpenAt, impatient
from tests.contract.test_store import count, label_sets
from tests.contract.test_valkey import started
from tests.support import until
from tests.valkeys import Pair, ValkeyServer, has_replica

WAITING = "?wait-replicas=1"

pytestmark = pytest.mark.servers


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A primary and its replica."""
    with Pair(tmp_path) as pair:
        yield pair


@pytest.fixture
def store(pair: Pair, opened: OpenAt) -> ValkeyStore:
    """A store on them that waits for the replica, with one commit."""
    store = opened(pair.url + WAITING)
    store.transact(count())
    return store


def on_server(server: ValkeyServer) -> int:
    """Return what a server itself holds of what was counted."""
    with server.client() as client, client.pipeline(transaction=False) as row:
        row.execute_command("READONLY")  # a replica of a cluster would name its primary
        row.hgetall(META.replace("meta", "ledger:1"))
        found = row.execute(raise_on_error=False)[1]
    return sum(int(number) for key, number in found.items() if "tasks_started" in key)


def refused(store: ValkeyStore, host: str = "push.example.com") -> None:
    """A commit is not answered 200, since no replica has it."""
    with (
        impatient(),
        pytest.raises(StoreUnavailable, match=r"0 of 1 server replicas confirmed.*wait-replicas"),
    ):
        store.transact(count(host=host))


def test_what_is_answered_is_on_the_replica(pair: Pair, store: ValkeyStore) -> None:
    """A commit that is answered is on the replica already."""
    for number in range(2, 12):
        store.transact(count())
        assert on_server(pair.replica) == number


def test_an_abrupt_failover_loses_nothing_that_was_answered(pair: Pair, store: ValkeyStore) -> None:
    """An abrupt failover loses only what was not answered, and the old primary becomes the replica."""
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


def test_without_waiting_a_failover_that_loses_answers_is_told(pair: Pair, opened: OpenAt) -> None:
    """Without ?wait-replicas= a failover that loses commits is reported; after a restart counters are 0."""
    store = opened(pair.url)
    store.transact(count())
    until(pair.is_in_step, "the replica has all")
    pair.detach()
    store.transact(count())
    pair.fail_over()
    for _ in range(2):
        with pytest.raises(
            StoreUnavailable, match="has lost commits: callbacks that were answered 200 are lost"
        ):
            store.transact(count())
    assert started(opened(pair.url)) == 0


def test_a_lost_answer_does_not_pass_for_a_replica(pair: Pair, store: ValkeyStore) -> None:
    """A commit tried again after a lost answer waits for a replica, on a connection that wrote nothing."""
    pair.replica.send(signal.SIGSTOP)
    pair.wire.sign, pair.wire.to_lose = Script("commit").digest.encode(), 1
    refused(store)
    assert pair.wire.to_lose == 0
    assert on_server(pair.primary) == 2
    pair.replica.send(signal.SIGCONT)
    until(pair.is_in_step, "the replica has all")
    pair.wire.to_lose = 1
    store.transact(count())
    assert started(store) == on_server(pair.replica) == 3


def test_what_was_shown_without_a_replica_and_then_lost_is_told(pair: Pair, store: ValkeyStore) -> None:
    """A loss of counters that were shown is reported: lower ones would look like a reset."""
    pair.detach()
    refused(store)
    with impatient():
        assert started(store) == 2
        pair.fail_over()
        with pytest.raises(StoreUnavailable, match="has lost commits"):
            store.snapshot(1)


def test_a_store_opens_and_is_ready_only_with_its_replicas(
    pair: Pair, store: ValkeyStore, opened: OpenAt
) -> None:
    """A store opens and is ready only with its replicas; a command beside it does not ask for them."""
    pair.detach()
    with impatient():
        with pytest.raises(StoreUnavailable, match="0 of 1 server replicas"):
            store.probe()
        with pytest.raises(StoreError, match="0 of 1 server replicas"):
            opened(pair.url + WAITING)
    opened(pair.url + WAITING, attach_only=True).transact(count())
    pair.follow()
    store.probe()
    assert started(store) == 2


def test_a_server_that_takes_no_writes_without_replicas_counts_nothing(
    tmp_path: Path, opened: OpenAt
) -> None:
    """With `min-replicas-to-write` nothing is left on the primary alone, and counters are still shown."""
    with Pair(tmp_path, "--min-replicas-to-write", "1", "--min-replicas-max-lag", "600") as pair:
        store = opened(pair.url + WAITING)
        store.transact(count())
        pair.detach()
        with pair.primary.client() as client:
            until(lambda: client.info("replication")["connected_slaves"] == 0, "the primary knows")
        with impatient():
            with pytest.raises(StoreUnavailable, match=r"NOREPLICAS.*min-replicas-to-write"):
                store.transact(count())
            assert on_server(pair.primary) == started(store) == 1


def test_label_sets_of_a_refused_commit_are_found_again(pair: Pair, store: ValkeyStore) -> None:
    """Label sets of a refused commit, numbered on a primary that is gone, get numbers of their own again."""
    pair.detach()
    refused(store, host="a")
    pair.fail_over()
    pair.follow()
    for host in ("b", "a"):
        store.transact(count(host=host))
    hosts = {labels[1]: sum(label_set.values.values()) for labels, label_set in label_sets(store).items()}
    assert hosts == {"push.example.com": 1, "a": 1, "b": 1}


def test_a_user_that_may_not_wait_is_told(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """A user without the right to WAIT is refused, with the right to give it."""
    with empty_server.client() as client:
        rights = ("~css-relay:*", "+@read", "+@write", "+@scripting", "+@connection", "+time")
        client.execute_command("ACL", "SETUSER", "relay", "on", ">word", *rights, "-wait")
        try:
            with pytest.raises(StoreError, match=r"permissions.*\+wait"):
                opened(f"valkey://relay:word@127.0.0.1:{empty_server.port}/0{WAITING}")
        finally:
            client.execute_command("ACL", "DELUSER", "relay")


def test_in_a_cluster_the_server_that_has_the_store_waits(tmp_path: Path, opened: OpenAt) -> None:
    """In a cluster the replica of the store's server is waited for, and found when it has taken over."""
    with running_cluster(tmp_path, replicas=1) as servers:
        owner, replica = holder(servers), servers[-1]
        others = [server for server in servers if server not in (owner, replica)]
        store = opened(f"valkey-cluster://127.0.0.1:{others[0].port}{WAITING}")
        for number in range(1, 9):
            store.transact(count())
            assert on_server(replica) == number
        owner.kill()
        with replica.client() as client:
            client.execute_command("CLUSTER FAILOVER", "TAKEOVER")
        with impatient():
            until(
                lambda: "0 of 1 server replicas" in told(store), "it is found, and has no replica of its own"
            )
        owner.start()
        until(lambda: has_replica(replica), "the old primary is its replica")
        before = started(store)
        for number in range(1, 6):
            store.transact(count())
            assert on_server(owner) == started(store) == before + number
        assert before >= 8 + 1


def told(store: ValkeyStore) -> str:
    """Try a commit; return its error."""
    try:
        store.transact(count())
    except StoreUnavailable as exc:
        return str(exc)
    return ""
