"""A real Redis cluster for tests: three servers with all slots, and replicas of one of them."""

from binascii import crc_hqx
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support import BUS, HANG_SECONDS, tool, until
from tests.valkeys import DURABLE, TAG, ValkeyServer, has_replica

SLOTS = 16_384
NODES = 3


@contextmanager
def running_cluster(folder: Path, *, replicas: int = 0) -> Iterator[list[ValkeyServer]]:
    """Yield the three servers of a cluster, then the replicas of the server with the store.

    The servers read the cluster's configuration from files, as after a restart, so that no time is lost until
    they find each other. The node timeout is very long, so that a slow machine causes no failover: a test
    that needs one commands it.
    """
    servers = [_node(folder / f"node{number}") for number in range(NODES + replicas)]
    for number, server in enumerate(servers):
        lines = [_line(servers, other, is_itself=other == number) for other in range(len(servers))]
        whole = [*lines, f"vars currentEpoch {NODES} lastVoteEpoch 0"]
        (server.folder / "nodes.conf").write_text("".join(f"{line}\n" for line in whole))
    with ExitStack() as running:
        for server in servers:
            running.enter_context(server)
        until(lambda: all(is_well(server) for server in servers), "the cluster is well")
        if replicas:
            until(lambda: has_replica(holder(servers)), "the replica keeps up")
        yield servers


def holder(servers: list[ValkeyServer]) -> ValkeyServer:
    """Return the server of a cluster that has the store before any failover."""
    return servers[_holder()]


def is_well(server: ValkeyServer) -> bool:
    """Return whether a node reports that the cluster is complete."""
    with server.client() as client:
        return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


def _node(folder: Path) -> ValkeyServer:
    """Return a server with the options of a cluster node."""
    folder.mkdir()
    patience = ("--cluster-node-timeout", str(round(HANG_SECONDS * 1000)))
    options = ("--cluster-enabled", "yes", *patience, "--repl-diskless-sync-delay", "0")
    return ValkeyServer(folder, *DURABLE, *options, program=tool("redis-server"))


def _line(servers: list[ValkeyServer], number: int, *, is_itself: bool) -> str:
    """Return the line of a server in nodes.conf, the cluster configuration of a node."""
    port = servers[number].port
    if number < NODES:
        first, end = (-(-each * SLOTS // NODES) for each in (number, number + 1))
        role, primary, epoch, slots = "master", "-", number + 1, f" {first}-{end - 1}"
    else:
        role, primary, epoch, slots = "slave", _name(_holder()), _holder() + 1, ""
    flags = f"myself,{role}" if is_itself else role
    return f"{_name(number)} 127.0.0.1:{port}@{port + BUS} {flags} {primary} 0 0 {epoch} connected{slots}"


def _name(number: int) -> str:
    return f"{number + 1:040x}"


def _holder() -> int:
    return crc_hqx(TAG.encode(), 0) % SLOTS * NODES // SLOTS
