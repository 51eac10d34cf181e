"""TLS of both listeners: versions, client certificates, reloads, broken and slow handshakes."""

import contextlib
import http.client
import itertools
import resource
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trustme

from tests.http.secured import Authority, configure, repeating, tls_connection
from tests.support import HANG_SECONDS, Exporter, request, running, sample, until

FILES = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
CALLBACK_TLS = {"callback__tls_cert_file": "server.crt", "callback__tls_key_file": "server.key"}
NEWEST = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Secured:
    """An exporter with TLS on both listeners, with certificates of different authorities."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "web.yml"
        self.config.write_text(FILES)
        self.web_authority, self.callback_authority = Authority(folder), Authority(folder, "other")
        self.web_authority.issue("server")
        self.callback_authority.issue("callback")
        self.exporter: Exporter

    def configure(self, more: str) -> None:
        """Add settings to the TLS section of the web configuration file, and reload it."""
        configure(self.exporter, self.config, FILES + more)

    def connect(self, context: ssl.SSLContext) -> AbstractContextManager[ssl.SSLSocket]:
        """Return a connection to the web listener."""
        return tls_connection(self.exporter.ports["web"], context)

    def certificate(self) -> bytes | None:
        """Return the certificate of the web listener."""
        with self.connect(self.web_authority.client()) as connection:
            return connection.getpeercert(binary_form=True)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Yield one exporter for all tests; each test configures it first."""
    made = Secured(tmp_path_factory.mktemp("tls"))
    clients = {"web": made.web_authority.client(), "callbacks": made.callback_authority.client()}
    with running(
        made.folder,
        clients,
        web__config__file="web.yml",
        callback__tls_cert_file="callback.crt",
        callback__tls_key_file="callback.key",
    ) as made.exporter:
        yield made


def test_each_listener_has_a_certificate_of_its_own(secured: Secured) -> None:
    """A client that trusts the authority of one listener does not trust the other; TLS 1.3 is used."""
    exporter = secured.exporter
    assert exporter.post(sample("documented/task_start"))[0] == 200
    assert exporter.scrape().value("tasks_started_total") >= 1
    for listener, authority in (("web", secured.callback_authority), ("callbacks", secured.web_authority)):
        with pytest.raises(ssl.SSLCertVerificationError):
            request(exporter.ports[listener], "GET", "/", tls=authority.client())
    context = secured.web_authority.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secured.connect(context) as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "http/1.1"


#: Settings, with the newest version of a client and the expected version; None: no connection.
VERSIONS: dict[str, dict[ssl.TLSVersion, str | None]] = {
    "": {ssl.TLSVersion.TLSv1_2: "TLSv1.2"},
    "  min_version: TLS13\n": {ssl.TLSVersion.TLSv1_3: "TLSv1.3", ssl.TLSVersion.TLSv1_2: None},
    "  max_version: TLS12\n": {ssl.TLSVersion.TLSv1_3: "TLSv1.2"},
}


@pytest.mark.parametrize("more", VERSIONS)
def test_only_allowed_tls_versions_are_accepted(secured: Secured, more: str) -> None:
    """A client without a common version gets no connection."""
    secured.configure(more)
    for newest, spoken in VERSIONS[more].items():
        context = secured.web_authority.client()
        context.maximum_version = newest
        with expect_answer(spoken is not None, ssl.SSLError), secured.connect(context) as connection:
            assert connection.version() == spoken


def expect_answer(is_accepted: bool, *errors: type[Exception]) -> AbstractContextManager[object]:
    """Expect an answer or an error. TLS 1.3 reports a bad client certificate only after the handshake."""
    errors = errors or (ssl.SSLError, ConnectionError)
    return contextlib.nullcontext() if is_accepted else pytest.raises(errors)


CA = "  client_ca_file: ca.pem\n"


@pytest.mark.parametrize(
    ("more", "accepts_none", "accepts_web", "accepts_other"),
    [
        ("", True, True, True),
        ("  client_auth_type: VerifyClientCertIfGiven\n" + CA, True, True, False),
        ("  client_auth_type: RequireAndVerifyClientCert\n" + CA, False, True, False),
        ("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: other.pem\n", False, False, True),
    ],
)
def test_client_certificates_are_verified_as_configured(
    secured: Secured, more: str, accepts_none: bool, accepts_web: bool, accepts_other: bool
) -> None:
    """A client without a trusted certificate gets no answer; the callback listener is not affected."""
    secured.web_authority.issue("prometheus", "prometheus.example")
    secured.callback_authority.issue("untrusted", "prometheus.example")
    secured.configure(more)
    clients = (("", accepts_none), ("prometheus", accepts_web), ("untrusted", accepts_other))
    for (name, is_accepted), newest in itertools.product(clients, NEWEST):
        context = secured.web_authority.client(name)
        context.maximum_version = newest
        with expect_answer(is_accepted), secured.connect(context):
            pass
    assert secured.exporter.post(sample("documented/task_start"))[0] == 200


