"""The web configuration file: passwords, headers, reloads and broken files."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from exporter import cli
from exporter.web.authentication import MAX_WAITING, NICENESS
from tests.http.secured import Authority, basic, configure, repeating
from tests.support import Answer, Exporter, running, sample, until

#: The number of callbacks, and of authorized scrapes, sent during a flood of wrong passwords.
REQUESTS = 10
PATHS = ("/metrics", "/", "/-/healthy", "/-/ready", "/api/v1/tasks", "/tasks/1/2", "/nowhere")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "sameorigin",
    "X-XSS-Protection": "1; mode=block",
}


def users(cost: int = 10, **passwords: str) -> str:
    """Return a section of users. The documentation of the exporter toolkit uses a bcrypt cost of 10."""
    hashes = {
        name: bcrypt.hashpw(text.encode(), bcrypt.gensalt(cost)).decode() for name, text in passwords.items()
    }
    return "basic_auth_users: " + json.dumps(hashes) + "\n"


class PasswordProtected:
    """An exporter with a web configuration file."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "web.yml"
        self.config.write_text(users(alice="right"))
        self.exporter: Exporter

    def configure(self, text: str, message: str = "file reloaded") -> None:
        """Replace the file, and wait for the log message."""
        configure(self.exporter, self.config, text, message)

    def get(self, path: str, name: str, password: str) -> Answer:
        """Return the answer to a GET with a user name and a password."""
        return self.exporter.get(path, Authorization=basic(name, password))


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PasswordProtected]:
    """Yield one exporter for all tests; each test configures it first."""
    made = PasswordProtected(tmp_path_factory.mktemp("guard"))
    with running(made.config.parent, web__config__file="web.yml") as made.exporter:
        yield made


def test_every_path_needs_the_right_password(protected: PasswordProtected) -> None:
    """On every path of the web listener, health included; callbacks need no password."""
    protected.configure(users(alice="right", bob="pässwörd:with colons"))
    for path in PATHS:
        status, headers, body = protected.exporter.get(path)
        assert (status, body) == (401, b"Unauthorized\n")
        assert headers["www-authenticate"].startswith('Basic realm="')
        assert protected.get(path, "alice", "wrong")[0] == 401
        assert protected.get(path, "alice", "right")[0] == (404 if path in PATHS[5:] else 200)
    assert protected.get("/metrics", "bob", "pässwörd:with colons")[0] == 200
    assert protected.get("/metrics", "bob", "right")[0] == 401
    assert protected.get("/metrics", "mallory", "right")[0] == 401
    assert protected.exporter.post(sample("documented/task_start"))[0] == 200
    assert "right" not in protected.exporter.log
    assert "$2b$" not in protected.exporter.log


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ", "Basic !!!", "Basic YWxpY2U=", "Bearer x", "basic" * 1000, "Basic /////w=="],
)
def test_a_malformed_authorization_header_is_answered_401(protected: PasswordProtected, header: str) -> None:
    """No such header causes a 5xx."""
    assert protected.exporter.get("/metrics", Authorization=header)[0] == 401


def test_the_scheme_may_be_written_in_any_case(protected: PasswordProtected) -> None:
    """RFC 9110, section 11.1: the scheme is case-insensitive."""
    protected.configure(users(alice="right"))
    for scheme in ("basic", "BASIC"):
        header = basic("alice", "right").replace("Basic", scheme)
        assert protected.exporter.get("/metrics", Authorization=header)[0] == 200


