"""The exporter and its commands on a Valkey server: the same service, and no password anywhere."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_replicas import of_store, replicas
from tests.acceptance.test_simulator import EVERY_FAULT, FAST, WINDOW
from tests.support import Exporter, running, sample, until
from tests.valkeys import DURABLE, ValkeyServer

PASSWORD = "canary-password"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server with a password."""
    with ValkeyServer(tmp_path, *DURABLE, "--requirepass", PASSWORD) as server:
        yield server


def url(server: ValkeyServer, password: str = PASSWORD) -> str:
    """Return the URL of a server with a password."""
    return f"valkey://:{password}@127.0.0.1:{server.port}/0"


def run(folder: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the store."""
    environment = {**os.environ, "CSS_RELAY_STORE_URL": url}
    command = [sys.executable, "-m", "exporter", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_commands_work_beside_the_process_that_serves(tmp_path: Path, server: ValkeyServer) -> None:
    """check, tasks and quarantine; backup and restore say what they are for."""
    assert "there is no store" in run(tmp_path, url(server), "tasks", "list").stderr
    with running(tmp_path, store__url=url(server)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        assert exporter.post(b"{}")[0] == 400
        listed = run(tmp_path, url(server), "tasks", "list").stdout.splitlines()
        assert len(listed) == 2
        appid, task_id, state = listed[1].split("\t")[:3]
        assert state == "active"
        assert "schema" in run(tmp_path, url(server), "quarantine", "list").stdout
        assert "1 purged" in run(tmp_path, url(server), "quarantine", "purge", "--all").stdout
        assert exporter.scrape().value("quarantined_callbacks") == 0
        assert "is forgotten" in run(tmp_path, url(server), "tasks", "forget", appid, task_id).stdout
        assert exporter.scrape().value("tasks") == 0
        assert exporter.scrape().value("tasks_started_total") == 1
        checked = run(tmp_path, url(server), "check")
        assert (checked.returncode, "can be written" in checked.stdout) == (0, True)
        assert PASSWORD not in checked.stdout + checked.stderr
        for words in (("backup", "copy.db"), ("restore", "copy.db")):
            done = run(tmp_path, url(server), *words)
            assert done.returncode == 1
            assert "for an embedded store" in done.stderr
            assert PASSWORD not in done.stderr


def test_the_password_may_be_in_a_file_that_others_can_not_read(tmp_path: Path, server: ValkeyServer) -> None:
    """For the server and for the commands beside it; and it is nowhere else."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o644)
    plain = f"valkey://127.0.0.1:{server.port}/0"
    refused = run(tmp_path, plain, "serve", f"--store.password-file={path}")
    assert (refused.returncode, "chmod o-rwx" in refused.stderr) == (2, True)
    path.chmod(0o600)
    with running(tmp_path, store__url=plain, store__password_file=str(path)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        listed = run(tmp_path, plain, "tasks", "list", f"--store.password-file={path}")
        assert "118148" in listed.stdout
        assert PASSWORD not in refused.stderr + listed.stdout + listed.stderr + exporter.log


def test_a_warning_of_the_server_is_given_once(tmp_path: Path) -> None:
    """Master and worker open the store, and a worker that comes later does, too."""
    with ValkeyServer(tmp_path) as server, running(tmp_path, store__url=server.url) as exporter:
        first = exporter.worker
        os.kill(first, signal.SIGKILL)
        until(lambda: exporter.worker != first, "another worker")
        until(lambda: answers(exporter), "it answers")
        assert exporter.log.count("set appendonly yes") == 1


def answers(exporter: Exporter) -> bool:
    """Whether it takes callbacks."""
    try:
        return exporter.post(sample("documented/task_start"))[0] == 200
    except OSError:
        return False


def test_a_server_that_is_gone_is_told_and_no_page_has_the_password(
    tmp_path: Path, server: ValkeyServer
) -> None:
    """503 for callbacks, not ready, a scrape without the store; and all is well when it is back."""
    with running(tmp_path, store__url=url(server)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        assert exporter.get("/-/ready")[0] == 200
        server.kill()
        status, headers, answer = exporter.post(sample("documented/task_exit"))
        assert (status, "retry-after" in headers) == (503, True)
        assert exporter.get("/-/ready")[0] == 503
        scrape = exporter.scrape()
        assert scrape.value("exporter_store_up") == 0
        assert not scrape.has("tasks")
        texts = [answer, *(exporter.get(path)[2] for path in ("/", "/-/ready", "/metrics", "/api/v1/tasks"))]
        assert PASSWORD not in b"".join(texts).decode() + exporter.log
        server.start()
        until(lambda: exporter.get("/-/ready")[0] == 200, "it is ready again")
        assert exporter.post(sample("documented/task_exit"))[0] == 200
        until(lambda: exporter.scrape().value("exporter_store_up") == 1, "the store is up again")
        assert exporter.scrape().value("tasks_exited_total") == 1
        assert PASSWORD not in exporter.log


def test_a_wrong_password_ends_the_start_with_a_line_that_does_not_tell_it(
    tmp_path: Path, server: ValkeyServer
) -> None:
    """Neither does a malformed URL."""
    done = run(tmp_path, url(server, "wr0ng-word"), "serve")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the right user and password" in done.stderr
    malformed = run(tmp_path, f"valkey://user:wr0ng-word@127.0.0.1:{server.port}/x/y", "serve")
    assert malformed.returncode == 2
    assert "CSS_RELAY_STORE_URL: expected sqlite:PATH" in malformed.stderr
    assert "wr0ng-word" not in done.stderr + malformed.stderr + done.stdout + malformed.stdout


def test_a_store_that_was_emptied_is_told_and_not_started_over(tmp_path: Path, server: ValkeyServer) -> None:
    """Until somebody restarts the exporter: then the generation of the counters is a new one."""
    with running(tmp_path, store__url=url(server)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        created = exporter.scrape().value("store_created_timestamp_seconds")
        with server.client(password=PASSWORD) as client:
            client.flushall()
        assert exporter.post(sample("documented/task_exit"))[0] == 503
        assert exporter.scrape().value("exporter_store_up") == 0
        assert b"has lost all it held" in exporter.get("/-/ready")[2]
        assert "has lost all it held; restart every exporter" in exporter.log
        exporter.stop()
        exporter.start()
        assert exporter.scrape().value("store_created_timestamp_seconds") > created
        assert exporter.scrape().value("tasks_started_total") == 0


@pytest.mark.slow
def test_a_simulation_with_every_fault_is_exact_on_another_replica(tmp_path: Path) -> None:
    """What one replica took in is shown by the other, to the last number."""
    (tmp_path / "key").write_text("canary-key\n")
    with ValkeyServer(tmp_path, *DURABLE) as server:
        flags = {"relay__reorder_window": WINDOW}
        with replicas(tmp_path, *[server.url] * 2, **flags) as (one, other):
            for seed in range(1, 3):
                done = simulated(one, other, f"--seed={seed}", f"--sign-key-file={tmp_path / 'key'}")
                assert done.returncode == 0, (seed, done.stderr)
                assert " 0 differ" in done.stderr
            assert of_store(one.scrape()) == of_store(other.scrape())


def simulated(target: Exporter, shown: Exporter, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a simulation against one replica and verify it on another."""
    command = [
        sys.executable, "-m", "exporter", "simulate",
        f"--target=http://127.0.0.1:{target.ports['callbacks']}/callbacks",
        f"--verify=http://127.0.0.1:{shown.ports['web']}/metrics",
        f"--reorder-window={WINDOW}", *FAST, *EVERY_FAULT, *flags,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)
