"""TLS of both listeners: clients get what is asked for, and what changes without a restart."""

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

from tests.http.secured import Authority, configure, meanwhile, served
from tests.support import HANG_SECONDS, Exporter, request, running, sample, until

FILES = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
CALLBACK_TLS = {"callback__tls_cert_file": "server.crt", "callback__tls_key_file": "server.key"}
NEWEST = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Secured:
    """An exporter with TLS on both listeners, of different authorities, and clients of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "web.yml"
        self.config.write_text(FILES)
        self.ours, self.theirs = Authority(folder), Authority(folder, "other")
        self.ours.issue("server")
        self.theirs.issue("callback")
        self.exporter: Exporter

    def configure(self, more: str) -> None:
        """Have the section say more than certificate and key."""
        configure(self.exporter, self.config, FILES + more)

    def connect(self, context: ssl.SSLContext) -> AbstractContextManager[ssl.SSLSocket]:
        """Return a connection to the web listener."""
        return served(self.exporter.ports["web"], context)

    def certificate(self) -> bytes | None:
        """Return the certificate of the web listener."""
        with self.connect(self.ours.client()) as connection:
            return connection.getpeercert(binary_form=True)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One for all tests: each sets it as it needs it."""
    made = Secured(tmp_path_factory.mktemp("tls"))
    clients = {"web": made.ours.client(), "callbacks": made.theirs.client()}
    with running(
        made.folder,
        clients,
        web__config__file="web.yml",
        callback__tls_cert_file="callback.crt",
        callback__tls_key_file="callback.key",
    ) as made.exporter:
        yield made


def test_each_listener_has_a_certificate_of_its_own(secured: Secured) -> None:
    """A client that believes the one's authority does not believe the other; the newest TLS is spoken."""
    exporter = secured.exporter
    assert exporter.post(sample("documented/task_start"))[0] == 200
    assert exporter.scrape().value("tasks_started_total") >= 1
    for listener, authority in (("web", secured.theirs), ("callbacks", secured.ours)):
        with pytest.raises(ssl.SSLCertVerificationError):
            request(exporter.ports[listener], "GET", "/", tls=authority.client())
    context = secured.ours.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secured.connect(context) as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "http/1.1"


#: What the section says, and up to which version a client speaks, with what is then spoken.
VERSIONS: dict[str, dict[ssl.TLSVersion, str | None]] = {
    "": {ssl.TLSVersion.TLSv1_2: "TLSv1.2"},
    "  min_version: TLS13\n": {ssl.TLSVersion.TLSv1_3: "TLSv1.3", ssl.TLSVersion.TLSv1_2: None},
    "  max_version: TLS12\n": {ssl.TLSVersion.TLSv1_3: "TLSv1.2"},
}


@pytest.mark.parametrize("more", VERSIONS)
def test_no_version_is_spoken_but_those_allowed(secured: Secured, more: str) -> None:
    """A client that speaks none of them gets no connection."""
    secured.configure(more)
    for newest, spoken in VERSIONS[more].items():
        context = secured.ours.client()
        context.maximum_version = newest
        with answered(spoken is not None, ssl.SSLError), secured.connect(context) as connection:
            assert connection.version() == spoken


def answered(is_welcome: bool, *errors: type[Exception]) -> AbstractContextManager[object]:
    """Expect an answer, or none: TLS 1.3 tells a client what is wrong with its certificate after the fact."""
    errors = errors or (ssl.SSLError, ConnectionError)
    return contextlib.nullcontext() if is_welcome else pytest.raises(errors)


CA = "  client_ca_file: ca.pem\n"


@pytest.mark.parametrize(
    ("more", "shows_none", "shows_ours", "shows_theirs"),
    [
        ("", True, True, True),
        ("  client_auth_type: VerifyClientCertIfGiven\n" + CA, True, True, False),
        ("  client_auth_type: RequireAndVerifyClientCert\n" + CA, False, True, False),
        ("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: other.pem\n", False, False, True),
    ],
)
def test_clients_show_certificates_as_asked(
    secured: Secured, more: str, shows_none: bool, shows_ours: bool, shows_theirs: bool
) -> None:
    """Nobody gets an answer who shows none that is believed, and callbacks have nothing to do with it."""
    secured.ours.issue("prometheus", "prometheus.example")
    secured.theirs.issue("stranger", "prometheus.example")
    secured.configure(more)
    clients = (("", shows_none), ("prometheus", shows_ours), ("stranger", shows_theirs))
    for (name, is_welcome), newest in itertools.product(clients, NEWEST):
        context = secured.ours.client(name)
        context.maximum_version = newest
        with answered(is_welcome), secured.connect(context):
            pass
    assert secured.exporter.post(sample("documented/task_start"))[0] == 200


def test_a_new_certificate_is_served_and_no_callback_is_lost(secured: Secured) -> None:
    """To new connections, without a restart; open ones stay so. Its key may be of another kind."""
    secured.configure("")
    exporter = secured.exporter
    before = exporter.scrape().value("tasks_started_total")
    statuses: list[int] = []

    def send(lane: int) -> None:
        number = lane * 1_000_000 + len(statuses)
        statuses.append(exporter.post(sample("documented/task_start").replace(b"118148", b"%d" % number))[0])

    port, context = exporter.ports["callbacks"], secured.theirs.client()
    kinds = trustme.KeyType.RSA, trustme.KeyType.ECDSA
    # Before anybody is connected: to make a key takes long where a machine is slow.
    new = {f"new{kind.name}": secured.theirs.issue(f"new{kind.name}", kind=kind) for kind in kinds}
    kept = http.client.HTTPSConnection("127.0.0.1", port, timeout=HANG_SECONDS, context=context)
    kept.connect()
    kept.auto_open = False
    with contextlib.closing(kept), meanwhile(send, lanes=3):
        for name, made in new.items():
            for end in ("key", "crt"):
                (secured.folder / f"{name}.{end}").rename(secured.folder / f"callback.{end}")

            def is_served(made: bytes = made) -> bool:
                kept.request("GET", "/callbacks")
                answer = kept.getresponse()
                assert (answer.status, bool(answer.read())) == (405, True)
                with served(port, secured.theirs.client()) as connection:
                    return connection.getpeercert(binary_form=True) == made

            until(is_served, "the new certificate is served")
    assert set(statuses) == {200}
    assert exporter.scrape().value("tasks_started_total") == before + len(statuses)


