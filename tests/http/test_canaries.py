"""No answer, page, metric, log line or command output contains a secret of a callback."""

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
from tests.http.canaries import Canaries, SentBody, bodies_with_canaries
from tests.support import Exporter, environment_of, request, running

TOKEN, KEY = "canary-token", "canary-sign-key"
#: How many quarantined bodies the restricted exporter shows. The open one shows all, in the same way.
SHOWN_WITH_TOKEN = 5
#: Two exporters: one accepts every caller, one has a token and a sign key.
FLAGS = {
    "open": {"log__format": "json", "metrics__labels": ",".join(LABEL_CHOICES)},
    "restricted": {
        "log__format": "logfmt",
        "callback__token_file": "tokens",
        "callback__sign_key_file": "keys",
        "callback__trusted_proxies": "127.0.0.0/8",
    },
}


class CanaryRun(Struct):
    """An exporter that received every canary, and its answers."""

    exporter: Exporter
    canaries: Canaries
    sent: list[SentBody]
    answers: list[tuple[int, str]]

    @property
    def is_open(self) -> bool:
        """Return whether the exporter accepts every caller."""
        return "callback.token-file" not in str(self.exporter.arguments)

    def text(self, path: str, accept: str = "*/*") -> str:
        """Return the status, headers and body of an answer of the web listener."""
        status, headers, body = self.exporter.get(path, Accept=accept)
        return f"{status} {headers} {body.decode()}"

    @property
    def flags(self) -> list[str]:
        """Return the flags that commands need, too."""
        return [flag for flag in self.exporter.arguments if "listen-address" not in flag]

    def output_of(self, *arguments: str) -> str:
        """Run a command in this process, because there are many; return its output."""
        folder, output = self.exporter.folder, io.StringIO()
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            for name, value in environment_of(folder).items():
                patch.setenv(name, value)
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                assert main([*arguments, *self.flags]) == 0, output.getvalue()
        return output.getvalue()


@pytest.fixture(scope="module", params=FLAGS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CanaryRun]:
    """Yield an exporter of each kind, after it received all requests."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, secret in (("tokens", TOKEN), ("keys", KEY)):
        (folder / name).write_text(secret + "\n")
        (folder / name).chmod(0o600)
    with running(folder, log__level="debug", **FLAGS[request.param]) as exporter:
        plant = Canaries()
        sent = list(bodies_with_canaries(plant))
        paths = ["/callbacks", f"/callbacks/{TOKEN}"] if request.param == "restricted" else ["/callbacks"]
        answers = [_post(exporter, plant, path, each.body) for path in paths for each in sent]
        answers += _malformed_requests(exporter, plant)
        yield CanaryRun(exporter, plant, sent, answers)


def _post(exporter: Exporter, plant: Canaries, path: str, body: bytes) -> tuple[int, str]:
    headers = {
        "Authorization": "a header: Authorization",
        "Cookie": "a header: Cookie",
        "User_Agent": "another",
    }
    planted = {name: plant(place) for name, place in headers.items()}
    forwarded = f"{plant('a header: X-Forwarded-For')}, 203.0.113.7"
    url = f"{path}?txSecret={plant('the query of a request')}"
    status, output, answer = exporter.post(body, url, X_Forwarded_For=forwarded, **planted)
    return status, f"{output} {answer.decode()}"


def _malformed_requests(exporter: Exporter, plant: Canaries) -> Iterator[tuple[int, str]]:
    """Send wrong tokens, other methods and malformed HTTP to both listeners; yield the answers."""
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


def test_every_canary_was_sent(run: CanaryRun) -> None:
    """Otherwise the other tests prove nothing: valid callbacks are accepted, rejected ones quarantined."""
    assert len(run.canaries) > 300
    together = b"".join(each.body for each in run.sent).decode()
    assert len(run.canaries.found_in(together)) > 280
    if run.is_open:
        assert [status for status, _ in run.answers][: len(run.sent)] == [each.status for each in run.sent]
        quarantined = run.output_of("quarantine", "list").splitlines()[1:]
        assert len(quarantined) > 50


def test_no_answer_to_a_callback_contains_a_canary(run: CanaryRun) -> None:
    """Neither its headers nor its body."""
    assert run.canaries.found_in("\n".join(text for _, text in run.answers)) == []


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
def test_no_scrape_contains_a_canary(run: CanaryRun, accept: str) -> None:
    """No label does, with every label that can be chosen."""
    text = run.text("/metrics", accept)
    assert "css_relay_callbacks_total" in text
    assert run.canaries.found_in(text) == []


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
            for prefix in ("/tasks", "/api/v1/tasks"):
                yield f"{prefix}/1250000001/task-{event}-{host}"


def test_no_page_or_api_answer_contains_a_canary(run: CanaryRun) -> None:
    """Pages of the fleet, of tasks and of unknown tasks."""
    for path in _pages():
        assert run.canaries.found_in(run.text(path)) == [], path


def test_the_log_contains_no_canary(run: CanaryRun) -> None:
    """In both formats, at level debug; nor does it contain the secrets of the exporter."""
    assert "callback rejected" in run.exporter.log
    assert run.canaries.found_in(run.exporter.log) == []
    assert TOKEN not in run.exporter.log
    assert KEY not in run.exporter.log


def test_no_command_prints_a_canary(run: CanaryRun) -> None:
    """An operator may paste any output into a ticket."""
    output = (
        run.output_of("tasks", "list") + run.output_of("tasks", "list", "failed") + run.output_of("check")
    )
    assert "task-TaskExit-p" in output or not run.is_open
    assert run.canaries.found_in(output) == []
    for listed in _quarantine(run):
        assert run.canaries.found_in(listed, except_words=True) == []
        output += listed
    assert TOKEN not in output
    assert KEY not in output


def _quarantine(run: CanaryRun) -> Iterator[str]:
    """Yield the output of `quarantine list` and `quarantine show`, redacted by default."""
    listing = run.output_of("quarantine", "list")
    yield listing
    lines = listing.splitlines()[1:]
    for line in lines if run.is_open else lines[:SHOWN_WITH_TOKEN]:
        yield run.output_of("quarantine", "show", line.split()[0])


def test_the_simulator_prints_no_secret(run: CanaryRun, tmp_path: Path) -> None:
    """Neither the path and the password of its target nor its sign key."""
    (tmp_path / "key").write_text(KEY)
    port = run.exporter.ports["callbacks"]
    target = f"http://user:{run.canaries('target, password')}@127.0.0.1:{port}/callbacks/{TOKEN}"
    command = [sys.executable, "-m", "exporter", "simulate", f"--target={target}", "--fast", "--tasks=2"]
    options = ("--duration=1m", f"--sign-key-file={tmp_path / 'key'}", "--fault.malformed=0.3")
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert "answers: " in output
    assert run.canaries.found_in(output) == []
    for secret in (TOKEN, KEY, "txSecret", "token="):
        assert secret not in output
