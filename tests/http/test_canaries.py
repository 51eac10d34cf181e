"""No secret of a callback, of its path or its headers, is in anything that the exporter says to anybody."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from exporter.cli import main
from exporter.metrics.catalogue import LABEL_CHOICES
from exporter.protocol.events import BY_NAME
from tests.http.canaries import Canaries, Sent, planted
from tests.support import Exporter, environment_of, request, running

TOKEN, KEY = "canary-token", "canary-sign-key"
#: How a body is shown does not hang on who may send; all are shown once, and so many of those.
SHOWN_BEHIND_A_GUARD = 5
#: Two exporters: one that lets in everybody, one that knows a token and a key; both log all they can.
FLAGS = {
    "open": {"log__format": "json", "metrics__labels": ",".join(LABEL_CHOICES)},
    "guarded": {
        "log__format": "logfmt",
        "callback__token_file": "tokens",
        "callback__sign_key_file": "keys",
        "callback__trusted_proxies": "127.0.0.0/8",
    },
}


class Aviary(Struct):
    """An exporter that was sent every canary, and what it answered."""

    exporter: Exporter
    canaries: Canaries
    sent: list[Sent]
    answers: list[tuple[int, str]]

    @property
    def is_open(self) -> bool:
        """Whether it lets in everybody."""
        return "callback.token-file" not in str(self.exporter.arguments)

    def text(self, path: str, accept: str = "*/*") -> str:
        """Return an answer of the web listener, headers and body."""
        status, headers, body = self.exporter.get(path, Accept=accept)
        return f"{status} {headers} {body.decode()}"

    @property
    def flags(self) -> list[str]:
        """What a command must be told, too."""
        return [flag for flag in self.exporter.arguments if "listen-address" not in flag]

    def says(self, *words: str) -> str:
        """Return everything that a command prints; in this process, since there are many."""
        folder, said = self.exporter.folder, io.StringIO()
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            for name, value in environment_of(folder).items():
                patch.setenv(name, value)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                assert main([*words, *self.flags]) == 0, said.getvalue()
        return said.getvalue()


@pytest.fixture(scope="module", params=FLAGS)
def aviary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aviary]:
    """One exporter of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, secret in (("tokens", TOKEN), ("keys", KEY)):
        (folder / name).write_text(secret + "\n")
        (folder / name).chmod(0o600)
    with running(folder, log__level="debug", **FLAGS[request.param]) as exporter:
        plant = Canaries()
        sent = list(planted(plant))
        paths = ["/callbacks", f"/callbacks/{TOKEN}"] if request.param == "guarded" else ["/callbacks"]
        answers = [_post(exporter, plant, path, each.body) for path in paths for each in sent]
        answers += _otherwise(exporter, plant)
        yield Aviary(exporter, plant, sent, answers)


def _post(exporter: Exporter, plant: Canaries, path: str, body: bytes) -> tuple[int, str]:
    headers = {
        "Authorization": "a header: Authorization",
        "Cookie": "a header: Cookie",
        "User_Agent": "another",
    }
    planted = {name: plant(place) for name, place in headers.items()}
    forwarded = f"{plant('a header: X-Forwarded-For')}, 203.0.113.7"
    url = f"{path}?txSecret={plant('the query of a request')}"
    status, said, answer = exporter.post(body, url, X_Forwarded_For=forwarded, **planted)
    return status, f"{said} {answer.decode()}"


def _otherwise(exporter: Exporter, plant: Canaries) -> Iterator[tuple[int, str]]:
    """Ask in other ways: wrong tokens, other methods, malformed HTTP, and the web listener about it."""
    for listener in ("callbacks", "web"):
        for method, path in (
            ("POST", f"/callbacks/{plant('a wrong token')}"),
            ("GET", f"/callbacks/{plant('a wrong token, GET')}/x"),
            ("GET", f"/{plant('another path')}"),
            (plant("a method").upper(), "/callbacks"),
        ):
            status, headers, body = request(exporter.ports[listener], method, path, b"{}")
            yield status, f"{headers} {body.decode()}"
    for data in (
        f"POST /callbacks/{plant('a broken line')}\r\n\r\n",
        f"POST / HTTP/1.1\r\n{plant('a broken header')}\r\n\r\n",
        f"POST / HTTP/1.1\r\nX: y\r\nContent-Length: {plant('a broken length')}\r\n\r\n",
        f"PROXY TCP4 {plant('a broken PROXY header')} 1.1.1.1 1 1\r\n\r\n",
    ):
        yield 400, exporter.raw(data.encode()).decode()


