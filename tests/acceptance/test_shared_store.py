"""The exporter and its commands on a Valkey server; no output contains the password."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.commands import run
from tests.acceptance.test_replicas import replicas, store_samples
from tests.acceptance.test_simulator import EVERY_FAULT, FAST, LASTING, Clocked, assert_exact, simulate
from tests.clock import Clock
from tests.support import Exporter, running, sample, until
from tests.valkeys import DURABLE, ValkeyServer

PASSWORD = "canary-password"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """Yield a server with a password."""
    with ValkeyServer(tmp_path, *DURABLE, "--requirepass", PASSWORD) as server:
        yield server


def url(server: ValkeyServer, password: str = PASSWORD) -> str:
    """Return the URL of a server with a password."""
    return f"valkey://:{password}@127.0.0.1:{server.port}/0"


def test_the_commands_work_beside_the_process_that_serves(tmp_path: Path, server: ValkeyServer) -> None:
    """check, tasks and quarantine work; backup and restore report that they need an embedded store."""

    def output(*words: str, status: int = 0) -> str:
        text = run(tmp_path, *words, store=url(server), status=status)
        assert PASSWORD not in text
        return text

    assert "there is no store" in output("tasks", "list", status=1)
    with running(tmp_path, store__url=url(server)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        assert exporter.post(b"{}")[0] == 400
        listed = output("tasks", "list").splitlines()
        assert len(listed) == 2
        appid, task_id, state = listed[1].split("\t")[:3]
        assert state == "active"
        assert "schema" in output("quarantine", "list")
        assert "1 purged" in output("quarantine", "purge", "--all")
        assert exporter.scrape().value("quarantined_callbacks") == 0
        assert "is forgotten" in output("tasks", "forget", appid, task_id)
        assert exporter.scrape().value("tasks") == 0
        assert exporter.scrape().value("tasks_started_total") == 1
        assert "is writable" in output("check")
        for words in (("backup", "copy.db"), ("restore", "copy.db")):
            assert "need an embedded store" in output(*words, status=1)


def test_the_password_may_be_in_a_file_that_others_can_not_read(tmp_path: Path, server: ValkeyServer) -> None:
    """The file is for the exporter and for its commands; the password is in no output."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o644)
    plain, flag = f"valkey://127.0.0.1:{server.port}/0", f"--store.password-file={path}"
    error = run(tmp_path, "serve", flag, store=plain, status=2)
    assert "chmod o-rwx" in error
    path.chmod(0o600)
    with running(tmp_path, store__url=plain, store__password_file=str(path)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        listed = run(tmp_path, "tasks", "list", flag, store=plain)
        assert "118148" in listed
        assert PASSWORD not in error + listed + exporter.log


def test_a_changed_password_is_used_without_a_restart(tmp_path: Path, server: ValkeyServer) -> None:
    """503 while only the server has the new password; later workers use it even if its file is empty."""
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(f"{PASSWORD}\n")
    plain = f"valkey://127.0.0.1:{server.port}/0"
    with running(tmp_path, store__url=plain, store__password_file=str(path)) as exporter:
        first = exporter.worker
        assert exporter.post(sample("documented/task_start"))[0] == 200
        with server.client(password=PASSWORD) as client:
            client.config_set("requirepass", "canary-renewed")
            assert exporter.post(sample("documented/task_exit"))[0] == 200  # open connections stay valid
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        assert exporter.post(sample("documented/task_exit"))[0] == 503
        assert "the right user and password" in exporter.log
        path.write_text("canary-renewed\n")
        until(lambda: accepts_callbacks(exporter), "the new password is used")
        assert exporter.worker == first

        os.kill(first, signal.SIGKILL)
        until(lambda: exporter.worker != first and accepts_callbacks(exporter), "another worker")
        second = exporter.worker
        path.write_text("")
        os.kill(second, signal.SIGKILL)
        until(lambda: exporter.worker != second and accepts_callbacks(exporter), "one more worker")
        assert exporter.scrape().value("tasks_started_total") == 1
        assert "canary" not in exporter.log


def test_a_warning_of_the_server_is_given_once(tmp_path: Path) -> None:
    """The master and each worker open the store, but only one of them logs the warning."""
    with ValkeyServer(tmp_path) as server, running(tmp_path, store__url=server.url) as exporter:
        first = exporter.worker
        os.kill(first, signal.SIGKILL)
        until(lambda: exporter.worker != first, "another worker")
        until(lambda: accepts_callbacks(exporter), "it accepts callbacks")
        assert exporter.log.count("set appendonly yes") == 1


def accepts_callbacks(exporter: Exporter) -> bool:
    """Return whether the exporter accepts callbacks."""
    try:
        return exporter.post(sample("documented/task_start"))[0] == 200
    except OSError:
        return False


def test_a_stopped_server_is_reported_without_the_password(tmp_path: Path, server: ValkeyServer) -> None:
    """Callbacks and ready get 503, and a scrape lacks the store; all recovers when the server is back."""
    with running(tmp_path, store__url=url(server)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        exporter.until_ready()
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


def test_a_wrong_password_ends_the_start_and_is_not_printed(tmp_path: Path, server: ValkeyServer) -> None:
    """Neither is the password of a malformed URL."""
    output = run(tmp_path, "serve", store=url(server, "wr0ng-word"), status=1)
    assert output.count("\n") == 1
    assert "the right user and password" in output
    malformed = f"valkey://user:wr0ng-word@127.0.0.1:{server.port}/x/y"
    error = run(tmp_path, "serve", store=malformed, status=2)
    assert "CSS_RELAY_STORE_URL: expected sqlite:PATH" in error
    assert "wr0ng-word" not in output + error


def test_an_emptied_shared_store_is_reported_and_not_replaced(tmp_path: Path, server: ValkeyServer) -> None:
    """Callbacks get 503 until the exporter is restarted; the counters then have a new generation."""
    with running(tmp_path, store__url=url(server)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        created = exporter.scrape().value("store_created_timestamp_seconds")
        with server.client(password=PASSWORD) as client:
            client.flushall()
        assert exporter.post(sample("documented/task_exit"))[0] == 503
        assert exporter.scrape().value("exporter_store_up") == 0
        assert b"has lost all its data" in exporter.get("/-/ready")[2]
        assert "has lost all its data; restart every exporter" in exporter.log
        exporter.stop()
        exporter.start()
        assert exporter.scrape().value("store_created_timestamp_seconds") > created
        assert exporter.scrape().value("tasks_started_total") == 0


def test_a_simulation_with_every_fault_is_exact_on_another_replica(tmp_path: Path) -> None:
    """A replica shows exactly what the other one has accepted."""
    (tmp_path / "key").write_text("canary-key\n")
    clock = Clock(tmp_path)
    with (
        ValkeyServer(tmp_path, *DURABLE) as server,
        replicas(tmp_path, *[server.url] * 2, clock=clock, **LASTING) as (one, other),
    ):
        result = simulate(
            Clocked(one, clock),
            *FAST,
            *EVERY_FAULT,
            f"--sign-key-file={tmp_path / 'key'}",
            replica=other,
        )
        assert_exact(result, samples=200)
        assert store_samples(one.scrape()) == store_samples(other.scrape())
