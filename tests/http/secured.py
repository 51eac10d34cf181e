"""Certificates for tests, and helpers to change the web configuration file of a running exporter."""

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
    """A certificate authority for tests that writes its certificates and keys to files.

    Args:
        folder: the folder of its files.
        name: the name of the file of its own certificate, without the suffix.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def issue(self, name: str, *names: str, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> bytes:
        """Write NAME.crt and NAME.key for some host names; return the certificate in DER form."""
        made = self._ca.issue_cert(*(names or ("127.0.0.1", "localhost")), key_type=kind)
        # Rename complete files, so that the exporter never reads half a file.
        for suffix, text in (("key", made.private_key_pem), ("crt", made.cert_chain_pems[0])):
            text.write_to_path(self._folder / "new")
            (self._folder / "new").replace(self._folder / f"{name}.{suffix}")
        return ssl.PEM_cert_to_DER_cert((self._folder / f"{name}.crt").read_text())

    def client(self, name: str = "") -> ssl.SSLContext:
        """Return a client context that trusts this authority, with the certificate NAME if given."""
        context = ssl.create_default_context(cafile=self.path)
        if name:
            context.load_cert_chain(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        return context


@contextmanager
def tls_connection(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """Yield a TLS connection after the first byte of an answer.

    With TLS 1.3 the server rejects a client certificate only after the handshake of the client.
    """
    with (
        socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        if not connection.recv(1):
            raise ConnectionError("the server closed the connection")
        yield connection


def configure(exporter: Exporter, path: Path, text: str, message: str = "file reloaded") -> None:
    """Replace the web configuration file and wait until the log contains the message.

    A file that reduces the security needs a restart: then the exporter is restarted.
    """
    refusal = "restart to"
    before = exporter.log.count(message), exporter.log.count(refusal)
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)
    until(
        lambda: (exporter.log.count(message), exporter.log.count(refusal)) > before,
        f"the log contains {message!r}",
    )
    if exporter.log.count(message) == before[0]:
        assert exporter.stop() == 0
        exporter.start()


@contextmanager
def repeating(work: Callable[[int], None], threads: int) -> Iterator[None]:
    """Call `work` repeatedly in several threads, with the number of the thread, until the block ends."""
    stopped = threading.Event()

    def repeat(thread_number: int) -> None:
        while not stopped.wait(0.02):
            work(thread_number)

    started = [threading.Thread(target=repeat, args=(thread_number,)) for thread_number in range(threads)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in started:
            thread.join()


def basic(name: str, password: str) -> str:
    """Return the value of a Basic Authorization header."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
