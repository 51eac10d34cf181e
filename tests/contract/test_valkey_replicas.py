"""`?wait-replicas=`: answered commits are on a replica, and an abrupt failover loses none of them."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.errors import StoreError, StoreUnavailable
from exporter.store.valkey.client import META
from exporter.store.valkey.script_runner import Script
from exporter.store.valkey.store import ValkeyStore
from tests.clusters import holder, running_cluster
from tests.contract.conftest import OpenAt, without_retries
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
    """A store on that pair that waits for the replica, with one commit."""
    store = opened(pair.url + WAITING)
    store.transact(count())
    return store


def on_server(server: ValkeyServer) -> int:
    """Return the number of started tasks that a server itself has."""
    with server.client() as client, client.pipeline(transaction=False) as row:
        row.execute_command("READONLY")  # otherwise a replica of a cluster redirects to its primary
        row.hgetall(META.replace("meta", "ledger:1"))
        found = row.execute(raise_on_error=False)[1]
    return sum(int(number) for key, number in found.items() if "tasks_started" in key)


def assert_unconfirmed(store: ValkeyStore, host: str = "push.example.com") -> None:
    """Assert that a commit fails because no replica has confirmed it."""
    with (
        without_retries(),
        pytest.raises(StoreUnavailable, match=r"0 of 1 replicas confirmed.*wait-replicas"),
    ):
        store.transact(count(host=host))


def test_an_answered_commit_is_on_the_replica(pair: Pair, store: ValkeyStore) -> None:
    """A commit that is answered is on the replica already."""
    for number in range(2, 12):
        store.transact(count())
        assert on_server(pair.replica) == number


def test_an_abrupt_failover_loses_no_answered_commit(pair: Pair, store: ValkeyStore) -> None:
    """The old primary becomes the replica."""
    store.transact(count())
    pair.detach()
    assert_unconfirmed(store)
    assert (on_server(pair.primary), on_server(pair.replica)) == (3, 2)
    pair.fail_over()
    assert_unconfirmed(store)
    pair.follow()
    assert started(store) == 3
    store.transact(count())
    assert (started(store), on_server(pair.replica)) == (4, 4)


def test_without_waiting_a_failover_that_loses_commits_is_reported(pair: Pair, opened: OpenAt) -> None:
    """The counters are 0 after a restart."""
    store = opened(pair.url)
    store.transact(count())
    until(pair.is_in_step, "the replica has all commits")
    pair.detach()
    store.transact(count())
    pair.fail_over()
    for _ in range(2):
        with pytest.raises(
            StoreUnavailable, match="has lost commits: callbacks that were answered 200 are lost"
        ):
            store.transact(count())
    assert started(opened(pair.url)) == 0


def test_a_repeated_commit_waits_for_a_replica(pair: Pair, store: ValkeyStore) -> None:
    """Its first answer was lost, and the new connection has written nothing, so WAIT alone would not wait."""
    pair.replica.send(signal.SIGSTOP)
    pair.wire.sign, pair.wire.to_lose = Script("commit").digest.encode(), 1
    assert_unconfirmed(store)
    assert pair.wire.to_lose == 0
    assert on_server(pair.primary) == 2
    pair.replica.send(signal.SIGCONT)
    until(pair.is_in_step, "the replica has all commits")
    pair.wire.to_lose = 1
    store.transact(count())
    assert started(store) == on_server(pair.replica) == 3


def test_lost_counters_that_were_shown_are_reported(pair: Pair, store: ValkeyStore) -> None:
    """Lower counters would look like a reset."""
    pair.detach()
    assert_unconfirmed(store)
    with without_retries():
        assert started(store) == 2
        pair.fail_over()
        with pytest.raises(StoreUnavailable, match="has lost commits"):
            store.snapshot(1)


def test_a_store_opens_and_is_ready_only_with_its_replicas(
    pair: Pair, store: ValkeyStore, opened: OpenAt
) -> None:
    """A command does not need the replicas."""
    pair.detach()
    with without_retries():
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            store.probe()
        with pytest.raises(StoreError, match="0 of 1 replicas"):
            opened(pair.url + WAITING)
    opened(pair.url + WAITING, attach_only=True).transact(count())
    pair.follow()
    store.probe()
    assert started(store) == 2


def test_a_primary_that_needs_replicas_for_writes_counts_nothing_without_them(
    tmp_path: Path, opened: OpenAt
) -> None:
    """No commit is on the primary alone with `min-replicas-to-write`. Counters are still shown."""
    with Pair(tmp_path, "--min-replicas-to-write", "1", "--min-replicas-max-lag", "600") as pair:
        store = opened(pair.url + WAITING)
        store.transact(count())
        pair.detach()
        with pair.primary.client() as client:
            until(lambda: client.info("replication")["connected_slaves"] == 0, "the primary knows")
        with without_retries():
            with pytest.raises(StoreUnavailable, match=r"NOREPLICAS.*min-replicas-to-write"):
                store.transact(count())
            assert on_server(pair.primary) == started(store) == 1


def test_label_sets_of_an_unconfirmed_commit_get_new_numbers(pair: Pair, store: ValkeyStore) -> None:
    """Their numbers were given by a primary that is lost."""
    pair.detach()
    assert_unconfirmed(store, host="a")
    pair.fail_over()
    pair.follow()
    for host in ("b", "a"):
        store.transact(count(host=host))
    hosts = {labels[1]: sum(label_set.values.values()) for labels, label_set in label_sets(store).items()}
    assert hosts == {"push.example.com": 1, "a": 1, "b": 1}


def test_a_user_without_the_right_to_wait_is_refused(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """The error names the missing right."""
    with empty_server.client() as client:
        rights = ("~css-relay:*", "+@read", "+@write", "+@scripting", "+@connection", "+time")
        client.execute_command("ACL", "SETUSER", "relay", "on", ">word", *rights, "-wait")
        try:
            with pytest.raises(StoreError, match=r"permissions.*\+wait"):
                opened(f"valkey://relay:word@127.0.0.1:{empty_server.port}/0{WAITING}")
        finally:
            client.execute_command("ACL", "DELUSER", "relay")


def test_in_a_cluster_the_commit_waits_for_the_replica_of_its_server(tmp_path: Path, opened: OpenAt) -> None:
    """The replica is found after it has taken over."""
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
        with without_retries():
            until(
                lambda: "0 of 1 replicas" in error_of_commit(store),
                "the new primary is found, and has no replica",
            )
        owner.start()
        until(lambda: has_replica(replica), "the old primary is a replica")
        before = started(store)
        for number in range(1, 6):
            store.transact(count())
            assert on_server(owner) == started(store) == before + number
        assert before >= 8 + 1


def error_of_commit(store: ValkeyStore) -> str:
    """Try a commit; return its error, empty if there is none."""
    try:
        store.transact(count())
    except StoreUnavailable as exc:
        return str(exc)
    return ""