def test_every_canary_came(aviary: Aviary) -> None:
    """Or there would be nothing to look for: good ones are taken, bad ones kept, each is where it was put."""
    assert len(aviary.canaries) > 300
    together = b"".join(each.body for each in aviary.sent).decode()
    assert len(aviary.canaries.found_in(together)) > 280
    if aviary.is_open:
        assert [status for status, _ in aviary.answers][: len(aviary.sent)] == [
            each.status for each in aviary.sent
        ]
        held = aviary.says("quarantine", "list").splitlines()[1:]
        assert len(held) > 50  # the quarantine has them


def test_no_answer_to_a_callback_has_one(aviary: Aviary) -> None:
    """Neither in its headers nor in its body."""
    assert aviary.canaries.found_in("\n".join(text for _, text in aviary.answers)) == []


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
def test_no_scrape_has_one(aviary: Aviary, accept: str) -> None:
    """In no label, with every label that can be chosen."""
    text = aviary.text("/metrics", accept)
    assert "css_relay_callbacks_total" in text
    assert aviary.canaries.found_in(text) == []


def _pages() -> Iterator[str]:
    yield from (
        "/",
        "/?q=task&sort=runs",
        "/?state=failed",
        "/?state=active&order=desc",
        "/nowhere",
        "/tasks/1/no",
    )
    yield from ("/api/v1/tasks", "/api/v1/tasks?state=failed", "/api/v1/tasks/1/no", "/api/v1/tasks?limit=x")
    yield from ("/-/ready", "/-/healthy")
    for event in BY_NAME:
        for host in "p5":
            for begin in ("/tasks", "/api/v1/tasks"):
                yield f"{begin}/1250000001/task-{event}-{host}"


def test_no_page_and_no_answer_of_the_api_has_one(aviary: Aviary) -> None:
    """Of the fleet, of a task, of what is not there."""
    for path in _pages():
        assert aviary.canaries.found_in(aviary.text(path)) == [], path


def test_the_log_has_none(aviary: Aviary) -> None:
    """In both forms, debug messages included; nor has it the exporter's own secrets."""
    assert "callback rejected" in aviary.exporter.log
    assert aviary.canaries.found_in(aviary.exporter.log) == []
    assert TOKEN not in aviary.exporter.log
    assert KEY not in aviary.exporter.log


def test_no_command_prints_one(aviary: Aviary) -> None:
    """What an operator may paste into a ticket."""
    said = aviary.says("tasks", "list") + aviary.says("tasks", "list", "failed") + aviary.says("check")
    assert "task-TaskExit-p" in said or not aviary.is_open
    assert aviary.canaries.found_in(said) == []
    for listed in _quarantine(aviary):
        assert aviary.canaries.found_in(listed, but_words=True) == []
        said += listed
    assert TOKEN not in said
    assert KEY not in said


def _quarantine(aviary: Aviary) -> Iterator[str]:
    """Yield what the commands of the quarantine show, redacted as they are by default."""
    listing = aviary.says("quarantine", "list")
    yield listing
    lines = listing.splitlines()[1:]
    for line in lines if aviary.is_open else lines[:SHOWN_BEHIND_A_GUARD]:
        yield aviary.says("quarantine", "show", line.split()[0])


def test_the_simulator_prints_none(aviary: Aviary, tmp_path: Path) -> None:
    """Neither the path it sends to, nor the user of its URL, nor the key that it signs with."""
    (tmp_path / "key").write_text(KEY)
    port = aviary.exporter.ports["callbacks"]
    target = f"http://user:{aviary.canaries('target, password')}@127.0.0.1:{port}/callbacks/{TOKEN}"
    command = [sys.executable, "-m", "exporter", "simulate", f"--target={target}", "--fast", "--tasks=2"]
    given = ("--duration=1m", f"--sign-key-file={tmp_path / 'key'}", "--fault.malformed=0.3")
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "answers: " in said
    assert aviary.canaries.found_in(said) == []
    for secret in (TOKEN, KEY, "txSecret", "token="):
        assert secret not in said
