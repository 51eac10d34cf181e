"""Servers other than a single Valkey server: Redis, with TLS, and a cluster of three nodes."""

import re
from contextlib import ExitStack, closing
from inspect import signature
from pathlib import Path

import pytest
import trustme

from exporter.config.store_url import parse_store
from exporter.errors import StoreError, StoreUnavailable
from exporter.store.protocol import StoreOptions
from exporter.store.transaction import QuarantineEntry
from exporter.store.valkey.client import META
from exporter.store.valkey.script_runner import Script
from exporter.store.valkey.store import ValkeyStore
from tests.clusters import is_well
from tests.contract import test_snapshot, test_store
from tests.contract.conftest import Open, OpenAt, empty, on, without_retries
from tests.contract.test_store import count, label_sets, put, task
from tests.support import free_port, tool, until
from tests.valkeys import ValkeyServer

pytestmark = pytest.mark.servers

#: The tests of the contract. Those with further parameters run on Valkey and the file only.
CONTRACT_TESTS = [
    contract_test
    for name, contract_test in (*vars(test_store).items(), *vars(test_snapshot).items())
    if name.startswith("test_") and signature(contract_test).parameters.keys() <= {"store", "open_store"}
]
# Random transactions find no more faults on another kind of server, and they are slow.
CONTRACT_TESTS.remove(test_snapshot.test_a_scrape_is_correct_after_random_transactions_of_several_processes)

SCRIPTS = [
    *(Script(name) for name in ("commands", "commit")),
    *(Script(name, guarded=False) for name in ("open", "reset_counters")),
]
CALLS = re.compile(r"redis\.call\(\s*'([A-Z]+)'")


def use(store: ValkeyStore) -> None:
    """Use each kind of operation once."""
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
def test_other_servers_pass_the_contract(request: pytest.FixtureRequest, open_store: Open) -> None:
    """Debian's Redis and a cluster pass all tests of the contract, and know every command used."""
    kind = request.node.callspec.params["open_store"]
    servers = request.getfixturevalue("cluster") if kind == "cluster" else [request.getfixturevalue("redis")]
    with ExitStack() as running:
        clients = [running.enter_context(each.client(db=0 if kind == "cluster" else 1)) for each in servers]
        for client in clients:
            client.config_resetstat()
            client.script_flush()
        for contract_test in CONTRACT_TESTS:
            for client in clients:
                client.flushall()
            contract_test(open_store if "open_store" in signature(contract_test).parameters else open_store())
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


def test_tls_accepts_only_the_configured_authority_and_the_name_of_the_server(
    tmp_path: Path, opened: OpenAt
) -> None:
    """The connection may use a client certificate."""
    authority, other_authority = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other_authority.cert_pem.write_to_path(str(tmp_path / "other_authority.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    authority.issue_cert("replica").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    pem = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "other_authority", "server", "client")}
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
        for bad in (f"127.0.0.1:{port}?ca-file={pem['other_authority']}&{own}", f"127.0.0.1:{port}?{own}",
                    f"localhost:{port}?ca-file={pem['ca']}&{own}"):  # fmt: skip
            with pytest.raises(StoreError, match="certificate"):
                opened(f"rediss://{bad}")


def test_a_cluster_is_one_store_on_every_node(cluster: list[ValkeyServer], opened: OpenAt) -> None:
    """All keys are in one slot. Nodes that restart are found again."""
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
        with without_retries(), pytest.raises(StoreUnavailable):
            stores[0].transact(count())
    finally:
        for server in cluster:
            server.start()
    until(lambda: all(is_well(server) for server in cluster), "the cluster works again")
    stores[0].transact(count())
    assert label_sets(stores[1])["4", "push.example.com"].values == {"tasks_started_total": 7}


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_each_new_connection_uses_the_current_password(request: pytest.FixtureRequest, kind: str) -> None:
    """This holds for every node of a cluster. Open connections stay open when the password changes."""
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
            with without_retries(), pytest.raises(StoreUnavailable, match="user and password") as caught:
                store.transact(count())
            assert "one" not in str(caught.value).split()
            password = "two"
            store.transact(count())
            assert label_sets(store)["4", "push.example.com"].values == {"tasks_started_total": 3}
    finally:
        on_each("ACL", "DELUSER", "rotated")


def test_a_missing_cluster_and_a_full_server_are_reported(empty_server: ValkeyServer, opened: OpenAt) -> None:
    """The errors say what to do."""
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
