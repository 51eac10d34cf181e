"""The four published callbacks, to the byte, through the whole program."""

from pathlib import Path

import pytest

from tests.support import Exporter, running, sample, until

DOCUMENTED = ("task_start", "vod_source_file_start", "vod_source_file_finish", "task_exit")
HOST = {"appid": "4", "to_host": "5000.livepush.myqcloud.com"}


def test_the_documented_callbacks_show_what_they_say(exporter: Exporter) -> None:
    """Each is answered {"code":0}; the scrape that follows shows each of them."""
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


def test_sent_again_they_are_duplicates(exporter: Exporter) -> None:
    """The whole scrape is the same but for duplicates, arrivals and this process's own numbers."""

    def shown() -> dict[object, float]:
        apart = ("callbacks_total", "last_callback", "exporter_", "process_", "python_")
        return {key: v for key, v in exporter.scrape().samples.items() if not any(a in key[0] for a in apart)}

    for name in DOCUMENTED:
        exporter.post(sample(f"documented/{name}"))
    before = shown()
    for name in DOCUMENTED[:1] + DOCUMENTED[2:]:
        assert exporter.post(sample(f"documented/{name}"))[0] == 200
    assert shown() == before
    assert exporter.scrape().value("callbacks_total", outcome="duplicate") == 3


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_missing_is_told_by_the_sweep(tmp_path: Path, restart: bool) -> None:
    """Once the reorder window has passed, also over a restart, and once."""
    with running(tmp_path, relay__reorder_window="2s") as exporter:
        exporter.post(sample("documented/vod_source_file_start"))
        assert exporter.scrape().value("anomalies_total", kind="missed_start") == 0
        if restart:
            assert exporter.stop() == 0
            exporter.start()
        until(lambda: exporter.scrape().value("anomalies_total", kind="missed_start") == 1, "the sweep", 6)
        assert exporter.scrape().value("task_state", task_id="118145", state="active") == 1


def test_a_start_and_its_file_show_a_latency_at_once(exporter: Exporter) -> None:
    """In the very next scrape, with the task as exemplar in OpenMetrics."""
    exporter.post(sample("documented/task_start").replace(b"118148", b"118145"))
    exporter.post(sample("documented/vod_source_file_start"))
    assert exporter.scrape().value("start_to_file_latency_seconds_count", **HOST) == 1
    _, headers, body = exporter.get("/metrics", Accept="application/openmetrics-text")
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert b'# {task_id="118145"}' in body
    assert body.endswith(b"# EOF\n")


def test_a_run_of_a_task_through_its_states(exporter: Exporter) -> None:
    """Start, failure, restart, planned end: the gauge follows."""
    body = sample("documented/task_exit").replace(b'"appid": 4', b'"appid": 4, "task_id": "118148"')

    def state() -> str:
        scrape = exporter.scrape()
        states = ("active", "failed", "stopped", "lost")
        return "".join(s for s in states if scrape.value("task_state", task_id="118148", state=s))

    exporter.post(sample("documented/task_start"))
    assert state() == "active"
    exporter.post(body)
    assert state() == "failed"
    assert exporter.scrape().has("task_exit_timestamp_seconds", task_id="118148", code="-22")
    exporter.post(sample("documented/task_start"))
    assert state() == "active"
    assert not exporter.scrape().has("task_exit_timestamp_seconds", task_id="118148")
    exporter.post(body.replace(b"-22", b"0"))
    assert state() == "stopped"
    scrape = exporter.scrape()
    assert scrape.value("tasks_restarted_total") == 1
    assert scrape.value("downtime_seconds_count") == 1
    assert scrape.value("run_seconds_count") == 2
    assert scrape.value("tasks_failed_total") == 1


def test_other_ok_codes_judge_known_tasks_anew(tmp_path: Path) -> None:
    """The gauge of the fleet and that of the task agree, also after a restart with another setting."""
    with running(tmp_path) as exporter:
        exporter.post(sample("derived/task_exit_full"))
        assert exporter.scrape().value("tasks", state="failed") == 1
        exporter.stop()
    with running(tmp_path, relay__ok_exit_codes="0,-22") as exporter:
        until(lambda: exporter.scrape().value("tasks", state="stopped") == 1, "a stopped task")
        scrape = exporter.scrape()
        assert scrape.value("tasks", state="failed") == 0
        assert scrape.value("task_state", state="stopped") == 1
