"""A store that is dumped and loaded under an exporter: what was counted goes on, to the last number."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exporter import cli
from exporter.config.settings import Settings
from exporter.config.store_url import parse_store
from exporter.store.protocol import QuarantineEntry, StoreOptions
from exporter.store.sqlite.file import FileLock
from exporter.store.sqlite.store import SqliteStore
from tests.acceptance import commands
from tests.acceptance.test_kill import exporter_on
from tests.support import HANG_SECONDS, Exporter, sample, until
from tests.valkeys import DURABLE, ValkeyServer

PASSWORD = "canary-password"
BODIES = (b"{", b'{"appid": 1}', b"\xff\x00")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server that loses nothing."""
    (tmp_path / "server").mkdir()
    with ValkeyServer(tmp_path / "server", *DURABLE) as server:
        yield server


def run(store: str, *words: str, status: int = 0) -> str:
    """Run a command on a store; return what it prints."""
    return commands.run(Path(), *words, store=store, status=status)


def piped(store: str, *words: str, data: bytes = b"") -> tuple[int, bytes, str]:
    """Run a command in a process of its own; return its status and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "exporter", *words],
        env={**os.environ, "CSS_RELAY_STORE_URL": store},
        input=data,
        capture_output=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


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


def test_a_scrape_is_the_same_to_the_byte_after_a_load(tmp_path: Path, server: ValkeyServer) -> None:
    """And after the way back. Redeliveries are told, pages show the same, the quarantine can be replayed."""
    file, dump = f"sqlite:{tmp_path}/relay.db", str(tmp_path / "relay.dump")
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
        assert "is in use; stop every process" in run(file, "dump", dump, status=1)
        exporter.stop()
        quarantined = run(file, "quarantine", "list")
        assert f"dumped {file} to {dump}: 23 tasks, 3 label sets, 4 bodies" in run(file, "dump", dump)
        assert f"loaded {dump} into {server.url}; the counters continue" in run(server.url, "load", dump)
        on(exporter, server.url)
        assert both(exporter) == before
        assert exporter.get("/api/v1/tasks/4/x1")[2] == listed
        assert run(server.url, "quarantine", "list") == quarantined
        assert exporter.post(_start(1, now))[0] == 200
        assert exporter.scrape().value("callbacks_total", outcome="duplicate") == 1
        assert "1 applied, 3 still_invalid" in run(server.url, "quarantine", "replay", "--all")
        assert exporter.get("/api/v1/tasks/4/x99")[0] == 200
        after = both(exporter)
        exporter.stop()
        run(server.url, "dump", dump, "--replace")
        assert "already exists; give another" in run(file, "load", dump, status=1)
        run(file, "load", dump, "--replace")
        on(exporter, file)
        assert both(exporter) == after
        assert "3 purged" in run(file, "quarantine", "purge", "--all")
    finally:
        exporter.kill()


def _refuse(url: str, body: bytes) -> None:
    """Keep a body as a program with older schemas would have."""
    with closing(
        SqliteStore(
            Path(parse_store(url).path),
            StoreOptions(fold_settings_fingerprint=Settings().fold_settings_fingerprint),
        )
    ) as store:
        store.transact(
            lambda transaction: transaction.quarantine(
                QuarantineEntry("schema", body, "::1", round(time.time(), 3))
            )
        )


def _start(number: int, at: int) -> bytes:
    fields = {"appid": 4, "event_type": 314, "callback_event": "TaskStart", "task_id": f"x{number}"}
    where = {"to_url": "rtmp://push.example.com/live/key", "event_time": at}
    return json.dumps({**fields, **where, "msg": {"task_start_time": at * 1000}}).encode()


@pytest.fixture
def filled(tmp_path: Path) -> str:
    """A store in a file, with something in its quarantine."""
    url = f"sqlite:{tmp_path}/filled.db"
    for number in range(200):
        _refuse(url, b"canary-key %d" % number)
    return url


def test_a_dump_is_for_its_owner_alone_and_replaces_nothing_unasked(tmp_path: Path, filled: str) -> None:
    """Nor ever the store itself; nothing is left of one that failed."""
    path = tmp_path / "new" / "relay.dump"
    run(filled, "dump", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert "already exists; give another path" in run(filled, "dump", str(path), status=1)
    before = path.read_bytes()
    path.write_bytes(b"another")
    run(filled, "dump", str(path), "--replace")
    assert path.read_bytes() == before
    store = Path(parse_store(filled).path)
    assert "belongs to the store itself" in run(filled, "dump", str(store), "--replace", status=1)
    assert "there is no store" in run("sqlite:/nowhere/x.db", "dump", f"{path}2", status=1)
    assert list(path.parent.iterdir()) == [path]
    assert run(filled, "dump", str(path), "--replace").count("\n") == 1


@pytest.mark.parametrize("end", ["", "-lock", "-wal", "-shm", "-journal"])
def test_no_file_of_the_store_is_written_over(tmp_path: Path, filled: str, end: str) -> None:
    """Nor one that `dump` or `backup` would have beside it for a while, nor through a link."""
    store = Path(parse_store(filled).path)
    run(filled, "tasks", "list")
    (tmp_path / "link").symlink_to(f"{store}{end}")
    before = store.read_bytes()
    for command in ("dump", "backup"):
        for path in (f"{store}{end}", str(tmp_path / "link")):
            assert "belongs to the store itself" in run(filled, command, path, "--replace", status=1)
    store.rename(f"{store}-unfinished")
    for command in ("dump", "backup"):
        assert "belongs to the store" in run(
            f"{filled}-unfinished", command, str(store), "--replace", status=1
        )
    assert Path(f"{store}-unfinished").read_bytes() == before


def test_what_is_no_file_is_not_written_over(tmp_path: Path, filled: str) -> None:
    """A folder, a pipe, a device; nor is a path taken that no file can have."""
    os.mkfifo(tmp_path / "pipe")
    for path in (".", "/", "", str(tmp_path), str(tmp_path / "pipe"), "/dev/null", "x" * 300, "/dev/null/x"):
        for command in ("dump", "backup"):
            said = run(filled, command, path, "--replace", status=1)
            assert said.startswith("css-relay-exporter: ")
            assert said.count("\n") == 1


def test_a_store_that_is_served_is_not_dumped_through_a_link(tmp_path: Path, filled: str) -> None:
    """And a load through a link makes the store where the link leads."""
    store, link, dump = Path(parse_store(filled).path), tmp_path / "link.db", str(tmp_path / "relay.dump")
    link.symlink_to(store)
    run(filled, "dump", dump)
    lock = FileLock(store, exclusive=False)
    assert "in use" in run(f"sqlite:{link}", "dump", dump, "--replace", status=1)
    assert "in use" in run(f"sqlite:{link}", "load", dump, "--replace", status=1)
    lock.release()
    run(f"sqlite:{link}", "dump", dump, "--replace")
    inode = store.stat().st_ino
    run(f"sqlite:{link}", "load", dump, "--replace")
    assert link.is_symlink()
    assert store.stat().st_ino != inode


def test_a_dump_goes_through_a_pipe(tmp_path: Path, filled: str) -> None:
    """What is said of it goes beside it; one that is cut off on its way is no store."""
    status, dump, said = piped(filled, "dump", "-")
    assert (status, said) == (
        0,
        f"dumped {filled} to -: 0 tasks, 0 label sets, 200 bodies in the quarantine\n",
    )
    other = f"sqlite:{tmp_path}/other.db"
    for cut in (dump[:-100], dump[: len(dump) // 2], b""):
        status, _, said = piped(other, "load", "-", data=cut)
        assert (status, said.count("\n")) == (1, 1)
        assert "canary" not in said
        assert not (tmp_path / "other.db").exists()
    assert piped(other, "load", "-", data=dump)[0] == 0
    assert piped(other, "dump", "-")[1] == dump


def test_a_pipe_that_closes_and_a_disk_that_is_full_end_a_dump_with_a_line(filled: str) -> None:
    """And not with a traceback."""
    _refuse(filled, b"x" * 300_000)  # more than a pipe takes unread
    for target in ("| head -c 100 > /dev/null; exit ${PIPESTATUS[0]}", "> /dev/full"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m exporter dump - {target}"],
            env={**os.environ, "CSS_RELAY_STORE_URL": filled},
            capture_output=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1
        assert b"Broken pipe" in done.stderr or b"No space left" in done.stderr


def test_a_damaged_dump_takes_the_place_of_no_store(
    tmp_path: Path, filled: str, server: ValkeyServer
) -> None:
    """Not even with --replace: it is read through before anything is given up."""
    dump, other = tmp_path / "relay.dump", f"sqlite:{tmp_path}/other.db"
    run(filled, "dump", str(dump))
    whole = dump.read_bytes()
    for url in (server.url, other):
        run(url, "load", str(dump))
        for damaged in (whole[:-10], whole.replace(b'"count":1', b'"count":2', 1), b"", b"nonsense"):
            dump.write_bytes(damaged)
            said = run(url, "load", str(dump), "--replace", status=1)
            assert str(dump) in said
            assert "canary" not in said
        dump.write_bytes(whole)
        assert piped(url, "dump", "-")[1] == whole


@pytest.mark.parametrize("kind", ["file", "server"])
def test_a_load_that_is_killed_leaves_no_half_store(
    tmp_path: Path, filled: str, server: ValkeyServer, kind: str
) -> None:
    """None at all in a file; on a server one that says so, until it is loaded again."""
    dump = piped(filled, "dump", "-")[1]
    url = server.url if kind == "server" else f"sqlite:{tmp_path}/other.db"
    process = commands.started(tmp_path, "load", "-", environment={**os.environ, "CSS_RELAY_STORE_URL": url})
    assert process.stdin is not None
    process.stdin.write(dump[: len(dump) * 3 // 4])
    process.stdin.flush()
    with server.client(encoding="latin-1") as client:
        if kind == "server":
            until(lambda: client.hlen("css-relay:{0}:held") > 0, "a part is there")
        else:
            until(lambda: any(tmp_path.glob("other.db-unfinished")), "a part is there")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == -signal.SIGKILL
    if kind == "server":
        for words in (("serve",), ("check",), ("tasks", "list"), ("dump", f"{tmp_path}/half.dump")):
            assert "is being loaded; wait until `load` ends, or run it again if it was interrupted" in run(
                url, *words, status=1
            )
    else:
        assert not (tmp_path / "other.db").exists()
    assert piped(url, "load", "-", data=dump)[0] == 0
    assert piped(url, "dump", "-")[1] == dump
    assert not any(tmp_path.glob("*unfinished*"))


def test_no_secret_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither the password, which may come in a file, nor what a dump holds."""
    (tmp_path / "server").mkdir()
    dump, word = str(tmp_path / "relay.dump"), tmp_path / "word"
    word.write_text(PASSWORD)
    word.chmod(0o600)
    with ValkeyServer(tmp_path / "server", *DURABLE, "--requirepass", PASSWORD) as server:
        url = f"valkey://127.0.0.1:{server.port}/0"
        monkeypatch.setenv("CSS_RELAY_STORE_URL", url.replace("127", f":{PASSWORD}@127", 1))
        assert cli.main(["check"]) == 0
        assert cli.main(["dump", dump]) == 0
        assert cli.main(["load", dump]) == 1
        monkeypatch.setenv("CSS_RELAY_STORE_URL", url.replace("127", ":wr0ng-word@127", 1))
        assert cli.main(["dump", dump, "--replace"]) == 1
        monkeypatch.setenv("CSS_RELAY_STORE_URL", url.replace("/0", "/1"))
        monkeypatch.setenv("CSS_RELAY_STORE_PASSWORD_FILE", str(word))
        assert cli.main(["load", dump]) == 0
        assert cli.main(["dump", f"{dump}2"]) == 0
    said = "".join(capfd.readouterr())
    assert Path(dump).read_bytes() == Path(f"{dump}2").read_bytes()
    assert "the right user and password" in said
    assert f"dumped valkey://127.0.0.1:{server.port}/0 to " in said
    for secret in (PASSWORD, "wr0ng-word", json.loads(Path(dump).read_text().splitlines()[0])["secret"]):
        assert secret not in said


