"""Other servers than a single Valkey: Redis, with TLS, and a cluster of three."""

import re
from contextlib import ExitStack, closing
from inspect import signature
from pathlib import Path

import pytest
import trustme

from exporter.config.store_url import parse_store
from exporter.errors import StoreError, StoreUnavailable
from exporter.store.protocol import QuarantineEntry, StoreOptions
from exporter.store.valkey.client import META
from exporter.store.valkey.script_runner import Script
from exporter.store.valkey.store import ValkeyStore
from tests.clusters import is_well
from tests.contract import test_snapshot, test_store
from tests.contract.conftest import Open, OpenAt, empty, impatient, on
from tests.contract.test_store import count, label_sets, put, task
from tests.support import free_port, tool, until
from tests.valkeys import ValkeyServer

pytestmark = pytest.mark.servers

#: The tests of the contract. Those with further parameters run on Valkey and the file only.
QUESTIONS = [
    ask
    for name, ask in (*vars(test_store).items(), *vars(test_snapshot).items())
    if name.startswith("test_") and signature(ask).parameters.keys() <= {"store", "open_store"}
]
# Chance finds nothing more on one kind of server than on another.
QUESTIONS.remove(test_snapshot.test_after_any_steps_of_several_processes_a_scrape_shows_what_is_there)

SCRIPTS = [
    *(Script(name) for name in ("commands", "commit")),
    *(Script(name, guarded=False) for name in ("open", "reset_counters")),
]
CALLS = re.compile(r"redis\.call\(\s*'([A-Z]+)'")


def use(store: ValkeyStore) -> None:
    """Do a little of everything."""
    store.transact(put(task("a"), task("b", "E", sources="aa")))
    store.transact(count(3))
    store.transact(
        lambda transaction: transaction.quarantine(QuarantineEntry("json", b"\xff\x00", "::1", 9.0))
    )
    assert [body.body for body in store.bodies(limit=9)] == [b"\xff\x00"]
    assert [
        t.task_id for t in store.transact(lambda transaction: transaction.tasks_with_sources(4, "aa"))[0]
    ] == ["b"]
    assert label_sets(store)["4", "push.example.com"].values == {"tasks_started_total": 3}
    assert len(store.list_tasks(state=None, after=0, limit=9)) == 2
    store.probe()


@pytest.mark.parametrize("open_store", on("redis", "cluster"), indirect=True)
def test_other_servers_answer_every_question_alike(request: pytest.FixtureRequest, open_store: Open) -> None:
    """Debian's Redis and a cluster answer every question of the contract and know every command used."""
    kind = request.node.callspec.params["open_store"]
    servers = request.getfixturevalue("cluster") if kind == "cluster" else [request.getfixturevalue("redis")]
    with ExitStack() as running:
        clients = [running.enter_context(each.client(db=0 if kind == "cluster" else 1)) for each in servers]
        for client in clients:
            client.config_resetstat()
            client.script_flush()
        for ask in QUESTIONS:
            for client in clients:
                client.flushall()
            ask(open_store if "open_store" in signature(ask).parameters else open_store())
        store = open_store()
        (client,) = [client for client in clients if client.dbsize()]
        store.transact(put(task("a")))
        store.transact(lambda transaction: transaction.delete("4/a"))
        store.transact(count(3))
        client.hset(META, "torn", 1)
        assert label_sets(open_store())["4", "push.example.com"].values == {}
        assert client.script_exists(*(script.digest for script in SCRIPTS)) == [True] * len(SCRIPTS)
        called = {name.removeprefix("cmdstat_").upper() for name in client.info("commandstats")}
        assert {name for script in SCRIPTS for name in CALLS.findall(script.text)} - called == set()