def test_a_new_certificate_is_served_and_no_callback_is_lost(secured: Secured) -> None:
    """New connections get it without a restart, open ones go on; the type of the key may change."""
    secured.configure("")
    exporter = secured.exporter
    before = exporter.scrape().value("tasks_started_total")
    statuses: list[int] = []

    def send(thread_number: int) -> None:
        number = thread_number * 1_000_000 + len(statuses)
        statuses.append(exporter.post(sample("documented/task_start").replace(b"118148", b"%d" % number))[0])

    port, context = exporter.ports["callbacks"], secured.callback_authority.client()
    kinds = trustme.KeyType.RSA, trustme.KeyType.ECDSA
    # Make the keys before connecting. This may take longer than the idle timeout on a slow machine.
    new = {
        f"new{kind.name}": secured.callback_authority.issue(f"new{kind.name}", kind=kind) for kind in kinds
    }
    kept = http.client.HTTPSConnection("127.0.0.1", port, timeout=HANG_SECONDS, context=context)
    kept.connect()
    kept.auto_open = False
    with contextlib.closing(kept), repeating(send, threads=3):
        for name, made in new.items():
            for end in ("key", "crt"):
                (secured.folder / f"{name}.{end}").rename(secured.folder / f"callback.{end}")

            def is_served(made: bytes = made) -> bool:
                kept.request("GET", "/callbacks")
                answer = kept.getresponse()
                assert (answer.status, bool(answer.read())) == (405, True)
                with tls_connection(port, secured.callback_authority.client()) as connection:
                    return connection.getpeercert(binary_form=True) == made

            until(is_served, "the new certificate is served")
    assert set(statuses) == {200}
    assert exporter.scrape().value("tasks_started_total") == before + len(statuses)


def test_a_broken_certificate_does_not_replace_the_old_one(secured: Secured) -> None:
    """The log names the field once; a good certificate is loaded again afterwards."""
    exporter, key = secured.exporter, secured.folder / "server.key"
    secured.configure("")
    old = secured.web_authority.issue("server")
    until(lambda: secured.certificate() == old, "it is served")
    message = "tls_server_config.key_file: does not match the certificate"
    good = key.read_text()
    secured.callback_authority.issue("another")
    key.write_text((secured.folder / "another.key").read_text())
    until(lambda: message in exporter.log, "the log names the field")
    assert secured.certificate() == old
    assert "PRIVATE" not in exporter.log
    key.write_text(good)
    new = secured.web_authority.issue("server")
    until(lambda: secured.certificate() == new, "the new one is served")
    assert exporter.log.count(message) == 1


def test_bytes_that_are_not_tls_get_no_answer_and_no_log_line(secured: Secured) -> None:
    """Plain HTTP, noise, and connections closed during the handshake."""
    secured.configure("")
    lines = secured.exporter.log.count("\n")
    for port in secured.exporter.ports.values():
        for noise in (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01" + b"\xff" * 500,
            b"\0" * 70000,
            b"",
        ):
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as connection:
                    connection.sendall(noise)
                    connection.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionError):
                        assert b"HTTP/1.1" not in connection.recv(65536)
    assert secured.exporter.get("/-/healthy")[0] == 200
    assert secured.exporter.post(sample("documented/task_start"))[0] == 200
    assert secured.exporter.log.count("\n") == lines


def test_an_unfinished_handshake_times_out(secured: Secured) -> None:
    """The limit is ten seconds, whether or not the handshake has begun."""
    secured.configure("")
    begun = time.monotonic()
    waiting = [
        socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS)
        for port in secured.exporter.ports.values()
    ]
    waiting[0].sendall(b"\x16\x03\x01\x02\x00\x01")
    for connection in waiting:
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        connection.close()
    assert (
        time.monotonic() - begun > 5
    )  # half the limit: a late event loop starts the limit from an earlier time


@pytest.mark.parametrize("listener", ["web", "callbacks"])
def test_unfinished_handshakes_do_not_use_up_the_open_files(tmp_path: Path, listener: str) -> None:
    """With 256 open files, 400 silent or half-done handshakes delay other clients only for a short time."""
    authority = Authority(tmp_path)
    authority.issue("server")
    (tmp_path / "web.yml").write_text(FILES)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    exporter = Exporter(tmp_path, preexec=limit, web__config__file="web.yml", **CALLBACK_TLS)
    exporter.tls = dict.fromkeys(("web", "callbacks"), authority.client())
    with contextlib.ExitStack() as ended:
        ended.callback(exporter.kill)
        exporter.start()
        worker = exporter.worker
        for number in range(400):
            address = "127.0.0.1", exporter.ports[listener]
            silent = ended.enter_context(socket.create_connection(address, timeout=HANG_SECONDS))
            silent.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 2 * 6])
        if listener == "callbacks":
            for _ in range(5):
                assert exporter.scrape().value("exporter_store_up") == 1
            assert exporter.scrape().samples[("process_open_fds", frozenset())] < 256
        until(lambda: is_callback_accepted(exporter), "callbacks are accepted")
        until(exporter.is_ready, "operators are answered")
        assert exporter.worker == worker
        assert "Traceback" not in exporter.log


