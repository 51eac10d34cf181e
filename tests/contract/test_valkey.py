"""What the shared store promises beyond the contract: lost answers, conflicts, restarts, who may use it."""

import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from exporter.batch import BatchFolder
from exporter.errors import StoreError, StoreUnavailable
from exporter.ledger import series
from exporter.relay import renewed
from exporter.store import Refused, Terms, Transaction
from exporter.store.records import decode_task
from exporter.store.valkey import client as clients
from exporter.store.valkey import store as module
from exporter.store.valkey.client import META
from exporter.store.valkey.link import Script
from exporter.store.valkey.store import ValkeyStore
from exporter.storeurl import parse_store
from tests.contract.test_store import LABELS, count, fleet, ledgers, put, task
from tests.support import until
from tests.unit.histories import T0, WINDOWS
from tests.valkeys import DURABLE, ValkeyServer, Wire

STARTED = "tasks_started_total"
COMMIT = Script("commit").digest.encode()


def opened(url: str, **terms: object) -> ValkeyStore:
    """Open the store at `url`."""
    return ValkeyStore(parse_store(url), Terms(**terms))  # type: ignore[arg-type]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server that the test may stop and kill, and that loses nothing."""
    with ValkeyServer(tmp_path, *DURABLE) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sooner."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.6)
    monkeypatch.setattr(clients, "ANSWER_SECONDS", 0.3)


def started(store: ValkeyStore) -> int:
    """Return what is counted in the one label set."""
    return sum(ledger.values.get(STARTED, 0) for ledger in ledgers(store).values())


def test_an_answer_that_is_lost_counts_once(empty_server: ValkeyServer) -> None:
    """The commit is tried again, and the script knows it: twice lost, and for any step."""
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
        refused = Refused("json", b"x", "::1", 9.0)
        store.transact(lambda step: step.quarantine(refused))
        digest = store.bodies(limit=1)[0].digest
        assert store.bodies(limit=1)[0].count == 1
        wire.to_lose = 1
        assert store.transact(lambda step: step.release(digest))[0] is True
        store.close()


def test_what_reaches_the_server_after_its_caller_gave_up_is_not_counted(
    own: ValkeyServer, impatient: None
) -> None:
    """A server that stood still finds the commits in its buffers: they were answered 503."""
    store = opened(own.url)
    store.transact(count())
    prepared = store.prepare(count(100), wait=True)
    own.send(signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="in time"):
        prepared()
    assert time.monotonic() - begun < 3
    own.send(signal.SIGCONT)
    time.sleep(0.1)
    assert started(store) == 1
    store.transact(count())
    assert started(store) == 2
    store.close()


