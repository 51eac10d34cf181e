"""SIGHUP: the worker reads its files again without a restart; broken files change nothing."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from threading import Event

import pytest

from tests.acceptance.load import Sender
from tests.acceptance.test_kill import check
from tests.http.secured import Authority
from tests.support import HANG_SECONDS, Exporter, running, sample, until

SENDERS, RELOADS = 4, 5
ROOT = Path(__file__).parents[2]
TOKEN_FLAG, CERT_FLAG, WEB_FLAG = "--callback.token-file", "--callback.tls-cert-file", "--web.config.file"


def reload(exporter: Exporter, *messages: str) -> None:
    """Send SIGHUP, and wait until each of these messages is logged once more."""
    before = {each: exporter.log.count(each) for each in messages}
    assert exporter.process is not None
    exporter.process.send_signal(signal.SIGHUP)
    for each, times in before.items():
        until(lambda: exporter.log.count(each) > times, f"the log contains {each!r}")  # noqa: B023


def read_again(flag: str) -> str:
    """Return the part of the log line for a reloaded file."""
    return f'msg="file reloaded" of={flag}'


def tokens(folder: Path, *lines: str) -> Path:
    """Write a token file."""
    path = folder / "tokens"
    path.touch(0o600)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def rewrite(path: Path, text: str) -> None:
    """Replace the content of a file with a text of the same length; keep its times."""
    found = path.stat()
    path.write_text(text)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size


def accepts(exporter: Exporter, token: str) -> bool:
    """Return whether a callback with a token is accepted."""
    return exporter.post(sample("documented/task_start"), f"/callbacks/{token}")[0] == 200


def send_until_done(exporter: Exporter, done: Event) -> int:
    """Send callbacks over one connection until `done`; return their number. No answer may close it."""
    number = 0
    port = exporter.ports["callbacks"]
    with closing(HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)) as connection:
        connection.connect()
        connection.auto_open = 0
        while not done.is_set():
            connection.request("POST", "/callbacks/token", sample("documented/task_start"))
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.getheader("Connection")) == (200, None)
            number += 1
    return number


def test_reloads_under_load_drop_no_callback_and_replace_no_worker(tmp_path: Path) -> None:
    """Connections and the worker stay. Several signals in a row may cause one reload or several."""
    path = tokens(tmp_path, "token", "old")
    with running(tmp_path, callback__token_file=str(path)) as exporter:
        worker, done = exporter.worker, Event()
        with ThreadPoolExecutor(SENDERS) as senders:
            sending = [senders.submit(send_until_done, exporter, done) for _ in range(SENDERS)]
            try:
                for _ in range(RELOADS):
                    reload(exporter, read_again(TOKEN_FLAG))
                for _ in range(10 * RELOADS):
                    reload(exporter)
                rewrite(path, "token\nnew\n")
                reload(exporter)  # signals in a row may be merged, so the number of log lines is unknown
                until(lambda: accepts(exporter, "new"), "the new token is accepted")
            finally:
                done.set()
        accepted = [each.result() for each in sending]
        assert min(accepted) > 0
        assert exporter.scrape().value("callbacks_total") == sum(accepted) + 1
        assert exporter.worker == worker


def test_a_reload_reads_files_with_unchanged_size_and_time(tmp_path: Path) -> None:
    """Some file systems do not update size or time of a changed file."""
    path = tokens(tmp_path, "old")
    with running(tmp_path, callback__token_file=str(path)) as exporter:
        rewrite(path, "new\n")
        reload(exporter, read_again(TOKEN_FLAG))
        assert accepts(exporter, "new")
        assert not accepts(exporter, "old")


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    """Return a stopped exporter with its own schema files and every kind of watched file."""
    for name in ("exporter", "schemas"):
        shutil.copytree(ROOT / name, tmp_path / name)
    authority = Authority(tmp_path)
    authority.issue("server")
    (tmp_path / "web.yml").write_text("http_server_config: {headers: {X-Frame-Options: deny}}\n")
    made = Exporter(
        tmp_path,
        callback__token_file=str(tokens(tmp_path, "token")),
        callback__tls_cert_file="server.crt",
        callback__tls_key_file="server.key",
        web__config__file="web.yml",
    )
    made.tls["callbacks"] = authority.client()
    return made


def test_broken_files_change_nothing_and_do_not_stop_a_new_worker(exporter: Exporter) -> None:
    """Each reload logs the broken files and why the previous content stays; corrected files are read."""
    watched = {"tokens": TOKEN_FLAG, "server.key": CERT_FLAG, "web.yml": WEB_FLAG}
    files = [exporter.folder / name for name in (*watched, "schemas/task_start.json")]

    def is_unchanged() -> bool:
        status = exporter.post(sample("documented/task_start"), "/callbacks/token")[0]
        return (status, exporter.get("/-/healthy")[1].get("x-frame-options")) == (200, "deny")

    exporter.start()
    try:
        first = exporter.worker
        good = [path.read_bytes() for path in files]
        for path, text in zip(files, good, strict=True):
            path.write_bytes(b"{ broken" + text[:40])
        reload(exporter, *(f"of={flag} reason=" for flag in watched.values()))
        assert is_unchanged()
        assert exporter.worker == first

        os.kill(first, signal.SIGKILL)
        until(lambda: exporter.worker != first and exporter.is_ready(), "another worker")
        assert is_unchanged()

        for path, text in zip(files, good, strict=True):
            path.write_bytes(text)
        tokens(exporter.folder, "token", "another")
        second = exporter.worker
        reload(exporter, *map(read_again, watched.values()))
        assert is_unchanged()
        assert accepts(exporter, "another")
        assert exporter.worker == second
        assert "PRIVATE" not in exporter.log
        assert exporter.stop() == 0
    finally:
        exporter.kill()


@pytest.mark.embedded
def test_a_store_whose_file_was_replaced_is_not_written_until_it_is_back(tmp_path: Path) -> None:
    """Callbacks get 503 meanwhile, also after a reload."""
    with running(tmp_path, callback__token_file=str(tokens(tmp_path, "token"))) as exporter:

        def status(name: str) -> int:
            return exporter.post(sample(f"documented/{name}"), "/callbacks/token")[0]

        assert status("task_start") == 200
        first = exporter.worker
        store = tmp_path / "data" / "css-relay.db"
        store.rename(store.with_name("away"))
        store.write_bytes(b"this is not a store\n" * 100)
        reload(exporter, read_again(TOKEN_FLAG))
        assert status("task_exit") == 503
        store.with_name("away").rename(store)
        until(lambda: status("task_exit") == 200, "callbacks are accepted again")
        assert exporter.worker == first


@contextmanager
def repeated_reloads(processes: Callable[[], list[int]]) -> Iterator[None]:
    """Send SIGHUP to processes without a pause, until the block ends."""
    stopped = Event()

    def reload_repeatedly() -> None:
        while not stopped.is_set():
            for process in processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGHUP)

    with ThreadPoolExecutor(1) as threads:
        reloading = threads.submit(reload_repeatedly)
        try:
            yield
        finally:
            stopped.set()
        reloading.result()


def test_reloads_do_not_end_a_starting_worker(tmp_path: Path) -> None:
    """A starting worker has no own handler yet; by default the signal would end it."""
    with running(tmp_path) as exporter:
        assert exporter.process is not None
        first, master = exporter.worker, exporter.process.pid
        with repeated_reloads(lambda: [master, *exporter.workers()]):
            os.kill(first, signal.SIGKILL)
            until(lambda: exporter.worker != first and exporter.is_ready(), "another worker")
        assert "was sent SIGHUP" not in exporter.log


def test_reloads_do_not_disturb_a_stop(tmp_path: Path) -> None:
    """Nothing answered 200 is lost, and the status is 0. Some service managers send SIGHUP at a stop."""
    exporter = Exporter(tmp_path).start()
    try:
        with Sender(lambda: [exporter.ports["callbacks"]], seed=4) as sender:
            sender.until_accepted(40)
            process = exporter.process
            assert process is not None
            worker = exporter.worker
            with repeated_reloads(lambda: [process.pid, worker]):
                process.terminate()
                assert process.wait(HANG_SECONDS) == 0
            exporter.start()
            sender.until_accepted(20)
        check(exporter.scrape(), sender.accepted)
        assert "Traceback" not in exporter.log
    finally:
        exporter.kill()
