"""Certificates for tests, and an exporter whose web configuration file changes while it runs."""

import base64
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from tests.support import HANG_SECONDS, Exporter, until


class Authority:
    """A certificate authority of a test, with a file for each thing it makes.

    Args:
        folder: where its files are.
        name: what they are called.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def issue(self, name: str, *names: str, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> bytes:
        """Write NAME.crt and NAME.key of a certificate for some names, and return its bytes."""
        made = self._ca.issue_cert(*(names or ("127.0.0.1", "localhost")), key_type=kind)
        # Both are replaced whole, as whoever rotates certificates should.
        for suffix, text in (("key", made.private_key_pem), ("crt", made.cert_chain_pems[0])):
            text.write_to_path(self._folder / "new")
            (self._folder / "new").replace(self._folder / f"{name}.{suffix}")
        return ssl.PEM_cert_to_DER_cert((self._folder / f"{name}.crt").read_text())

    def client(self, name: str = "") -> ssl.SSLContext:
        """Return a client that believes this authority, and shows NAME's certificate if there is a name."""
        context = ssl.create_default_context(cafile=self.path)
        if name:
            context.load_cert_chain(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        return context


@contextmanager
def served(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """Yield a connection after its handshake, and after the server has had its say about it."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        if not connection.recv(1):
            raise ConnectionError("it was closed")
        yield connection


def configure(exporter: Exporter, path: Path, text: str, said: str = "file reloaded") -> None:
    """Replace the web configuration file and wait until the log says that it was noticed.

    Where the file asks for less than before, and that is to be read, the exporter is restarted.
    """
    refused = "restart to"
    before = exporter.log.count(said), exporter.log.count(refused)
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)
    until(lambda: (exporter.log.count(said), exporter.log.count(refused)) > before, f"the log says {said!r}")
    if exporter.log.count(said) == before[0]:
        assert exporter.stop() == 0
        exporter.start()


@contextmanager
def meanwhile(work: Callable[[int], None], lanes: int) -> Iterator[None]:
    """Call `work` with the number of each lane again and again, side by side, until the block ends."""
    is_over = threading.Event()

    def go_on(lane: int) -> None:
        while not is_over.wait(0.02):
            work(lane)

    threads = [threading.Thread(target=go_on, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def basic(name: str, password: str) -> str:
    """Return an Authorization header."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