def is_callback_accepted(exporter: Exporter) -> bool:
    """Return whether a callback is answered 200; False also if the connection is closed."""
    with contextlib.suppress(OSError):
        return exporter.post(sample("documented/task_start"))[0] == 200
    return False


def test_a_callback_is_accepted_if_its_handshake_began_before_a_stop(tmp_path: Path) -> None:
    """The stopping worker still serves this connection, if the client finishes within a second."""
    authority = Authority(tmp_path)
    authority.issue("server")
    with running(tmp_path, {"callbacks": authority.client()}, **CALLBACK_TLS) as exporter:
        until(
            lambda: finish_during_stop(exporter, authority.client()),
            "a try in which the client was fast enough",
        )


def finish_during_stop(exporter: Exporter, context: ssl.SSLContext) -> bool:
    """Begin a handshake, stop the exporter, send a callback; return whether the client was fast enough."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    greeting = outgoing.read()
    assert exporter.process is not None
    with socket.create_connection(("127.0.0.1", exporter.ports["callbacks"]), timeout=HANG_SECONDS) as plain:
        plain.sendall(greeting[:20])
        assert exporter.get("/-/healthy")[0] == 200  # the worker has read the part by now
        exporter.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        until(lambda: not is_listening(exporter.ports["callbacks"]), "it accepts no new connection")
        plain.sendall(greeting[20:])
        body = sample("documented/task_start")
        head = b"POST /callbacks HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        received = exchange(plain, client, incoming, outgoing, head + body)
        was_in_time = time.monotonic() - begun < 1
    assert exporter.process.wait(HANG_SECONDS) == 0
    exporter.start()
    if was_in_time:
        assert received.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close\r\n" in received
    return was_in_time


def is_listening(port: int) -> bool:
    """Return whether a port accepts connections."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def exchange(
    plain: socket.socket, client: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, data: bytes
) -> bytes:
    """Finish a handshake, send data, and return all bytes received until the connection is closed."""
    received, is_done = b"", False
    while True:
        try:
            if not is_done:
                client.do_handshake()
                client.write(data)
                is_done = True
            part = client.read()
            received += part
            if not part:
                return received
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            incoming.write(plain.recv(65536))


def test_a_tls_handshake_to_a_plain_listener_fails(anyone: Exporter) -> None:
    """The handshake fails, nothing is logged as an error, and the next request is answered."""
    context = ssl.create_default_context()
    for listener, port in anyone.ports.items():
        with (
            socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as plain,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(plain, server_hostname=listener)
    assert anyone.get("/-/healthy")[0] == 200
    assert "Traceback" not in anyone.log


@pytest.mark.parametrize("listener", ["web", "callbacks"])
def test_one_listener_may_have_tls_and_the_other_not(tmp_path: Path, listener: str) -> None:
    """TLS of one listener does not affect the other; TLS cannot be turned off by a reload."""
    authority = Authority(tmp_path)
    authority.issue("server")
    (tmp_path / "web.yml").write_text(FILES)
    flags = {
        "web": {"web__config__file": "web.yml"},
        "callbacks": CALLBACK_TLS,
    }
    with running(tmp_path, {listener: authority.client()}, **flags[listener]) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        assert exporter.scrape().value("tasks_started_total") == 1
        if listener == "web":
            (tmp_path / "web.yml").write_text("")
            until(lambda: "restart to turn TLS on or off" in exporter.log, "the refused change is logged")
        assert exporter.stop() == 0


def test_the_cause_of_a_failed_handshake_is_logged_at_debug(tmp_path: Path) -> None:
    """The log line says that the client certificate is missing, or is not trusted."""
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("right")
    other = Authority(tmp_path, "other")
    other.issue("wrong")
    (tmp_path / "web.yml").write_text(FILES + "  client_auth_type: RequireAndVerifyClientCert\n" + CA)
    clients = {"web": authority.client("right")}
    with running(tmp_path, clients, web__config__file="web.yml", log__level="debug") as exporter:
        for name in ("", "wrong"):
            with expect_answer(False), tls_connection(exporter.ports["web"], authority.client(name)):
                pass
        assert exporter.get("/-/healthy")[0] == 200
        lines = [line for line in exporter.log.splitlines() if "TLS handshake failed" in line]
    assert ["RETURN_A_CERTIFICATE" in lines[0], "VERIFY_FAILED" in lines[1], len(lines)] == [True, True, 2]