def hash_ticks(exporter: Exporter) -> int:
    """Return the CPU time of the hashing thread in clock ticks; it is the thread with the lowest priority."""
    ticks = 0
    for stat in Path(f"/proc/{exporter.worker}/task").glob("*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        if int(fields[16]) == NICENESS and stat.parent.name != str(exporter.worker):
            ticks += int(fields[11]) + int(fields[12])
    return ticks


def test_a_correct_password_is_hashed_only_once(protected: PasswordProtected) -> None:
    """Later requests with it need no hash; every wrong password is hashed."""
    protected.configure(users(12, alice="right"))

    def is_hashed(password: str) -> bool:
        before = hash_ticks(protected.exporter)
        protected.get("/-/healthy", "alice", password)
        return hash_ticks(protected.exporter) > before

    assert is_hashed("right")
    until(lambda: not is_hashed("right"), "the hashing thread is done")
    assert not any(is_hashed("right") for _ in range(5))
    assert all(is_hashed(f"wrong {number}") for number in range(2))


def test_a_flood_of_wrong_passwords_delays_neither_callbacks_nor_scrapes(
    protected: PasswordProtected,
) -> None:
    """The flood gets 401 or 429; known passwords and callbacks do not wait in the queue of hashes."""
    protected.configure(users(11, alice="right"))
    assert protected.get("/metrics", "alice", "right")[0] == 200
    statuses: list[int] = []

    def guess(thread_number: int) -> None:
        statuses.append(protected.get("/metrics", "alice", f"{thread_number}/{len(statuses)}")[0])

    with repeating(guess, threads=MAX_WAITING + 4):
        until(lambda: statuses.count(401) > 1 and statuses.count(429) > 9, "a flood")
        checked = statuses.count(401)
        for number in range(REQUESTS):
            body = sample("documented/task_start").replace(b"118148", b"%d" % (7_000 + number))
            assert protected.exporter.post(body)[0] == 200
            assert protected.get("/metrics", "alice", "right")[0] == 200
        checked = statuses.count(401) - checked
    assert set(statuses) == {401, 429}
    # In the queue each request would wait for MAX_WAITING hashes.
    assert checked < REQUESTS * MAX_WAITING


def test_users_change_without_a_restart(protected: PasswordProtected) -> None:
    """A removed user or an old password gets 401 at once, even if it was accepted before."""
    protected.configure(users(alice="right"))
    assert protected.get("/metrics", "alice", "right")[0] == 200
    protected.configure(users(alice="other"))
    assert protected.get("/metrics", "alice", "right")[0] == 401
    assert protected.get("/metrics", "alice", "other")[0] == 200
    protected.configure(users(bob="right"))
    assert protected.get("/metrics", "alice", "other")[0] == 401
    protected.configure("", "basic_auth_users: no users; restart to allow access without a password")
    assert protected.exporter.get("/metrics")[0] == 401
    assert protected.get("/metrics", "bob", "right")[0] == 200


def test_a_broken_file_changes_nothing(protected: PasswordProtected) -> None:
    """Neither does a deleted file; the log names the field."""
    protected.configure(users(alice="right"))
    protected.configure("basic_auth_users: {alice: right}", "basic_auth_users.alice: expected a bcrypt hash")
    assert protected.exporter.get("/metrics")[0] == 401
    assert protected.get("/metrics", "alice", "right")[0] == 200
    protected.configure("tls_server_config: {cert_file: a, key_file: b}", "restart to turn TLS on or off")
    protected.config.unlink()
    until(lambda: "No such file" in protected.exporter.log, "the missing file is logged")
    assert protected.exporter.get("/metrics")[0] == 401
    assert protected.get("/metrics", "alice", "right")[0] == 200


def test_configured_headers_are_on_every_answer(protected: PasswordProtected) -> None:
    """On errors too; they replace the headers of the pages."""
    plain = protected.exporter.get("/")[1]
    text = "http_server_config:\n  headers: " + json.dumps(HEADERS) + "\n"
    protected.configure(text)
    expected = {name.lower(): value for name, value in HEADERS.items()}
    for path in PATHS:
        assert expected.items() <= protected.exporter.get(path)[1].items(), path
    assert expected.items() <= protected.exporter.get("/" + "x" * 9000)[1].items()
    protected.configure(text + users(alice="right"))
    status, headers, _ = protected.exporter.get("/metrics")
    assert status == 401
    assert expected.items() <= headers.items()
    assert "x-xss-protection" not in protected.exporter.post(sample("documented/task_start"))[1]
    assert "x-xss-protection" not in plain


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with certificates and keys; one key is encrypted."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    authority.issue("good")
    authority.issue("bad")
    subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", "good.key", "-out", "locked.key"],
        cwd=folder,
        check=True,
    )
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "--web.config.file=web.yml: can't be read: No such file or directory"),
        ("users: {}", "users: is not a field of this file"),
        ("basic_auth_users: {alice: right}", "basic_auth_users.alice"),
        ("tls_server_config: {cert_file: no.crt, key_file: good.key}", "tls_server_config.cert_file: no.crt"),
        ("tls_server_config: {cert_file: good.crt, key_file: no.key}", "tls_server_config.key_file: no.key"),
        ("tls_server_config: {cert_file: web.yml, key_file: good.key}", "tls_server_config.cert_file"),
        ("tls_server_config: {cert_file: good.crt, key_file: web.yml}", "tls_server_config.key_file"),
        (
            "tls_server_config: {cert_file: good.crt, key_file: bad.key}",
            "key_file: does not match the certificate",
        ),
        (
            "tls_server_config: {cert_file: good.crt, key_file: locked.key}",
            "key_file: expected an unencrypted PEM key",
        ),
        ("tls_server_config: {cert: none, key_file: good.key}", "tls_server_config.cert: is not supported"),
        ("rate_limit: {interval: 1s, burst: 1}", "rate_limit: is not supported"),
        (
            "tls_server_config: {cert_file: good.crt, key_file: good.key, client_ca_file: no.pem,"
            " client_auth_type: RequireAndVerifyClientCert}",
            "tls_server_config.client_ca_file: no.pem",
        ),
        (
            "tls_server_config: {cert_file: good.crt, key_file: good.key, client_ca_file: good.key,"
            " client_auth_type: RequireAndVerifyClientCert}",
            "tls_server_config.client_ca_file: expected certificates",
        ),
    ],
)
@pytest.mark.parametrize("command", ["serve", "check"])
def test_an_invalid_file_ends_the_start_and_the_line_names_the_field(
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    text: str | None,
    expected: str,
) -> None:
    """The exit status is 2; `check` reports the same error."""
    monkeypatch.chdir(certificates)
    Path("web.yml").unlink(missing_ok=True)
    if text is not None:
        Path("web.yml").write_text(text)
    assert cli.main([command, "--web.config.file=web.yml"]) == 2
    error = capfd.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert "PRIVATE" not in error


@pytest.mark.parametrize(("flag", "name"), [("cert", "no.crt"), ("key", "no.key"), ("key", "bad.key")])
def test_an_invalid_file_of_the_callback_listener_is_reported_by_its_flag(
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    flag: str,
    name: str,
) -> None:
    """The exit status is 2, with one line."""
    monkeypatch.chdir(certificates)
    given = {"cert": "good.crt", "key": "good.key", flag: name}
    assert cli.main(["serve", *(f"--callback.tls-{k}-file={v}" for k, v in given.items())]) == 2
    error = capfd.readouterr().err
    assert f"--callback.tls-{flag}-file: " in error
    assert error.count("\n") == 1


def test_files_readable_by_others_are_reported_and_used(tmp_path: Path) -> None:
    """Kubernetes mounts secrets with such permissions by default."""
    authority = Authority(tmp_path)
    authority.issue("server")
    for name, mode in (("server.key", 0o644), ("web.yml", 0o640)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "web.yml").write_text(
        "tls_server_config: {cert_file: server.crt, key_file: server.key}\n" + users(alice="right")
    )
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "check", "--web.config.file=web.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert [line.rpartition("path=")[2] for line in done.stderr.splitlines()] == ["server.key"]
