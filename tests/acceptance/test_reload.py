"""A reload with a schema file that is broken: the service goes on as it was, and says why."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event

import pytest

from tests.support import HANG_SECONDS, Exporter, is_running, sample, until

SENDERS, RELOADS = 4, 3

ROOT = Path(__file__).parents[2]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    """An exporter with schema files of its own, not yet started."""
    for name in ("exporter", "schemas"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return Exporter(tmp_path)


def reload(exporter: Exporter) -> None:
    """Ask for a reload."""
    assert exporter.process is not None
    exporter.process.send_signal(signal.SIGHUP)


def test_a_broken_schema_file_at_a_reload_changes_nothing(exporter: Exporter) -> None:
    """The worker goes on, and so does one that takes its place; the next good reload is taken."""
    schema = exporter.folder / "schemas" / "task_start.json"
    good = schema.read_bytes()
    exporter.start()
    try:
        first = exporter.worker
        schema.write_bytes(good[:100])
        reload(exporter)
        until(lambda: "not reloaded" in exporter.log, "the refusal is logged")
        assert str(schema) in exporter.log
        assert exporter.worker == first
        assert exporter.post(sample("documented/task_start"))[0] == 200

        os.kill(first, signal.SIGKILL)
        until(lambda: exporter.worker != first and exporter.is_ready(), "another worker")
        assert exporter.post(sample("documented/task_exit"))[0] == 200

        stricter = json.loads(good) | {"required": ["no_such_field"]}
        schema.write_text(json.dumps(stricter))
        second = exporter.worker
        reload(exporter)
        until(lambda: exporter.worker != second and exporter.is_ready(), "the new schemas")
        until(lambda: exporter.post(sample("documented/task_start"))[0] == 400, "the old worker is gone")
        assert exporter.scrape().value("tasks_started_total") == 1
    finally:
        exporter.kill()


@pytest.mark.embedded
def test_a_store_that_can_not_be_opened_at_a_reload_changes_nothing(exporter: Exporter) -> None:
    """A new worker could not start; the old one answers as well as it can."""
    exporter.start()
    try:
        assert exporter.post(sample("documented/task_start"))[0] == 200
        first = exporter.worker
        store = exporter.folder / "data" / "css-relay.db"
        store.rename(store.with_name("away"))
        store.write_bytes(b"this is not a store\n" * 100)
        reload(exporter)
        until(lambda: "not reloaded" in exporter.log, "the refusal is logged")
        assert exporter.worker == first
        assert exporter.post(sample("documented/task_exit"))[0] == 503
        store.with_name("away").rename(store)
        until(lambda: exporter.post(sample("documented/task_exit"))[0] == 200, "it goes on")
    finally:
        exporter.kill()


def _sends(exporter: Exporter, done: Event, failures: list[tuple[float, str]]) -> int:
    """Send over one connection until it is done, a new one where an answer says that it closes.

    Return how many were taken; failures are told with how long the connection had waited before (seconds).
    """
    body, number, waited = sample("documented/task_start"), 0, 0.0
    while not done.is_set():
        connection = HTTPConnection("127.0.0.1", exporter.ports["callbacks"], timeout=HANG_SECONDS)
        try:
            is_last, answered = False, time.monotonic()
            while not is_last and not done.is_set():
                waited = time.monotonic() - answered
                connection.request("POST", "/callbacks", body)
                answer = connection.getresponse()
                answer.read()
                answered = time.monotonic()
                number += answer.status == 200
                is_last = answer.getheader("Connection") == "close"
        except (OSError, HTTPException) as exc:
            failures.append((waited, repr(exc)))
        connection.close()
    return number


def test_a_reload_drops_no_callback(exporter: Exporter) -> None:
    """Who sends all the time, each over one connection, is told before it closes: none meets the close."""
    exporter.start()
    try:
        done, failures = Event(), list[tuple[float, str]]()
        with ThreadPoolExecutor(SENDERS) as senders:
            sending = [senders.submit(_sends, exporter, done, failures) for _ in range(SENDERS)]
            try:
                for _ in range(RELOADS):
                    worker = exporter.worker
                    reload(exporter)
                    until(lambda: not is_running(worker), "the old worker has ended")  # noqa: B023
            finally:
                done.set()
        taken = sum(each.result() for each in sending)
        scrape = exporter.scrape()
        # A sender that stood still meanwhile, as on a busy machine, may meet it.
        assert [why for waited, why in failures if waited < 0.2] == []
        assert taken > 0
        assert 0 <= scrape.value("callbacks_total") - taken <= len(failures)
    finally:
        exporter.kill()
