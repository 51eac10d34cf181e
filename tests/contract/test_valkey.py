"""The shared store beyond the contract: lost answers, conflicts, restarts, permissions."""

import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.errors import StoreError, StoreUnavailable
from exporter.ingest.batch import BatchApplier
from exporter.metrics.values import series
from exporter.relay import with_counters_reset
from exporter.store.protocol import PreparedCommit, decode_task
from exporter.store.transaction import QuarantineEntry, Transaction
from exporter.store.valkey import client as clients
from exporter.store.valkey import script_runner
from exporter.store.valkey import store as module
from exporter.store.valkey.client import META
from exporter.store.valkey.script_runner import Script
from exporter.store.valkey.store import ValkeyStore
from tests.contract.conftest import OpenAt, run_concurrently, without_retries
from tests.contract.test_store import LABELS, count, fleet, label_sets, put, task
from tests.support import HANG_SECONDS, until
from tests.unit.histories import SETTINGS, T0
from tests.valkeys import DURABLE, Pair, ValkeyServer, Wire

pytestmark = pytest.mark.servers

STARTED = "tasks_started_total"
COMMIT = Script("commit").digest.encode()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A durable server that the test may stop and kill."""
    with ValkeyServer(tmp_path, *DURABLE) as server:
        yield server


def started(store: ValkeyStore) -> int:
    """Return the number of started tasks over all label sets."""
    return sum(label_set.values.get(STARTED, 0) for label_set in label_sets(store).values())


def test_a_commit_whose_answer_is_lost_counts_once(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """The commit is sent again, even twice, and counted once, for any change."""
    with Wire(empty_server.port) as wire:
        store = opened(f"valkey://127.0.0.1:{wire.port}/0")
        store.transact(count())
        wire.sign = COMMIT
        for lost in (1, 2, 1):
            wire.to_lose = lost
            store.transact(count())
            assert wire.to_lose == 0
        assert started(store) == 4
        wire.to_lose = 1
        refused = QuarantineEntry("json", b"x", "::1", 9.0)
        store.transact(lambda transaction: transaction.quarantine(refused))
        digest = store.bodies(limit=1)[0].digest
        assert store.bodies(limit=1)[0].count == 1
        wire.to_lose = 1
        assert store.transact(lambda transaction: transaction.delete_body(digest))[0] is True


def test_a_commit_that_arrives_after_its_timeout_is_not_counted(
    own: ValkeyServer, opened: OpenAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller was answered 503 before the server read it."""
    other = opened(own.url)
    other.transact(count())
    with monkeypatch.context() as patch:
        patch.setattr(clients, "ANSWER_SECONDS", 0.3)
        patch.setattr(module, "COMMIT_SECONDS", 0.69)  # two answers are late, a third is out of time
        prepared = until(partial(_prepared, opened, own), "a store is open within the short time limits")
        scripts = scripts_run(own)
        own.send(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="in time"):
            prepared.commit()
    own.send(signal.SIGCONT)
    until(lambda: scripts_run(own) > scripts, "the server has read the commit")
    assert started(other) == 1
    other.transact(count())
    assert started(other) == 2


def _prepared(opened: OpenAt, server: ValkeyServer) -> PreparedCommit[None] | None:
    """Return a prepared commit, None if preparing it took too long."""
    try:
        return opened(server.url).begin(count(100), wait=True)
    except StoreUnavailable:
        return None