@pytest.mark.parametrize("command", ["dump", "load"])
@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ((), "the following arguments are required: PATH (see css-relay-exporter {} --help)"),
        (("--replace",), "the following arguments are required: PATH (see css-relay-exporter {} --help)"),
        (("a", "b"), "unknown argument b"),
    ],
)
def test_words_that_make_no_command_are_told(
    tmp_path: Path, command: str, words: tuple[str, ...], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, and nothing is done."""
    assert cli.main([command, *words, f"--store.url=sqlite:{tmp_path}/relay.db"]) == 2
    assert capsys.readouterr().err == f"css-relay-exporter: {wrong.format(command)}\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_dump_and_no_place_for_a_store_is_named(tmp_path: Path, filled: str) -> None:
    """A folder, a file that is not there, another program's; a store without room for its folder."""
    dump = tmp_path / "relay.dump"
    run(filled, "dump", str(dump))
    for name in (tmp_path, tmp_path / "missing"):
        said = run(f"sqlite:{tmp_path}/x.db", "load", str(name), status=1)
        assert said.startswith(f"css-relay-exporter: {name}: ")
    said = run(f"sqlite:{dump}/x.db", "load", str(dump), status=1)
    assert f"{dump}/x.db: " in said
    assert "has other labels; run `load` with --metrics.labels=appid,to_host" in run(
        f"sqlite:{tmp_path}/x.db", "load", str(dump), "--metrics.labels=appid", status=1
    )
    assert not (tmp_path / "x.db").exists()