def test_a_broken_certificate_leaves_the_old_one(secured: Secured) -> None:
    """The log says which field it is, and no more than once; a good one is taken again."""
    exporter, key = secured.exporter, secured.folder / "server.key"
    secured.configure("")
    old = secured.ours.issue("server")
    until(lambda: secured.certificate() == old, "it is served")
    said = "tls_server_config.key_file: does not match the certificate"
    good = key.read_text()
    secured.theirs.issue("another")
    key.write_text((secured.folder / "another.key").read_text())
    until(lambda: said in exporter.log, "the log names the field")
    assert secured.certificate() == old
    assert "PRIVATE" not in exporter.log
    key.write_text(good)
    new = secured.ours.issue("server")
    until(lambda: secured.certificate() == new, "the new one is served")
    assert exporter.log.count(said) == 1


def test_what_is_not_tls_gets_no_answer_and_no_line(secured: Secured) -> None:
    """Plain HTTP, noise, and whoever hangs up in the middle."""
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


def test_a_handshake_that_never_ends_is_ended(secured: Secured) -> None:
    """It has ten seconds, not less and not for ever, whether it has begun or not."""
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
    assert time.monotonic() - begun > 5  # an event loop that was late counts from a time that was earlier


@pytest.mark.parametrize("listener", ["web", "callbacks"])
def test_handshakes_that_never_end_leave_files_for_everything_else(tmp_path: Path, listener: str) -> None:
    """With 256 open files and 400 callers that say nothing, or half of a greeting: all is served soon."""
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
        until(lambda: is_taken(exporter), "callbacks are taken")
        until(exporter.is_ready, "operators are answered")
        assert exporter.worker == worker
        assert "Traceback" not in exporter.log


def is_taken(exporter: Exporter) -> bool:
    """Whether a callback is taken, and its caller not hung up on."""
    with contextlib.suppress(OSError):
        return exporter.post(sample("documented/task_start"))[0] == 200
    return False


def test_a_callback_whose_handshake_is_under_way_at_a_stop_is_taken(tmp_path: Path) -> None:
    """Nobody else would take it: its connection is the old worker's. Callers may not take long, though."""
    authority = Authority(tmp_path)
    authority.issue("server")
    with running(tmp_path, {"callbacks": authority.client()}, **CALLBACK_TLS) as exporter:
        until(
            lambda: finished_in_a_stop(exporter, authority.client()), "a try in which the caller was not late"
        )


def finished_in_a_stop(exporter: Exporter, context: ssl.SSLContext) -> bool:
    """Begin a handshake, stop the exporter, and send a callback; return whether that was in time."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    greeting = outgoing.read()
    assert exporter.process is not None
    with socket.create_connection(("127.0.0.1", exporter.ports["callbacks"]), timeout=HANG_SECONDS) as plain:
        plain.sendall(greeting[:20])
        assert exporter.get("/-/healthy")[0] == 200  # by now it has been read
        exporter.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        until(lambda: not is_listening(exporter.ports["callbacks"]), "it takes nobody else")
        plain.sendall(greeting[20:])
        body = sample("documented/task_start")
        head = b"POST /callbacks HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        received = exchanged(plain, client, incoming, outgoing, head + body)
        was_in_time = time.monotonic() - begun < 1
    assert exporter.process.wait(HANG_SECONDS) == 0
    exporter.start()
    if was_in_time:
        assert received.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close\r\n" in received
    return was_in_time


def is_listening(port: int) -> bool:
    """Whether anybody takes connections there."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def exchanged(
    plain: socket.socket, client: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, data: bytes
) -> bytes:
    """Finish a handshake, send something, and return what comes until the other side closes."""
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


def test_tls_to_a_plain_port_is_a_bad_request(anyone: Exporter) -> None:
    """No more than that: no 5xx, and the next one is answered."""
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
    """They have nothing to do with each other."""
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
            until(lambda: "restart to turn TLS on or off" in exporter.log, "it says so")
        assert exporter.stop() == 0


def test_why_a_handshake_failed_is_told_to_who_asks(tmp_path: Path) -> None:
    """At level debug: that a certificate is not believed, or that there is none."""
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("right")
    other = Authority(tmp_path, "other")
    other.issue("wrong")
    (tmp_path / "web.yml").write_text(FILES + "  client_auth_type: RequireAndVerifyClientCert\n" + CA)
    clients = {"web": authority.client("right")}
    with running(tmp_path, clients, web__config__file="web.yml", log__level="debug") as exporter:
        for name in ("", "wrong"):
            with answered(False), served(exporter.ports["web"], authority.client(name)):
                pass
        assert exporter.get("/-/healthy")[0] == 200
        lines = [line for line in exporter.log.splitlines() if "TLS handshake failed" in line]
    assert ["RETURN_A_CERTIFICATE" in lines[0], "VERIFY_FAILED" in lines[1], len(lines)] == [True, True, 2]
