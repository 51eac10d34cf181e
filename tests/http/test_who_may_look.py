"""The web listener behind its configuration file: passwords, headers, and what a broken file does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from exporter import cli
from exporter.web.authentication import MAX_WAITING, NICENESS
from tests.http.secured import Authority, basic, configure, meanwhile
from tests.support import Answer, Exporter, running, sample, until

#: So many callbacks, and as many scrapes, of those who may, beside a flood of guesses.
HONEST = 10
PATHS = ("/metrics", "/", "/-/healthy", "/-/ready", "/api/v1/tasks", "/tasks/1/2", "/nowhere")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "sameorigin",
    "X-XSS-Protection": "1; mode=block",
}


def users(cost: int = 10, **passwords: str) -> str:
    """Return a section of users; a cost of 10 is what the toolkit's page has."""
    hashes = {
        name: bcrypt.hashpw(text.encode(), bcrypt.gensalt(cost)).decode() for name, text in passwords.items()
    }
    return "basic_auth_users: " + json.dumps(hashes) + "\n"


class Guarded:
    """An exporter with a web configuration file."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "web.yml"
        self.config.write_text(users(alice="right"))
        self.exporter: Exporter

    def configure(self, text: str, said: str = "file reloaded") -> None:
        """Have the file say something else."""
        configure(self.exporter, self.config, text, said)

    def get(self, path: str, name: str, password: str) -> Answer:
        """Ask as somebody."""
        return self.exporter.get(path, Authorization=basic(name, password))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One for all tests: each sets it as it needs it."""
    made = Guarded(tmp_path_factory.mktemp("guard"))
    with running(made.config.parent, web__config__file="web.yml") as made.exporter:
        yield made


def test_nobody_looks_without_the_right_password(guarded: Guarded) -> None:
    """At any path, health included; callbacks know nothing of it."""
    guarded.configure(users(alice="right", bob="pässwörd:with colons"))
    for path in PATHS:
        status, headers, body = guarded.exporter.get(path)
        assert (status, body) == (401, b"Unauthorized\n")
        assert headers["www-authenticate"].startswith('Basic realm="')
        assert guarded.get(path, "alice", "wrong")[0] == 401
        assert guarded.get(path, "alice", "right")[0] == (404 if path in PATHS[5:] else 200)
    assert guarded.get("/metrics", "bob", "pässwörd:with colons")[0] == 200
    assert guarded.get("/metrics", "bob", "right")[0] == 401
    assert guarded.get("/metrics", "mallory", "right")[0] == 401
    assert guarded.exporter.post(sample("documented/task_start"))[0] == 200
    assert "right" not in guarded.exporter.log
    assert "$2b$" not in guarded.exporter.log


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ", "Basic !!!", "Basic YWxpY2U=", "Bearer x", "basic" * 1000, "Basic /////w=="],
)
def test_what_is_no_basic_authorization_is_answered_401(guarded: Guarded, header: str) -> None:
    """However malformed."""
    assert guarded.exporter.get("/metrics", Authorization=header)[0] == 401


def test_the_scheme_may_be_written_in_any_case(guarded: Guarded) -> None:
    """As RFC 9110 has it."""
    guarded.configure(users(alice="right"))
    for scheme in ("basic", "BASIC"):
        header = basic("alice", "right").replace("Basic", scheme)
        assert guarded.exporter.get("/metrics", Authorization=header)[0] == 200


