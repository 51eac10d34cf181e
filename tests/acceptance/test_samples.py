"""The four published callbacks, byte for byte, through the whole program."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clock import Clock
from tests.support import Exporter, running, sample, until

DOCUMENTED = ("task_start", "vod_source_file_start", "vod_source_file_finish", "task_exit")
HOST = {"appid": "4", "to_host": "5000.livepush.myqcloud.com"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Yield an exporter shared by tests that use their own tasks."""
    with running(tmp_path_factory.mktemp("exporter")) as exporter:
        yield exporter


def test_documented_callbacks_are_applied_and_are_duplicates_the_second_time(
    exporter: Exporter,
) -> None:
    """The next scrape shows each one; a redelivery changes only the duplicates and the arrivals."""
    for name in DOCUMENTED:
        status, _, body = exporter.post(sample(f"documented/{name}"))
        assert (status, body) == (200, b'{"code":0}')
    scrape = exporter.scrape()
    assert scrape.value("task_state", task_id="118148", state="active") == 1
    assert scrape.value("tasks_started_total", **HOST) == 1
    assert scrape.value("files_started_total", **HOST) == 1
    assert scrape.value("files_played_total", **HOST) == 1
    assert scrape.value("file_play_seconds_count", **HOST) == 1
    assert not scrape.has("task_file_start_timestamp_seconds")
    assert scrape.has("task_file_finish_timestamp_seconds", task_id="118145")
    assert scrape.value("task_state", task_id="118145", state="active") == 1
    assert scrape.value("task_runs_total", task_id="118145") == 0
    assert scrape.value("tasks_exited_total", appid="4", code="-22", to_host="_unknown") == 1
    assert scrape.value("tasks_exited_total") == scrape.value("tasks_failed_total") == 1
    assert scrape.value("anomalies_total", kind="unattributed_exit") == 1
    assert scrape.value("tasks") == scrape.value("tasks", state="active") == 2
    assert scrape.value("callbacks_total", outcome="applied") == scrape.value("callbacks_total") == 4

    before = stable_samples(exporter)
    for name in DOCUMENTED[:1] + DOCUMENTED[2:]:
        assert exporter.post(sample(f"documented/{name}"))[0] == 200
    assert stable_samples(exporter) == before
    assert exporter.scrape().value("callbacks_total", outcome="duplicate") == 3


def stable_samples(exporter: Exporter) -> dict[object, float]:
    """Return a scrape without the counts and times of callbacks, and without the families of the process."""
    excluded = ("callbacks_total", "last_callback", "exporter_", "process_", "python_")
    return {key: v for key, v in exporter.scrape().samples.items() if not any(a in key[0] for a in excluded)}


def test_a_missing_start_is_counted_by_the_sweep(tmp_path: Path) -> None:
    """It is counted once, after the reorder window, also if the exporter is restarted in between."""
    clock = Clock(tmp_path)

    def missed_starts() -> float:
        return exporter.scrape().value("anomalies_total", kind="missed_start")

    with running(tmp_path, clock=clock) as exporter:
        for number, restart in enumerate((False, True)):
            file = sample("documented/vod_source_file_start").replace(b"118145", str(number).encode())
            assert exporter.post(file)[0] == 200
            assert missed_starts() == number
            if restart:
                assert exporter.stop() == 0
                exporter.start()
                assert missed_starts() == number
            clock.advance(200.0)
            until(lambda number=number: missed_starts() > number, "the sweep")
            assert missed_starts() == number + 1
            assert exporter.scrape().value("task_state", task_id=str(number), state="active") == 1


def test_a_start_and_its_file_show_a_latency_at_once(shared: Exporter) -> None:
    """The next scrape shows it; in OpenMetrics the task is its exemplar."""
    shared.post(sample("documented/task_start").replace(b"118148", b"118145"))
    shared.post(sample("documented/vod_source_file_start"))
    assert shared.scrape().value("start_to_file_latency_seconds_count", **HOST) == 1
    _, headers, body = shared.get("/metrics", Accept="application/openmetrics-text")
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert b'# {task_id="118145"}' in body
    assert body.endswith(b"# EOF\n")


def test_a_run_of_a_task_through_its_states(shared: Exporter) -> None:
    """After a start, a failure, a restart and a planned end the gauge shows the state."""
    body = sample("documented/task_exit").replace(b'"appid": 4', b'"appid": 4, "task_id": "118148"')

    def state() -> str:
        scrape = shared.scrape()
        states = ("active", "failed", "stopped", "lost")
        return "".join(s for s in states if scrape.value("task_state", task_id="118148", state=s))

    shared.post(sample("documented/task_start"))
    assert state() == "active"
    shared.post(body)
    assert state() == "failed"
    assert shared.scrape().has("task_exit_timestamp_seconds", task_id="118148", code="-22")
    shared.post(sample("documented/task_start"))
    assert state() == "active"
    assert not shared.scrape().has("task_exit_timestamp_seconds", task_id="118148")
    shared.post(body.replace(b"-22", b"0"))
    assert state() == "stopped"
    scrape = shared.scrape()
    assert scrape.value("tasks_restarted_total") == 1
    assert scrape.value("downtime_seconds_count") == 1
    assert scrape.value("run_seconds_count") == 2
    assert scrape.value("tasks_failed_total") == 1


def test_changed_ok_codes_apply_to_known_tasks(tmp_path: Path) -> None:
    """After a restart with another setting, the gauges of the fleet and of the task agree."""
    with running(tmp_path) as exporter:
        exporter.post(sample("derived/task_exit_full"))
        assert exporter.scrape().value("tasks", state="failed") == 1
        exporter.stop()
    with running(tmp_path, relay__ok_exit_codes="0,-22") as exporter:
        until(lambda: exporter.scrape().value("tasks", state="stopped") == 1, "a stopped task")
        scrape = exporter.scrape()
        assert scrape.value("tasks", state="failed") == 0
        assert scrape.value("task_state", state="stopped") == 1