def test_tls_believes_those_it_is_told_to_believe(tmp_path: Path, opened: OpenAt) -> None:
    """TLS believes the given authority and the server's name alone, and may show a certificate of its own."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stranger.cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    authority.issue_cert("replica").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    pem = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "stranger", "server", "client")}
    files = (
        "--tls-cert-file",
        pem["server"],
        "--tls-key-file",
        pem["server"],
        "--tls-ca-cert-file",
        pem["ca"],
    )
    port = free_port()
    with ValkeyServer(tmp_path, *files, "--tls-port", str(port), program=tool("redis-server")):
        own = f"cert-file={pem['client']}&key-file={pem['client']}"
        use(opened(f"rediss://127.0.0.1:{port}?ca-file={pem['ca']}&{own}"))
        opened(f"valkeys://127.0.0.1:{port}/0?ca-file={pem['ca']}&{own}")
        for bad in (f"127.0.0.1:{port}?ca-file={pem['stranger']}&{own}", f"127.0.0.1:{port}?{own}",
                    f"localhost:{port}?ca-file={pem['ca']}&{own}"):  # fmt: skip
            with pytest.raises(StoreError, match="certificate"):
                opened(f"rediss://{bad}")


def test_a_cluster_is_one_store_whichever_node_is_asked(cluster: list[ValkeyServer], opened: OpenAt) -> None:
    """All keys are in one slot, every node leads to the same store, and nodes that come back are found."""
    for server in cluster:
        empty(server)
    stores = [opened(f"valkey-cluster://127.0.0.1:{server.port}") for server in cluster]
    use(stores[0])
    for store in stores:
        store.transact(count())
    assert label_sets(stores[2])["4", "push.example.com"].values == {"tasks_started_total": 6}
    try:
        for server in cluster:
            server.kill()
        with impatient(), pytest.raises(StoreUnavailable):
            stores[0].transact(count())
    finally:
        for server in cluster:
            server.start()
    until(lambda: all(is_well(server) for server in cluster), "the cluster is well again")
    stores[0].transact(count())
    assert label_sets(stores[1])["4", "push.example.com"].values == {"tasks_started_total": 7}


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_each_connection_shows_the_password_as_it_is_then(request: pytest.FixtureRequest, kind: str) -> None:
    """Of a server and of every node of a cluster; one that is open goes on when the password is another."""
    found = request.getfixturevalue(kind)
    servers: list[ValkeyServer] = found if kind == "cluster" else [found]
    scheme = "valkey-cluster" if kind == "cluster" else "redis"
    password = "one"

    def on_each(*command: str) -> None:
        for server in servers:
            with server.client() as client:
                client.execute_command(*command)

    for server in servers:
        empty(server)
    on_each("ACL", "SETUSER", "rotated", "reset", "on", ">one", "~*", "&*", "+@all")
    try:
        url = parse_store(f"{scheme}://rotated@127.0.0.1:{servers[0].port}")
        with closing(ValkeyStore(url, StoreOptions(), password=lambda: password)) as store:
            store.transact(count())
            on_each("ACL", "SETUSER", "rotated", "resetpass", ">two")
            store.transact(count())
            on_each("CLIENT", "KILL", "USER", "rotated")
            with impatient(), pytest.raises(StoreUnavailable, match="user and password") as caught:
                store.transact(count())
            assert "one" not in str(caught.value).split()
            password = "two"
            store.transact(count())
            assert label_sets(store)["4", "push.example.com"].values == {"tasks_started_total": 3}
    finally:
        on_each("ACL", "DELUSER", "rotated")


def test_a_cluster_that_is_not_there_and_a_server_that_is_full_are_told(
    empty_server: ValkeyServer, opened: OpenAt
) -> None:
    """The errors for a missing cluster and for a full server say what to do."""
    with pytest.raises(StoreUnavailable, match="no server is there"):
        opened(f"valkey-cluster://127.0.0.1:{free_port()}")
    store = opened(empty_server.url)
    with empty_server.client() as client:
        client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(StoreUnavailable, match="memory is full; raise its maxmemory"):
                store.transact(put(task("a")))
        finally:
            client.config_set("maxmemory", "0")
