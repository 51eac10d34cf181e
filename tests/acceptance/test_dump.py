"""`dump` and `load`: all numbers of a store continue exactly in a store of any kind."""

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
from exporter.store.protocol import StoreOptions
from exporter.store.sqlite.file import FileLock
from exporter.store.sqlite.store import SqliteStore
from exporter.store.transaction import QuarantineEntry
from tests.acceptance import commands
from tests.acceptance.test_kill import exporter_on
from tests.support import HANG_SECONDS, Exporter, sample, until
from tests.valkeys import DURABLE, ValkeyServer

PASSWORD = "canary-password"
BODIES = (b"{", b'{"appid": 1}', b"\xff\x00")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """Yield a server that writes each command to disk."""
    (tmp_path / "server").mkdir()
    with ValkeyServer(tmp_path / "server", *DURABLE) as server:
        yield server


def run(store: str, *arguments: str, status: int = 0) -> str:
    """Run a command on a store; return its output."""
    return commands.run(Path(), *arguments, store=store, status=status)


def run_process(store: str, *arguments: str, data: bytes = b"") -> tuple[int, bytes, str]:
    """Run a command in a new process; return its status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        env={**os.environ, "CSS_RELAY_STORE_URL": store},
        input=data,
        capture_output=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def store_families(exporter: Exporter, accept: str = "text/plain") -> bytes:
    """Return a scrape without the families of the process."""
    status, _, text = exporter.get("/metrics", Accept=accept)
    assert status == 200
    before, mark, _ = text.partition(b"# HELP css_relay_callbacks_rejected")
    assert mark
    return before


def both_formats(exporter: Exporter) -> tuple[bytes, bytes]:
    """Return a scrape in both_formats formats."""
    return store_families(exporter), store_families(exporter, "application/openmetrics-text; version=1.0.0")


def start_on(exporter: Exporter, url: str) -> Exporter:
    """Start the exporter on another store."""
    rest = [argument for argument in exporter.arguments if not argument.startswith("--store.url")]
    exporter.arguments = [*rest, f"--store.url={url}"]
    return exporter.start()


def test_a_scrape_is_the_same_to_the_byte_after_a_load(tmp_path: Path, server: ValkeyServer) -> None:
    """Also after the way back. Redeliveries are duplicates, the API is the same, replays work."""
    file, dump = f"sqlite:{tmp_path}/relay.db", str(tmp_path / "relay.dump")
    now = int(time.time())
    _quarantine(file, _start(99, now))
    exporter = exporter_on(tmp_path, store__url=file).start()
    try:
        documented = [
            sample(f"documented/{name}") for name in ("task_start", "vod_source_file_start", "task_exit")
        ]
        # Send a start for the task of the file. Otherwise a sweep may count missed_start between the scrapes.
        bodies = [documented[0].replace(b"118148", b"118145"), *documented]
        bodies += [_start(number, now) for number in range(20)]
        assert {exporter.post(body)[0] for body in bodies} == {200}
        assert {exporter.post(body)[0] for body in BODIES} == {400}
        before, listed = both_formats(exporter), exporter.get("/api/v1/tasks/4/x1")[2]
        assert "is in use; stop every process" in run(file, "dump", dump, status=1)
        exporter.stop()
        quarantined = run(file, "quarantine", "list")
        assert f"dumped {file} to {dump}: 23 tasks, 3 label sets, 4 bodies" in run(file, "dump", dump)
        assert f"loaded {dump} into {server.url}; the counters continue" in run(server.url, "load", dump)
        start_on(exporter, server.url)
        assert both_formats(exporter) == before
        assert exporter.get("/api/v1/tasks/4/x1")[2] == listed
        assert run(server.url, "quarantine", "list") == quarantined
        assert exporter.post(_start(1, now))[0] == 200
        assert exporter.scrape().value("callbacks_total", outcome="duplicate") == 1
        assert "1 applied, 3 still_invalid" in run(server.url, "quarantine", "replay", "--all")
        assert exporter.get("/api/v1/tasks/4/x99")[0] == 200
        after = both_formats(exporter)
        exporter.stop()
        run(server.url, "dump", dump, "--replace")
        assert "already exists; give another" in run(file, "load", dump, status=1)
        run(file, "load", dump, "--replace")
        start_on(exporter, file)
        assert both_formats(exporter) == after
        assert "3 purged" in run(file, "quarantine", "purge", "--all")
    finally:
        exporter.kill()


def _quarantine(url: str, body: bytes) -> None:
    """Quarantine a body as an exporter with older schemas would have done."""
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
    """Return the URL of a store file with 200 quarantined bodies."""
    url = f"sqlite:{tmp_path}/filled.db"
    for number in range(200):
        _quarantine(url, b"canary-key %d" % number)
    return url


def test_a_dump_is_private_and_overwrites_only_with_replace(tmp_path: Path, filled: str) -> None:
    """It never overwrites the store itself; a failed dump leaves no file."""
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
def test_no_file_of_the_store_is_overwritten(tmp_path: Path, filled: str, end: str) -> None:
    """Neither directly, nor through a link, nor by a temporary file of `dump` or `backup`."""
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


def test_paths_that_are_not_files_are_refused(tmp_path: Path, filled: str) -> None:
    """Folders, pipes, devices and impossible paths end the command with one line."""
    os.mkfifo(tmp_path / "pipe")
    for path in (".", "/", "", str(tmp_path), str(tmp_path / "pipe"), "/dev/null", "x" * 300, "/dev/null/x"):
        for command in ("dump", "backup"):
            output = run(filled, command, path, "--replace", status=1)
            assert output.startswith("css-relay-exporter: ")
            assert output.count("\n") == 1


def test_links_to_a_store_are_resolved(tmp_path: Path, filled: str) -> None:
    """The lock of the target counts, and a load replaces the target, not the link."""
    store, link, dump = (Path(parse_store(filled).path), tmp_path / "link.db", str(tmp_path / "relay.dump"))
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
    """The summary goes to stderr; a truncated dump creates no store."""
    status, dump, output = run_process(filled, "dump", "-")
    assert (status, output) == (
        0,
        f"dumped {filled} to -: 0 tasks, 0 label sets, 200 bodies in the quarantine\n",
    )
    other = f"sqlite:{tmp_path}/other.db"
    for truncated in (dump[:-100], dump[: len(dump) // 2], b""):
        status, _, output = run_process(other, "load", "-", data=truncated)
        assert (status, output.count("\n")) == (1, 1)
        assert "canary" not in output
        assert not (tmp_path / "other.db").exists()
    assert run_process(other, "load", "-", data=dump)[0] == 0
    assert run_process(other, "dump", "-")[1] == dump


def test_a_failed_write_ends_a_dump_with_one_line(filled: str) -> None:
    """A closed pipe and a full disk cause no traceback."""
    _quarantine(filled, b"x" * 300_000)  # more than fits into the buffer of a pipe
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


def test_a_damaged_dump_replaces_no_store(tmp_path: Path, filled: str, server: ValkeyServer) -> None:
    """Not even with --replace: the dump is checked completely before the old store is deleted."""
    dump, other = tmp_path / "relay.dump", f"sqlite:{tmp_path}/other.db"
    run(filled, "dump", str(dump))
    whole = dump.read_bytes()
    for url in (server.url, other):
        run(url, "load", str(dump))
        for damaged in (whole[:-10], whole.replace(b'"count":1', b'"count":2', 1), b"", b"nonsense"):
            dump.write_bytes(damaged)
            output = run(url, "load", str(dump), "--replace", status=1)
            assert str(dump) in output
            assert "canary" not in output
        dump.write_bytes(whole)
        assert run_process(url, "dump", "-")[1] == whole


@pytest.mark.parametrize("kind", ["file", "server"])
def test_a_load_that_is_killed_leaves_no_half_store(
    tmp_path: Path, filled: str, server: ValkeyServer, kind: str
) -> None:
    """A file does not exist yet; a store on a server is marked as incomplete until the next load."""
    dump = run_process(filled, "dump", "-")[1]
    url = server.url if kind == "server" else f"sqlite:{tmp_path}/other.db"
    process = commands.started(tmp_path, "load", "-", environment={**os.environ, "CSS_RELAY_STORE_URL": url})
    assert process.stdin is not None
    process.stdin.write(dump[: len(dump) * 3 // 4])
    process.stdin.flush()
    with server.client(encoding="latin-1") as client:
        if kind == "server":
            until(lambda: client.hlen("css-relay:{0}:held") > 0, "a part is loaded")
        else:
            until(lambda: any(tmp_path.glob("other.db-unfinished")), "a part is loaded")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == -signal.SIGKILL
    if kind == "server":
        for arguments in (("serve",), ("check",), ("tasks", "list"), ("dump", f"{tmp_path}/half.dump")):
            assert "is being loaded; wait until `load` ends, or run it again if it was interrupted" in run(
                url, *arguments, status=1
            )
    else:
        assert not (tmp_path / "other.db").exists()
    assert run_process(url, "load", "-", data=dump)[0] == 0
    assert run_process(url, "dump", "-")[1] == dump
    assert not any(tmp_path.glob("*unfinished*"))


def test_no_command_prints_a_password_or_the_store_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither a password from the URL or a file, nor the secret that a dump contains."""
    (tmp_path / "server").mkdir()
    dump, password_file = str(tmp_path / "relay.dump"), tmp_path / "password_file"
    password_file.write_text(PASSWORD)
    password_file.chmod(0o600)
    with ValkeyServer(tmp_path / "server", *DURABLE, "--requirepass", PASSWORD) as server:
        url = f"valkey://127.0.0.1:{server.port}/0"
        monkeypatch.setenv("CSS_RELAY_STORE_URL", url.replace("127", f":{PASSWORD}@127", 1))
        assert cli.main(["check"]) == 0
        assert cli.main(["dump", dump]) == 0
        assert cli.main(["load", dump]) == 1
        monkeypatch.setenv("CSS_RELAY_STORE_URL", url.replace("127", ":wr0ng-word@127", 1))
        assert cli.main(["dump", dump, "--replace"]) == 1
        monkeypatch.setenv("CSS_RELAY_STORE_URL", url.replace("/0", "/1"))
        monkeypatch.setenv("CSS_RELAY_STORE_PASSWORD_FILE", str(password_file))
        assert cli.main(["load", dump]) == 0
        assert cli.main(["dump", f"{dump}2"]) == 0
    output = "".join(capfd.readouterr())
    assert Path(dump).read_bytes() == Path(f"{dump}2").read_bytes()
    assert "the right user and password" in output
    assert f"dumped valkey://127.0.0.1:{server.port}/0 to " in output
    for secret in (PASSWORD, "wr0ng-word", json.loads(Path(dump).read_text().splitlines()[0])["secret"]):
        assert secret not in output