def hashed(exporter: Exporter) -> int:
    """Return how long the thread that hashes, which yields to all others, has been at work: clock ticks."""
    ticks = 0
    for stat in Path(f"/proc/{exporter.worker}/task").glob("*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        if int(fields[16]) == NICENESS and stat.parent.name != str(exporter.worker):
            ticks += int(fields[11]) + int(fields[12])
    return ticks


def test_only_the_first_scrape_costs_a_hash(guarded: Guarded) -> None:
    """And every wrong one: for who has been let in the thread that hashes does nothing at all."""
    guarded.configure(users(12, alice="right"))

    def costs(password: str) -> bool:
        before = hashed(guarded.exporter)
        guarded.get("/-/healthy", "alice", password)
        return hashed(guarded.exporter) > before

    assert costs("right")
    until(lambda: not costs("right"), "the thread is done")
    assert not any(costs("right") for _ in range(5))
    assert all(costs(f"wrong {number}") for number in range(2))


def test_guesses_starve_neither_callbacks_nor_scrapes(guarded: Guarded) -> None:
    """A flood is turned away; whoever has been let in, and the sender, don't stand in line behind guesses."""
    guarded.configure(users(11, alice="right"))
    assert guarded.get("/metrics", "alice", "right")[0] == 200
    statuses: list[int] = []

    def guess(lane: int) -> None:
        statuses.append(guarded.get("/metrics", "alice", f"{lane}/{len(statuses)}")[0])

    with meanwhile(guess, lanes=MAX_WAITING + 4):
        until(lambda: statuses.count(401) > 1 and statuses.count(429) > 9, "a flood")
        tried = statuses.count(401)
        for number in range(HONEST):
            body = sample("documented/task_start").replace(b"118148", b"%d" % (7_000 + number))
            assert guarded.exporter.post(body)[0] == 200
            assert guarded.get("/metrics", "alice", "right")[0] == 200
        tried = statuses.count(401) - tried
    assert set(statuses) == {401, 429}
    # Behind a full line each of them would have come after sixteen guesses.
    assert tried < HONEST * MAX_WAITING


def test_users_change_without_a_restart(guarded: Guarded) -> None:
    """Whoever is no longer one is out at once, known before or not."""
    guarded.configure(users(alice="right"))
    assert guarded.get("/metrics", "alice", "right")[0] == 200
    guarded.configure(users(alice="other"))
    assert guarded.get("/metrics", "alice", "right")[0] == 401
    assert guarded.get("/metrics", "alice", "other")[0] == 200
    guarded.configure(users(bob="right"))
    assert guarded.get("/metrics", "alice", "other")[0] == 401
    guarded.configure("", "basic_auth_users: no users; restart to allow access without a password")
    assert guarded.exporter.get("/metrics")[0] == 401
    assert guarded.get("/metrics", "bob", "right")[0] == 200


def test_a_broken_file_leaves_everything_as_it_was(guarded: Guarded) -> None:
    """Also one that is gone; the log names the field."""
    guarded.configure(users(alice="right"))
    guarded.configure("basic_auth_users: {alice: right}", "basic_auth_users.alice: expected a bcrypt hash")
    assert guarded.exporter.get("/metrics")[0] == 401
    assert guarded.get("/metrics", "alice", "right")[0] == 200
    guarded.configure("tls_server_config: {cert_file: a, key_file: b}", "restart to turn TLS on or off")
    guarded.config.unlink()
    until(lambda: "No such file" in guarded.exporter.log, "it is noticed")
    assert guarded.exporter.get("/metrics")[0] == 401
    assert guarded.get("/metrics", "alice", "right")[0] == 200


def test_headers_stand_on_every_answer(guarded: Guarded) -> None:
    """On errors too, and in place of the pages' own."""
    plain = guarded.exporter.get("/")[1]
    text = "http_server_config:\n  headers: " + json.dumps(HEADERS) + "\n"
    guarded.configure(text)
    expected = {name.lower(): value for name, value in HEADERS.items()}
    for path in PATHS:
        assert expected.items() <= guarded.exporter.get(path)[1].items(), path
    assert expected.items() <= guarded.exporter.get("/" + "x" * 9000)[1].items()
    guarded.configure(text + users(alice="right"))
    status, headers, _ = guarded.exporter.get("/metrics")
    assert status == 401
    assert expected.items() <= headers.items()
    assert "x-xss-protection" not in guarded.exporter.post(sample("documented/task_start"))[1]
    assert "x-xss-protection" not in plain


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates and keys, and a key that a password locks."""
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
    ("text", "named"),
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
def test_a_wrong_file_ends_the_start_with_a_line_that_names_the_field(
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    text: str | None,
    named: str,
) -> None:
    """Status 2; `check` finds it before a restart does."""
    monkeypatch.chdir(certificates)
    Path("web.yml").unlink(missing_ok=True)
    if text is not None:
        Path("web.yml").write_text(text)
    assert cli.main([command, "--web.config.file=web.yml"]) == 2
    error = capfd.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert "PRIVATE" not in error


@pytest.mark.parametrize(("flag", "name"), [("cert", "no.crt"), ("key", "no.key"), ("key", "bad.key")])
def test_a_wrong_file_of_the_callback_listener_is_named_by_its_flag(
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    flag: str,
    name: str,
) -> None:
    """Status 2, one line."""
    monkeypatch.chdir(certificates)
    given = {"cert": "good.crt", "key": "good.key", flag: name}
    assert cli.main(["serve", *(f"--callback.tls-{k}-file={v}" for k, v in given.items())]) == 2
    error = capfd.readouterr().err
    assert f"--callback.tls-{flag}-file: " in error
    assert error.count("\n") == 1


def test_files_that_others_can_read_are_told_of_and_used(tmp_path: Path) -> None:
    """Kubernetes mounts secrets like that unless it is told otherwise."""
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