def test_many_who_change_the_same_tasks_lose_nothing(empty_server: ValkeyServer) -> None:
    """Three processes, five tasks: what the tasks, the counters and the states say agrees."""
    stores = [opened(empty_server.url) for _ in range(3)]
    names = [str(n) for n in range(5)]

    def work(step: Transaction, some: list[str]) -> None:
        for name in some:
            known = step.task(f"4/{name}")
            base = task(name, host=f"h{name}")
            runs = known.runs + 1 if known else 1
            put(type(base)(appid=4, task_id=name, to_host=f"h{name}", now=base.now, runs=runs))(step)
            step.tally.tell([(STARTED, "", 1)], ("4", f"h{name}"), name, 9.0)

    def run(store: ValkeyStore, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            store.transact(partial(work, some=chance.sample(names, 3)))

    threads = [threading.Thread(target=run, args=(store, n)) for n, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = stores[0].snapshot(10)
    assert [store.snapshot(10) for store in stores[1:]] == [snapshot] * 2
    assert sum(decode_task(record).runs for record in snapshot.tasks) == 3 * 60 * 3 == started(stores[0])
    assert sorted(snapshot.counts) == [(("4", f"h{name}"), "active", 1) for name in names]
    for store in stores:
        store.close()


def test_bounds_hold_for_all_replicas_together(empty_server: ValkeyServer) -> None:
    """Label sets and codes that two replicas meet at the same time are told apart only up to the bound."""
    stores = [opened(empty_server.url, max_label_sets=10) for _ in range(2)]

    def run(store: ValkeyStore, name: str) -> None:
        for number in range(50):
            store.transact(count(host=f"{name}{number}", name="tasks_exited_total", label=f"{name}{number}"))

    threads = [threading.Thread(target=run, args=(s, n)) for s, n in zip(stores, "ab", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ledgers(stores[0])
    assert len(found) == 11
    codes = {key for ledger in found.values() for key in ledger.values}
    assert len(codes) == 65
    assert sum(number for ledger in found.values() for number in ledger.values.values()) == 100
    for store in stores:
        store.close()


def test_what_time_decides_is_told_once_whoever_sweeps(empty_server: ValkeyServer) -> None:
    """Three replicas find the same tasks due at the same time."""
    stores = [opened(empty_server.url) for _ in range(3)]
    stores[0].transact(put(*(task(str(n), "E") for n in range(40)), due=1.0))
    folder = BatchFolder(WINDOWS, LABELS)
    later = T0 + WINDOWS.reorder + 10
    barrier = threading.Barrier(3)

    def run(store: ValkeyStore) -> None:
        keys = store.due(later, 100)
        barrier.wait()
        store.transact(partial(folder.sweep, keys, later))

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fleet(stores[1])[series("anomalies_total", "missed_start")] == 40
    forgotten = T0 + 2 * WINDOWS.forget_after
    while keys := stores[0].due(forgotten, 100):
        stores[0].transact(partial(folder.sweep, keys, forgotten))
    assert stores[2].snapshot(99).counts == []
    for store in stores:
        store.close()


def test_a_server_that_was_killed_comes_back_with_all_that_was_committed(own: ValkeyServer) -> None:
    """And the store finds it by itself; meanwhile it says that it is not there."""
    store = opened(own.url)
    for _ in range(20):
        store.transact(count())
    own.kill()
    with pytest.raises(StoreUnavailable, match=r"refused.*tried again"):
        store.snapshot(1)
    own.start()
    assert started(store) == 20
    store.transact(count())
    assert started(store) == 21
    store.close()


def test_a_commit_waits_for_a_server_that_restarts(own: ValkeyServer) -> None:
    """For some seconds: nobody is asked to come again."""
    store = opened(own.url)
    store.transact(count())
    end = store.prepare(count(), wait=True)
    own.kill()
    again = threading.Timer(0.5, own.start)
    again.start()
    end()
    again.join()
    assert started(store) == 2
    store.close()


def test_scripts_that_the_server_has_forgotten_are_sent_again(empty_server: ValkeyServer) -> None:
    """After a restart, or another's SCRIPT FLUSH."""
    store = opened(empty_server.url)
    store.transact(count())
    with empty_server.client() as client:
        client.script_flush()
    store.transact(count())
    assert started(store) == 2
    store.close()


def test_a_store_that_lost_all_it_held_is_not_started_over(own: ValkeyServer) -> None:
    """Not by the processes that knew it, whether it is empty or another: only a restart makes a new one."""
    store = opened(own.url)
    store.transact(count())
    with own.client() as client:
        client.flushall()
        assert client.dbsize() == 0
    for _ in range(2):
        for work in (lambda: store.transact(count()), store.probe, lambda: store.snapshot(1)):
            with pytest.raises(StoreUnavailable, match=r"has lost all it held; restart"):
                work()
    other = opened(own.url)
    third = opened(own.url)
    with own.client() as client:
        client.hset(META, "id", "0" * 16)
    with pytest.raises(StoreUnavailable, match="is another one than it was"):
        other.transact(count())
    assert started(opened(own.url)) == 0
    for each in (store, other, third):
        each.close()


def test_a_store_that_comes_back_older_is_noticed_and_begins_again(own: ValkeyServer, tmp_path: Path) -> None:
    """As after a failover to a replica that lagged: nobody writes on top of it before a restart.

    Counters then begin at 0, or Prometheus would count once more all that they hold; tasks stay as they are.
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
            StoreUnavailable, match="older than it was: commits that were answered 200 are lost"
        ):
            each.transact(count())
    restarted = [opened(own.url), opened(own.url)]
    for again in restarted:
        assert started(again) == 0
        assert again.snapshot(1).created > made
        assert again.transact(lambda step: step.task("4/a"))[0] == renewed(task("a", host="h"))
        assert again.due(1.0, 9) == ["4/a"]
    for again in restarted:
        again.transact(count())
    assert started(restarted[0]) == 2
    with pytest.raises(StoreUnavailable):
        other.snapshot(1)
    for each in (store, other, *restarted):
        each.close()


def test_what_others_commit_does_not_hide_that_the_store_is_older(own: ValkeyServer) -> None:
    """Each process also looks for its own last commit."""
    store, other = opened(own.url), opened(own.url)
    store.transact(count())
    store.transact(count())
    with own.client() as client:
        name = client.hkeys(META.replace("meta", "done"))[0]
        client.hset(META.replace("meta", "done"), name, "1 9999999999999999")
    for _ in range(9):
        other.transact(count())
    with pytest.raises(StoreUnavailable, match="older"):
        store.transact(count())
    store.close()
    other.close()


def test_a_replica_that_kept_up_takes_over(tmp_path: Path) -> None:
    """Behind the same address: the store goes on with all that was committed."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    at_once = (*DURABLE, "--repl-diskless-sync-delay", "0")
    with (
        ValkeyServer(folders[0], *at_once) as first,
        ValkeyServer(folders[1], *at_once) as second,
        second.client() as client,
        Wire(first.port) as wire,
    ):
        client.execute_command("REPLICAOF", "127.0.0.1", first.port)
        until(lambda: client.info("replication")["master_link_status"] == "up", "they are in step")
        store = opened(f"valkey://127.0.0.1:{wire.port}/0")
        for _ in range(10):
            store.transact(count())
        with first.client() as primary:
            assert primary.wait(1, 2000) == 1
        first.kill()
        wire.to = second.port
        with pytest.raises(StoreUnavailable, match="replica"):
            store.transact(count())
        client.execute_command("REPLICAOF", "NO", "ONE")
        store.transact(count())
        assert started(store) == 11
        store.close()


def test_a_server_that_became_a_replica_is_not_written(tmp_path: Path, own: ValkeyServer) -> None:
    """It says so; when it is the primary again all goes on."""
    store = opened(own.url)
    store.transact(count())
    with own.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"replica.*--store.url"):
            store.transact(count())
        assert time.monotonic() - begun < module.COMMIT_SECONDS + 3
        client.execute_command("REPLICAOF", "NO", "ONE")
    store.transact(count())
    assert started(store) == 2
    store.close()


def test_who_may_use_it_is_said_without_the_password(tmp_path: Path) -> None:
    """No password, a wrong one, a user that may not do what it takes; the right ones work."""
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
            ("", "give --store.url a password"),
            (":wr0ng@", "the right user and password"),
            ("relay:wr0ng@", "the right user and password"),
            ("guest:hid-den@", "permissions"),
        ):
            with pytest.raises(StoreError, match=word) as caught:
                opened(f"redis://{user}127.0.0.1:{server.port}")
            assert not any(secret in str(caught.value) for secret in ("wr0ng", "hid-den", "s3cret"))
        for user in (":s3cret%2F%40@", "default:s3cret%2F%40@", "relay:pa%3Ass@"):
            store = opened(f"valkey://{user}127.0.0.1:{server.port}/0")
            store.transact(count())
            store.close()


def test_other_versions_and_partitions_are_refused(empty_server: ValkeyServer) -> None:
    """This program does not know what it would break."""
    opened(empty_server.url).close()
    with empty_server.client() as client:
        for field in ("version", "partitions"):
            client.hset(META, field, "2")
            with pytest.raises(StoreError, match="newer one"):
                opened(empty_server.url)
            client.hset(META, field, "1")
    opened(empty_server.url).close()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), ["keeps nothing on disk"]),
        (("--save", "60 1"), ["keeps snapshots alone on disk"]),
        (("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"), ["may throw tasks away"]),
        (("--appendonly", "yes"), []),
    ],
)
def test_a_server_that_may_lose_what_it_was_given_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: tuple[str, ...], told: list[str]
) -> None:
    """At the start, to those who serve."""
    with ValkeyServer(tmp_path, *options) as server:
        opened(server.url).close()
        messages = [r.getMessage() for r in caplog.records if "is a new one" not in r.getMessage()]
        assert len(messages) == len(told)
        assert all(part in message for part, message in zip(told, messages, strict=True))
        caplog.clear()
        opened(server.url, as_guest=True).close()
        assert not caplog.records


def test_the_memory_of_commits_is_bounded(empty_server: ValkeyServer) -> None:
    """One a client, and none of clients that were last here an hour ago."""
    with empty_server.client() as client:
        for _ in range(3):
            store = opened(empty_server.url)
            for _ in range(5):
                store.transact(count())
            store.close()
        done = META.replace("meta", "done")
        assert client.hlen(done) == 3
        for name in client.hkeys(done):
            client.hset(done, name, "5 1000")
        opened(empty_server.url).close()
        assert client.hlen(done) == 0
