"""A store that is moved under an exporter: what was counted before goes on after, to the last number."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exporter import cli
from exporter.settings import Settings
from exporter.store import Refused, Terms
from exporter.store.sqlite import SqliteStore
from exporter.storeurl import parse_store
from tests.acceptance import commands
from tests.acceptance.test_kill import exporter_on
from tests.support import Exporter, sample, until
from tests.valkeys import DURABLE, ValkeyServer

PASSWORD = "canary-password"
BODIES = (b"{", b'{"appid": 1}', b"\xff\x00")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server that loses nothing."""
    (tmp_path / "server").mkdir()
    with ValkeyServer(tmp_path / "server", *DURABLE) as server:
        yield server


def run(source: str, *words: str, status: int = 0) -> str:
    """Run a command on the store at `source`; return what it prints."""
    return commands.run(Path(), *words, store=source, status=status)


def shown(exporter: Exporter, accept: str = "text/plain") -> bytes:
    """Return a scrape, the process's own families apart."""
    status, _, text = exporter.get("/metrics", Accept=accept)
    assert status == 200
    before, mark, _ = text.partition(b"# HELP css_relay_callbacks_rejected")
    assert mark
    return before


def both(exporter: Exporter) -> tuple[bytes, bytes]:
    """Return a scrape in both formats."""
    return shown(exporter), shown(exporter, "application/openmetrics-text; version=1.0.0")


def on(exporter: Exporter, url: str) -> Exporter:
    """Start the exporter on another store."""
    rest = [argument for argument in exporter.arguments if not argument.startswith("--store.url")]
    exporter.arguments = [*rest, f"--store.url={url}"]
    return exporter.start()


def test_a_scrape_is_the_same_to_the_byte_after_a_move_and_after_the_way_back(
    tmp_path: Path, server: ValkeyServer
) -> None:
    """Redeliveries are told at the new place, pages show the same, and the quarantine can be replayed."""
    file = f"sqlite:{tmp_path}/relay.db"
    now = int(time.time())
    _refuse(file, _start(99, now))
    exporter = exporter_on(tmp_path, store__url=file).start()
    try:
        documented = [
            sample(f"documented/{name}") for name in ("task_start", "vod_source_file_start", "task_exit")
        ]
        # The task of the file has a start, too: that it lacks one would be told between the scrapes, or not.
        bodies = [documented[0].replace(b"118148", b"118145"), *documented]
        bodies += [_start(number, now) for number in range(20)]
        assert {exporter.post(body)[0] for body in bodies} == {200}
        assert {exporter.post(body)[0] for body in BODIES} == {400}
        before, listed = both(exporter), exporter.get("/api/v1/tasks/4/x1")[2]
        assert "is in use: stop every process" in run(file, "move", server.url, status=1)
        exporter.stop()
        quarantined = run(file, "quarantine", "list")
        said = run(file, "move", server.url)
        assert f"give --store.url={server.url} to every exporter" in said
        assert f"was moved to {server.url}: give --store.url={server.url}" in run(file, "serve", status=1)
        assert "was moved to" in run(file, "check", status=1)
        assert "was moved to" in run(file, "tasks", "list", status=1)
        on(exporter, server.url)
        assert both(exporter) == before
        assert exporter.get("/api/v1/tasks/4/x1")[2] == listed
        assert run(server.url, "quarantine", "list") == quarantined
        assert exporter.post(_start(1, now))[0] == 200
        assert exporter.scrape().value("callbacks_total", outcome="duplicate") == 1
        assert "1 applied, 3 stays" in run(server.url, "quarantine", "replay", "--all")
        assert exporter.get("/api/v1/tasks/4/x99")[0] == 200
        moved = both(exporter)
        run(server.url, "move", file, "--replace")
        assert exporter.post(_start(2, now))[0] == 503
        assert f"was moved to {file}".encode() in exporter.get("/-/ready")[2]
        until(lambda: f"moved to {file}" in exporter.log, "the log tells: it is being moved, or was")
        exporter.stop()
        on(exporter, file)
        assert both(exporter) == moved
        assert "3 purged" in run(file, "quarantine", "purge", "--all")
    finally:
        exporter.kill()


def _refuse(url: str, body: bytes) -> None:
    """Keep a body as a program with older schemas would have."""
    with closing(SqliteStore(Path(parse_store(url).path), Terms(judged_by=Settings().judged_by))) as store:
        store.transact(lambda step: step.quarantine(Refused("schema", body, "::1", round(time.time(), 3))))


def _start(number: int, at: int) -> bytes:
    fields = {"appid": 4, "event_type": 314, "callback_event": "TaskStart", "task_id": f"x{number}"}
    where = {"to_url": "rtmp://push.example.com/live/key", "event_time": at}
    return json.dumps({**fields, **where, "msg": {"task_start_time": at * 1000}}).encode()


def test_no_password_is_told_by_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor by what was moved: the URL comes by the environment, where others of the machine do not see it."""
    (tmp_path / "server").mkdir()
    file, other = f"sqlite:{tmp_path}/relay.db", f"sqlite:{tmp_path}/other.db"
    with ValkeyServer(tmp_path / "server", *DURABLE, "--requirepass", PASSWORD) as server:
        url = f"valkey://:{PASSWORD}@127.0.0.1:{server.port}/0"
        monkeypatch.setenv("CSS_RELAY_STORE_URL", file)
        assert cli.main(["check"]) == 0
        monkeypatch.setenv("CSS_RELAY_MOVE_TO", url.replace(PASSWORD, "wr0ng-word"))
        assert cli.main(["move"]) == 1
        monkeypatch.setenv("CSS_RELAY_MOVE_TO", url)
        assert cli.main(["move"]) == 0
        assert cli.main(["move", f"valkey://:{PASSWORD}@nowhere:x"]) == 2
        monkeypatch.delenv("CSS_RELAY_MOVE_TO")
        assert cli.main(["serve"]) == 1
        monkeypatch.setenv("CSS_RELAY_STORE_URL", url)
        assert cli.main(["move", file]) == 1
        assert cli.main(["move", other]) == 0
        assert cli.main(["serve"]) == 1
    said = "".join(capfd.readouterr())
    assert "the right user and password" in said
    assert f"store {file} was moved to valkey://127.0.0.1:{server.port}/0" in said
    assert f"store valkey://127.0.0.1:{server.port}/0 was moved to {other}" in said
    assert "is there already" in said
    assert PASSWORD not in said
    assert "wr0ng-word" not in said


@pytest.mark.parametrize("words", [(), ("a", "b"), ("--undo", "--replace"), ("sqlite:x", "--undo")])
def test_words_that_make_no_move_are_told(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line, and nothing is done."""
    assert cli.main(["move", *words, f"--store.url=sqlite:{tmp_path}/relay.db"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
