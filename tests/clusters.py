"""A real cluster for tests: three Redis servers that share all slots, and replicas of one of them."""

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
    """Yield three servers that are a cluster, then the replicas of the one that has the store.

    They know each other from their files, as after a restart, so nobody waits for them to meet. None takes
    another for failed within minutes, however slow the machine is: a test that wants a failover commands it.
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
    """Return the server of a cluster that has the store to begin with."""
    return servers[_holder()]


def is_well(server: ValkeyServer) -> bool:
    """Whether a node finds its cluster whole."""
    with server.client() as client:
        return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


def _node(folder: Path) -> ValkeyServer:
    """Return a server that can be one of a cluster."""
    folder.mkdir()
    patience = ("--cluster-node-timeout", str(round(HANG_SECONDS * 1000)))
    options = ("--cluster-enabled", "yes", *patience, "--repl-diskless-sync-delay", "0")
    return ValkeyServer(folder, *DURABLE, *options, program=tool("redis-server"))


def _line(servers: list[ValkeyServer], number: int, *, is_itself: bool) -> str:
    """Return the line of a server in what another, or itself, knows of the cluster."""
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