def scripts_run(server: ValkeyServer) -> int:
    """Return the number of script calls that the server has received."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_concurrent_changes_of_the_same_tasks_lose_nothing(
    empty_server: ValkeyServer, opened: OpenAt
) -> None:
    """Tasks, counters and states agree after three processes have changed the same five tasks."""
    stores = [opened(empty_server.url) for _ in range(3)]
    names = [str(n) for n in range(5)]

    def work(transaction: Transaction, some: list[str]) -> None:
        for name in some:
            known = transaction.task(f"4/{name}")
            base = task(name, host=f"h{name}")
            runs = known.runs + 1 if known else 1
            known = type(base)(appid=4, task_id=name, to_host=base.to_host, current=base.current, runs=runs)
            put(known)(transaction)
            transaction.increments.record([(STARTED, "", 1)], ("4", f"h{name}"), name, 9.0)

    def run(store: ValkeyStore, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(30):
            store.transact(partial(work, some=rng.sample(names, 3)))

    run_concurrently(partial(run, store, n) for n, store in enumerate(stores))
    snapshot = stores[0].snapshot(10)
    assert [store.snapshot(10) for store in stores[1:]] == [snapshot] * 2
    assert sum(decode_task(record).runs for record in snapshot.tasks) == 3 * 30 * 3 == started(stores[0])
    assert sorted(snapshot.counts) == [(("4", f"h{name}"), "active", 1) for name in names]


def test_limits_apply_to_all_replicas_together(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """Two replicas that add label sets and codes at the same time stay within the limits."""
    stores = [opened(empty_server.url, max_label_sets=10) for _ in range(2)]

    def run(store: ValkeyStore, name: str) -> None:
        for number in range(50):
            store.transact(count(host=f"{name}{number}", name="tasks_exited_total", label=f"{name}{number}"))

    run_concurrently(partial(run, s, n) for s, n in zip(stores, "ab", strict=True))
    found = label_sets(stores[0])
    assert len(found) == 11
    codes = {key for label_set in found.values() for key in label_set.values}
    assert len(codes) == 65
    assert sum(number for label_set in found.values() for number in label_set.values.values()) == 100


def test_concurrent_sweeps_count_each_task_once(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """Three replicas find the same tasks due at the same time."""
    stores = [opened(empty_server.url) for _ in range(3)]
    stores[0].transact(put(*(task(str(n), "E") for n in range(40)), due=1.0))
    applier = BatchApplier(SETTINGS, LABELS)
    later = T0 + SETTINGS.reorder + 10
    barrier = threading.Barrier(3, timeout=HANG_SECONDS)

    def run(store: ValkeyStore) -> None:
        keys = store.due_keys(later, 100)
        barrier.wait()
        store.transact(partial(applier.sweep, keys, later))

    run_concurrently(partial(run, store) for store in stores)
    assert fleet(stores[1])[series("anomalies_total", "missed_start")] == 40
    forgotten = T0 + 2 * SETTINGS.forget_after
    while keys := stores[0].due_keys(forgotten, 100):
        stores[0].transact(partial(applier.sweep, keys, forgotten))
    assert stores[2].snapshot(99).counts == []


def test_a_killed_server_has_all_commits_after_a_restart(own: ValkeyServer, opened: OpenAt) -> None:
    """The store reconnects by itself; until then its errors say so."""
    store = opened(own.url)
    for _ in range(20):
        store.transact(count())
    own.kill()
    with pytest.raises(StoreUnavailable, match=r"refused.*The exporter retries"):
        store.snapshot(1)
    own.start()
    assert started(store) == 20
    store.transact(count())
    assert started(store) == 21


def test_a_commit_waits_for_a_server_that_restarts(
    own: ValkeyServer, opened: OpenAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for some seconds, so that the caller need not repeat the callback."""
    store = opened(own.url)
    store.transact(count())
    prepared = store.begin(count(), wait=True)
    own.kill()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            own.start()

    monkeypatch.setattr(script_runner, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    prepared.commit()
    assert pauses == [script_runner.PAUSE_SECONDS] * 3
    assert started(store) == 2


def test_scripts_are_sent_again_after_script_flush(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """A restart of the server removes them too."""
    store = opened(empty_server.url)
    store.transact(count())
    with empty_server.client() as client:
        client.script_flush()
    store.transact(count())
    assert started(store) == 2


def test_a_store_that_lost_all_its_data_is_not_continued(own: ValkeyServer, opened: OpenAt) -> None:
    """Only a restart of the exporter continues with an empty or another store."""
    store = opened(own.url)
    store.transact(count())
    with own.client() as client:
        client.flushall()
        assert client.dbsize() == 0
    for _ in range(2):
        for work in (lambda: store.transact(count()), store.probe, lambda: store.snapshot(1)):
            with pytest.raises(StoreUnavailable, match=r"has lost all its data; restart"):
                work()
    other = opened(own.url)
    with own.client() as client:
        client.hset(META, "id", "0" * 16)
    with pytest.raises(StoreUnavailable, match="was replaced by another store"):
        other.transact(count())
    assert started(opened(own.url)) == 0


def test_a_store_that_lost_commits_is_detected_and_its_counters_are_reset(
    own: ValkeyServer, tmp_path: Path, opened: OpenAt
) -> None:
    """Nobody writes to a store that lost commits, for example after a failover to a lagging replica.

    After a restart counters begin at 0: Prometheus would see lower counters as a reset, and count them again.
    """
    store, other = opened(own.url), opened(own.url)
    made = store.snapshot(1).created
    store.transact(put(task("a", host="h"), due=9e9))
    store.transact(count(7))
    own.kill()
    old = tmp_path.with_name("old")
    shutil.copytree(tmp_path, old)
    own.start()
    store.transact(count())
    own.kill()
    shutil.rmtree(tmp_path)
    shutil.copytree(old, tmp_path)
    own.start()
    for each in (store, store, other):
        with pytest.raises(
            StoreUnavailable, match="has lost commits: callbacks that were answered 200 are lost"
        ):
            each.transact(count())
    restarted = [opened(own.url), opened(own.url)]
    for again in restarted:
        assert started(again) == 0
        assert again.snapshot(1).created > made
        assert again.transact(lambda transaction: transaction.task("4/a"))[0] == with_counters_reset(
            task("a", host="h")
        )
        assert again.due_keys(1.0, 9) == ["4/a"]
    for again in restarted:
        again.transact(count())
    assert started(restarted[0]) == 2
    with pytest.raises(StoreUnavailable):
        other.snapshot(1)


def test_commits_of_other_processes_do_not_hide_lost_commits(own: ValkeyServer, opened: OpenAt) -> None:
    """Each process checks its own last commit."""
    store, other = opened(own.url), opened(own.url)
    store.transact(count())
    store.transact(count())
    with own.client() as client:
        name = client.hkeys(META.replace("meta", "done"))[0]
        # The number of this client's last commit is set back from 2 to 1, as in an older copy of the store.
        client.hset(META.replace("meta", "done"), name, "1 9999999999999999")
    for _ in range(9):
        other.transact(count())
    with pytest.raises(StoreUnavailable, match="has lost commits"):
        store.transact(count())


def test_a_replica_with_all_commits_takes_over(tmp_path: Path, opened: OpenAt) -> None:
    """The store continues behind the same address."""
    with Pair(tmp_path) as pair:
        store = opened(pair.url)
        for _ in range(10):
            store.transact(count())
        until(pair.is_in_step, "the replica has all commits")
        pair.primary.kill()
        pair.wire.to = pair.replica.port
        with without_retries(), pytest.raises(StoreUnavailable, match="replica"):
            store.transact(count())
        pair.detach()
        store.transact(count())
        assert started(store) == 11


def test_a_store_follows_its_host_name_to_another_primary(tmp_path: Path, opened: OpenAt) -> None:
    """When its server becomes a replica, the store connects to the new primary."""
    with Pair(tmp_path) as pair:
        store = opened(pair.url)
        store.transact(count())
        until(pair.is_in_step, "the replica has all commits")
        pair.detach()
        pair.wire.to = pair.replica.port
        with pair.primary.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", pair.replica.port)
        store.transact(count())
        assert started(store) == 2


def test_a_server_that_became_a_replica_is_not_written(own: ValkeyServer, opened: OpenAt) -> None:
    """The error is raised without an endless wait. As a primary the server works again."""
    store = opened(own.url)
    store.transact(count())
    with own.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with without_retries(), pytest.raises(StoreUnavailable, match=r"replica.*--store.url"):
            store.transact(count())
        client.execute_command("REPLICAOF", "NO", "ONE")
    store.transact(count())
    assert started(store) == 2


def test_a_refused_user_is_reported_without_the_password(tmp_path: Path, opened: OpenAt) -> None:
    """The error has the reason. The correct user and password work."""
    with ValkeyServer(tmp_path, "--requirepass", "s3cret/@") as server:
        with server.client(password="s3cret/@") as client:
            client.execute_command(
                "ACL",
                "SETUSER",
                "relay",
                "on",
                ">pa:ss",
                "~css-relay:*",
                "+@read",
                "+@write",
                "+@scripting",
                "+@connection",
                "+time",
            )
            client.execute_command("ACL", "SETUSER", "guest", "on", ">hid-den", "~*", "+@connection")
        for user, word in (
            ("", "set a password in --store.url"),
            (":wr0ng@", "the right user and password"),
            ("relay:wr0ng@", "the right user and password"),
            ("guest:hid-den@", "permissions"),
        ):
            with pytest.raises(StoreError, match=word) as caught:
                opened(f"redis://{user}127.0.0.1:{server.port}")
            assert not any(secret in str(caught.value) for secret in ("wr0ng", "hid-den", "s3cret"))
        for user in (":s3cret%2F%40@", "default:s3cret%2F%40@", "relay:pa%3Ass@"):
            opened(f"valkey://{user}127.0.0.1:{server.port}/0").transact(count())


def test_other_versions_and_partitions_are_refused(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """The error says that the store needs a newer program."""
    opened(empty_server.url)
    with empty_server.client() as client:
        for field in ("version", "partitions"):
            client.hset(META, field, "2")
            with pytest.raises(StoreError, match="newer one"):
                opened(empty_server.url)
            client.hset(META, field, "1")
    opened(empty_server.url)


def test_a_server_that_may_lose_data_causes_a_warning(
    own: ValkeyServer, opened: OpenAt, caplog: pytest.LogCaptureFixture
) -> None:
    """An exporter logs the warning at its start; a command logs none."""
    for settings, logged in (
        ({"appendonly": "no"}, ["writes nothing to disk"]),
        ({"save": "60 1"}, ["writes snapshots only to disk"]),
        ({"appendonly": "yes", "maxmemory-policy": "allkeys-lru"}, ["may lose tasks"]),
        ({"maxmemory-policy": "noeviction"}, []),
    ):
        with own.client() as client:
            for name, value in settings.items():
                client.config_set(name, value)
        caplog.clear()
        opened(own.url)
        messages = [r.getMessage() for r in caplog.records if "created store" not in r.getMessage()]
        assert len(messages) == len(logged)
        assert all(part in message for part, message in zip(logged, messages, strict=True))
        caplog.clear()
        opened(own.url, attach_only=True)
        assert not caplog.records


def test_the_remembered_commits_are_limited(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """One for each client; clients without a commit for an hour are removed."""
    with empty_server.client() as client:
        for _ in range(3):
            store = opened(empty_server.url)
            for _ in range(5):
                store.transact(count())
        done = META.replace("meta", "done")
        assert client.hlen(done) == 3
        for name in client.hkeys(done):
            client.hset(done, name, "5 1000")
        opened(empty_server.url)
        assert client.hlen(done) == 0