@pytest.mark.parametrize("command", ["dump", "load"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: PATH (see css-relay-exporter {} --help)"),
        (("--replace",), "the following arguments are required: PATH (see css-relay-exporter {} --help)"),
        (("a", "b"), "unknown argument b"),
    ],
)
def test_invalid_arguments_are_reported(
    tmp_path: Path, command: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line; nothing is written."""
    assert cli.main([command, *arguments, f"--store.url=sqlite:{tmp_path}/relay.db"]) == 2
    assert capsys.readouterr().err == f"css-relay-exporter: {message.format(command)}\n"
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_path_is_named(tmp_path: Path, filled: str) -> None:
    """A folder, a missing file, a store path below a file, and a dump with other labels."""
    dump = tmp_path / "relay.dump"
    run(filled, "dump", str(dump))
    for name in (tmp_path, tmp_path / "missing"):
        output = run(f"sqlite:{tmp_path}/x.db", "load", str(name), status=1)
        assert output.startswith(f"css-relay-exporter: {name}: ")
    output = run(f"sqlite:{dump}/x.db", "load", str(dump), status=1)
    assert f"{dump}/x.db: " in output
    assert "has other labels; run `load` with --metrics.labels=appid,to_host" in run(
        f"sqlite:{tmp_path}/x.db", "load", str(dump), "--metrics.labels=appid", status=1
    )
    assert not (tmp_path / "x.db").exists()
