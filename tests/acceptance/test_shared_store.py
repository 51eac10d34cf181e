"""The exporter and its commands on a Valkey server: the same service, and no password anywhere."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.commands import run
from tests.acceptance.test_replicas import of_store, replicas
from tests.acceptance.test_simulator import EVERY_FAULT, FAST, LASTING, Place, assert_exact, simulated
from tests.clock import Clock
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


def test_the_commands_work_beside_the_process_that_serves(tmp_path: Path, server: ValkeyServer) -> None:
    """check, tasks and quarantine; backup and restore say what they are for; the password is in no output."""

    def said(*words: str, status: int = 0) -> str:
        text = run(tmp_path, *words, store=url(server), status=status)
        assert PASSWORD not in text
        return text

    assert "there is no store" in said("tasks", "list", status=1)
    with running(tmp_path, store__url=url(server)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        assert exporter.post(b"{}")[0] == 400
        listed = said("tasks", "list").splitlines()
        assert len(listed) == 2
        appid, task_id, state = listed[1].split("\t")[:3]
        assert state == "active"
        assert "schema" in said("quarantine", "list")
        assert "1 purged" in said("quarantine", "purge", "--all")
        assert exporter.scrape().value("quarantined_callbacks") == 0
        assert "was deleted" in said("tasks", "forget", appid, task_id)
        assert exporter.scrape().value("tasks") == 0
        assert exporter.scrape().value("tasks_started_total") == 1
        assert "is writable" in said("check")
        for words in (("backup", "copy.db"), ("restore", "copy.db")):
            assert "need an embedded store" in said(*words, status=1)


def test_the_password_may_be_in_a_file_that_others_can_not_read(tmp_path: Path, server: ValkeyServer) -> None:
    """For the server and for the commands beside it; and it is nowhere else."""
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    path.chmod(0o644)
    plain, flag = f"valkey://127.0.0.1:{server.port}/0", f"--store.password-file={path}"
    refused = run(tmp_path, "serve", flag, store=plain, status=2)
    assert "chmod o-rwx" in refused
    path.chmod(0o600)
    with running(tmp_path, store__url=plain, store__password_file=str(path)) as exporter:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        listed = run(tmp_path, "tasks", "list", flag, store=plain)
        assert "118148" in listed
        assert PASSWORD not in refused + listed + exporter.log


def test_a_password_that_changes_is_followed_without_a_restart(tmp_path: Path, server: ValkeyServer) -> None:
    """503 while the server knows another; later workers have the new one, though its file is broken."""
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(f"{PASSWORD}\n")
    plain = f"valkey://127.0.0.1:{server.port}/0"
    with running(tmp_path, store__url=plain, store__password_file=str(path)) as exporter:
        first = exporter.worker
        assert exporter.post(sample("documented/task_start"))[0] == 200
        with server.client(password=PASSWORD) as client:
            client.config_set("requirepass", "canary-renewed")
            assert exporter.post(sample("documented/task_exit"))[0] == 200  # open connections go on
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        assert exporter.post(sample("documented/task_exit"))[0] == 503
        assert "the right user and password" in exporter.log
        path.write_text("canary-renewed\n")
        until(lambda: answers(exporter), "the new password is shown")
        assert exporter.worker == first

        os.kill(first, signal.SIGKILL)
        until(lambda: exporter.worker != first and answers(exporter), "another worker")
        second = exporter.worker
        path.write_text("")
        os.kill(second, signal.SIGKILL)
        until(lambda: exporter.worker != second and answers(exporter), "one more worker")
        assert exporter.scrape().value("tasks_started_total") == 1
        assert "canary" not in exporter.log


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


def test_a_wrong_password_ends_the_start_with_a_line_that_does_not_tell_it(
    tmp_path: Path, server: ValkeyServer
) -> None:
    """Neither does a malformed URL."""
    said = run(tmp_path, "serve", store=url(server, "wr0ng-word"), status=1)
    assert said.count("\n") == 1
    assert "the right user and password" in said
    malformed = f"valkey://user:wr0ng-word@127.0.0.1:{server.port}/x/y"
    refused = run(tmp_path, "serve", store=malformed, status=2)
    assert "CSS_RELAY_STORE_URL: expected sqlite:PATH" in refused
    assert "wr0ng-word" not in said + refused


def test_a_store_that_was_emptied_is_told_and_not_started_over(tmp_path: Path, server: ValkeyServer) -> None:
    """Until somebody restarts the exporter: then the generation of the counters is a new one."""
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
    """What one replica took in is shown by the other, to the last number."""
    (tmp_path / "key").write_text("canary-key\n")
    clock = Clock(tmp_path)
    with (
        ValkeyServer(tmp_path, *DURABLE) as server,
        replicas(tmp_path, *[server.url] * 2, clock=clock, **LASTING) as (one, other),
    ):
        done = simulated(
            Place(one, clock), *FAST, *EVERY_FAULT, f"--sign-key-file={tmp_path / 'key'}", shown=other
        )
        assert_exact(done, samples=200)
        assert of_store(one.scrape()) == of_store(other.scrape())
