"""A store that is moved under an exporter: what was counted before goes on after, to the last number."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exporter import cli
from exporter.settings import Settings
from exporter.store import Refused, Terms
from exporter.store.sqlite import SqliteStore
from exporter.store.valkey.client import ARRIVING, META
from exporter.storeurl import parse_store
from tests.acceptance.test_kill import exporter_on
from tests.acceptance.test_simulator import EVERY_FAULT
from tests.contract.test_moving import Place, everything
from tests.contract.test_store import put, task
from tests.support import Exporter, sample, until
from tests.valkeys import DURABLE, ValkeyServer

PASSWORD = "canary-password"
#: Longer than an exporter is away while its store is moved.
WINDOW = "15s"
PACED = ("--duration=24s", "--tasks=60", "--speed=300", "--failure-every=8s", "--downtime=3s")
MANY, KILLS = 20_000, 4
BODIES = (b"{", b'{"appid": 1}', b"\xff\x00")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server that loses nothing."""
    (tmp_path / "server").mkdir()
    with ValkeyServer(tmp_path / "server", *DURABLE) as server:
        yield server


def started(source: str, *words: str) -> "subprocess.Popen[str]":
    """Start a command on the store at `source`."""
    return subprocess.Popen(
        [sys.executable, "-m", "exporter", *words],
        env={**os.environ, "CSS_RELAY_STORE_URL": source},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(source: str, *words: str, status: int = 0) -> str:
    """Run a command on the store at `source`; return what it prints."""
    process = started(source, *words)
    out, error = process.communicate(timeout=120)
    assert process.returncode == status, error
    assert "Traceback" not in error
    return out + error


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


@pytest.mark.slow
def test_a_scrape_is_the_same_to_the_byte_after_a_move_and_after_the_way_back(
    tmp_path: Path, server: ValkeyServer
) -> None:
    """Redeliveries are told at the new place, pages show the same, and the quarantine can be replayed."""
    file = f"sqlite:{tmp_path}/relay.db"
    now = int(time.time())
    _refuse(file, _start(99, now))
    exporter = exporter_on(tmp_path, store__url=file).start()
    try:
        bodies = [
            sample(f"documented/{name}") for name in ("task_start", "vod_source_file_start", "task_exit")
        ]
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
        until(lambda: f"was moved to {file}" in exporter.log, "the log tells")
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


@pytest.mark.slow
def test_a_simulation_is_exact_though_its_store_is_moved_twice(tmp_path: Path, server: ValkeyServer) -> None:
    """With every fault at once: a third of it in a file, a third on a server, the rest in a file again.

    All but malformed bodies: one that comes while no store can be written is answered 400 and not kept.
    """
    (tmp_path / "key").write_text("canary-key\n")
    file, other = f"sqlite:{tmp_path}/relay.db", f"sqlite:{tmp_path}/other.db"
    exporter = exporter_on(tmp_path, store__url=file, relay__reorder_window=WINDOW).start()
    ports = exporter.ports
    command = [
        sys.executable, "-m", "exporter", "simulate",
        f"--target=http://127.0.0.1:{ports['callbacks']}/callbacks",
        f"--verify=http://127.0.0.1:{ports['web']}/metrics",
        f"--reorder-window={WINDOW}", f"--sign-key-file={tmp_path / 'key'}", *PACED, *EVERY_FAULT,
        "--fault.malformed=0",
    ]  # fmt: skip
    try:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as fleet:
            reached = [_reached(exporter, 150)]
            exporter.stop()
            run(file, "move", server.url)
            on(exporter, server.url)
            reached.append(_reached(exporter, reached[0] + 150))
            run(server.url, "move", other)  # under its feet
            exporter.stop()
            on(exporter, other)
            _, told = fleet.communicate(timeout=120)
        assert fleet.returncode == 0, told
        assert " 0 differ" in told
        assert exporter.scrape().value("callbacks_total") > reached[1]
    finally:
        exporter.kill()


def _reached(exporter: Exporter, callbacks: float) -> float:
    """Wait until so many callbacks have come, and return how many."""
    return until(lambda: (n := exporter.scrape().value("callbacks_total")) >= callbacks and n, "callbacks")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file-server", "server-file"])
def test_a_move_that_is_killed_leaves_one_store_and_can_be_repeated(
    tmp_path: Path, server: ValkeyServer, way: str
) -> None:
    """Nothing is at the target until all is, nobody serves the source, and `--undo` is the way back."""
    chance = random.Random(20261124)
    file = f"sqlite:{tmp_path}/relay.db"
    _fill(file)
    if way == "server-file":
        run(file, "move", server.url)
    source, target = (file, server.url) if way == "file-server" else (server.url, file)
    start = everything(Place(source))
    replace = ["--replace"] if way == "server-file" else []
    kills = 0
    with server.client() as client:
        for _ in range(KILLS):
            process = started(source, "move", target, *replace)
            until(lambda: _is_under_way(client, tmp_path), "it is under way")
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
            process.communicate()
            assert everything(Place(source)) == start
            if way == "file-server":
                assert not client.exists(META)
            kills += 1
            said = run(source, "check", status=1)
            assert "is being moved to" in said
            if kills % 2:
                run(source, "move", "--undo")
                assert "can be written" in run(source, "check")
                client.delete(*(client.keys("*arriving*") or ["none"]))
                (tmp_path / "relay.db-unfinished").unlink(missing_ok=True)
    assert f"{MANY} tasks" in run(source, "move", target, *replace)
    assert everything(Place(target)) == start
    assert "can be written" in run(target, "check")


def _fill(url: str) -> None:
    terms = Terms(judged_by=Settings().judged_by)
    with closing(SqliteStore(Path(parse_store(url).path), terms)) as store:
        for first in range(0, MANY, 1000):
            store.transact(put(*(task(f"t{n}") for n in range(first, first + 1000)), due=9e9))


def _is_under_way(client: object, folder: Path) -> bool:
    has_arrived = client.exists(ARRIVING.replace("meta", "tasks"))  # type: ignore[attr-defined]
    return bool(has_arrived) or (folder / "relay.db-unfinished").exists()


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
    """With how it is called, and nothing is done."""
    assert cli.main(["move", *words, f"--store.url=sqlite:{tmp_path}/relay.db"]) == 2
    assert "expected move URL [--replace], with the URL in CSS_RELAY_MOVE_TO" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
