"""The web listener: formats of the metrics, health, the task API, and store failures."""

import gzip
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.http.fleets import put
from tests.support import HANG_SECONDS, Exporter, Scrape, parse, running, sample, until


@pytest.fixture(scope="module")
def module_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter with some tasks in it."""
    with running(tmp_path_factory.mktemp("operators")) as exporter:
        for number in range(5):
            exporter.post(sample("documented/task_start").replace(b"118148", str(number).encode()))
        exporter.post(sample("documented/vod_source_file_start"))
        exporter.post(sample("derived/task_exit_full"))
        yield exporter


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0", True),
        ("text/plain;q=0.5, application/openmetrics-text;q=0.9", True),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("text/html,*/*", False),
        ("", False),
        ("application/openmetrics-text;q=x", False),
        ("application/openmetrics-text;version=banana;q=1", True),
        (";;;,,,/q=;=", False),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.7", False),
    ],
)
def test_the_format_is_what_the_accept_header_prefers(
    module_exporter: Exporter, accept: str, openmetrics: bool
) -> None:
    """An invalid header gets the text format, with 200."""
    status, headers, body = module_exporter.get("/metrics", Accept=accept)
    assert status == 200
    expected = (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
        if openmetrics
        else "text/plain; version=0.0.4"
    )
    assert headers["content-type"].startswith(expected)
    assert body.endswith(b"# EOF\n") == openmetrics
    if openmetrics:
        assert list(text_string_to_metric_families(body.decode()))


@given(
    st.text(
        st.characters(codec="latin-1", exclude_characters="\r\n\0", exclude_categories=("Cc",)), max_size=80
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_accept_header_causes_an_error(module_exporter: Exporter, accept: str) -> None:
    """Any text in Accept and Accept-Encoding is answered with 200."""
    assert module_exporter.get("/metrics", Accept=accept, Accept_Encoding=accept)[0] == 200


@pytest.mark.parametrize(
    ("encoding", "compressed"), [("gzip", True), ("br, GZIP;q=0.5", True), ("br", False), ("", False)]
)
def test_a_scrape_is_compressed_if_the_client_accepts_gzip(
    module_exporter: Exporter, encoding: str, compressed: bool
) -> None:
    """The decompressed text has the same samples."""
    status, headers, body = module_exporter.get("/metrics", Accept_Encoding=encoding)
    assert status == 200
    assert (headers.get("content-encoding") == "gzip") == compressed
    text = gzip.decompress(body) if compressed else body
    assert Scrape(parse(text.decode())).value("tasks", state="active") == 6


def test_a_path_of_one_listener_is_unknown_on_the_other(module_exporter: Exporter) -> None:
    """The callback listener, which faces the internet, serves no page of the operators."""
    for path in ("/metrics", "/", "/-/healthy", "/-/ready", "/api/v1/tasks"):
        assert module_exporter.get(path)[0] == 200
        assert module_exporter.post(b"", path)[0] == 404
    status, _, body = module_exporter.get("/callbacks")
    assert (status, b"code" in body) == (404, False)


@pytest.mark.parametrize("line", ["POST /", "GET /metrics", "POST /nowhere", "PUT /api/v1/tasks"])
def test_an_unused_request_body_is_not_waited_for(module_exporter: Exporter, line: str) -> None:
    """A request with Content-Length but no body is answered at once, and its connection is closed."""
    data = f"{line} HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n".encode()
    with socket.create_connection(
        ("127.0.0.1", module_exporter.ports["web"]), timeout=HANG_SECONDS
    ) as connection:
        connection.sendall(data)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 ")


def test_the_status_page_links_to_the_other_pages(module_exporter: Exporter) -> None:
    """The metrics, the API and both health checks are linked."""
    status, _, body = module_exporter.get("/")
    assert status == 200
    for path in ("/metrics", "/api/v1/tasks", "/-/healthy", "/-/ready"):
        assert f'href="{path}"'.encode() in body


def test_tasks_are_listed_page_by_page_and_by_state(module_exporter: Exporter) -> None:
    """`next` is the cursor of the next page, and null on the last page."""
    seen: list[str] = []
    after: int | None = 0
    while after is not None:
        page = json.loads(module_exporter.get(f"/api/v1/tasks?limit=3&after={after}")[2])
        seen += [task["task_id"] for task in page["tasks"]]
        after = page["next"]
    assert seen == ["0", "1", "2", "3", "4", "118145", "900001"]
    failed = json.loads(module_exporter.get("/api/v1/tasks?state=failed")[2])
    assert [(t["task_id"], t["exit_code"]) for t in failed["tasks"]] == [("900001", "-22")]


@pytest.mark.parametrize("query", ["state=dancing", "limit=0", "limit=x", "limit=99999999", "after=-1"])
def test_a_malformed_query_is_rejected_with_its_parameter(module_exporter: Exporter, query: str) -> None:
    """The answer is 400 and names the parameter."""
    status, _, body = module_exporter.get(f"/api/v1/tasks?{query}")
    assert status == 400
    assert query.split("=")[0] in json.loads(body)["title"] + json.loads(body).get("description", "")


def test_one_task_is_shown_without_secrets(module_exporter: Exporter) -> None:
    """The API shows the destination without its push key."""
    status, _, body = module_exporter.get("/api/v1/tasks/1250000001/900001")
    task = json.loads(body)["task"]
    assert status == 200
    assert task["to_url"] == "rtmp://5000.livepush.myqcloud.com/live/room42"
    assert b"txSecret" not in body
    assert (task["exited"], task["exit_message"]) == (1795500700.456, "write packet error.")
    for path in ("/api/v1/tasks/4/none", "/api/v1/tasks/x/1", "/api/v1/tasks/4"):
        assert module_exporter.get(path)[0] == 404


def test_concurrent_scrapes_are_all_answered(module_exporter: Exporter) -> None:
    """40 concurrent scrapes get 200."""
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: module_exporter.get("/metrics")[0], range(40)))
    assert answers == [200] * 40


def test_a_scrape_shows_every_callback_answered_before_it(module_exporter: Exporter) -> None:
    """A scrape after an answer contains that callback."""
    name = "config_resets_total"
    start = module_exporter.scrape().value(name)
    for number in range(1, 20):
        body = sample("derived/reset_task_config").replace(b"900001", f"reset-{number}".encode())
        assert module_exporter.post(body)[0] == 200
        assert module_exporter.scrape().value(name) == start + number


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Yield an exporter for store failures; at the end it must still stop with status 0."""
    with running(tmp_path_factory.mktemp("stored")) as exporter:
        yield exporter
        assert exporter.stop() == 0


def file_of(exporter: Exporter) -> Path:
    """Return the store file of an exporter."""
    return exporter.folder / "data" / "css-relay.db"


def started(exporter: Exporter) -> float:
    """Return the number of counted task starts."""
    return exporter.scrape().value("tasks_started_total")


def start_of(task: str) -> bytes:
    """Return a TaskStart callback of a task."""
    return sample("documented/task_start").replace(b"118148", task.encode())


@contextmanager
def locked(exporter: Exporter) -> Iterator[sqlite3.Connection]:
    """Lock the store for writing; yield the connection, whose commit releases the lock."""
    with closing(sqlite3.connect(file_of(exporter), isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        yield lock


@pytest.mark.embedded
def test_an_unreachable_store_is_reported_and_recovers(stored: Exporter) -> None:
    """Callbacks get 503 and are not counted, metrics stay 200, ready gets 503; then the store recovers."""
    stored.until_ready()
    before, path = stored.scrape(), file_of(stored)
    path.rename(path.with_name("away.db"))
    status, headers, body = stored.post(start_of("away"))
    assert (status, json.loads(body)["reason"]) == (503, "unavailable")
    assert int(headers["retry-after"]) > 0
    scrape = stored.scrape()
    assert scrape.value("exporter_store_up") == 0
    assert scrape.has("exporter_store_up")
    assert not scrape.has("tasks")
    rejected = [each.value("callbacks_rejected_total", reason="unavailable") for each in (before, scrape)]
    assert rejected[1] == rejected[0] + 1
    status, _, body = stored.get("/-/ready")
    assert (status, b"not ready" in body) == (503, True)
    assert stored.get("/-/healthy")[0] == 200
    assert stored.get("/api/v1/tasks")[0] == 503
    path.with_name("away.db").rename(path)
    assert stored.post(start_of("away"))[0] == 200
    stored.until_ready()
    assert started(stored) == before.value("tasks_started_total") + 1


@pytest.mark.embedded
def test_a_store_locked_for_seconds_delays_callbacks_and_loses_none(stored: Exporter) -> None:
    """Callbacks that arrive meanwhile are committed after the lock is released; scrapes go on."""
    before = started(stored)
    accepted, waited = 0, False
    # Callbacks get 503 after 5 s. A slow machine may take longer than that, so the test tries again.
    for attempt in range(9):
        bodies = [start_of(f"delayed-{attempt}-{number}") for number in range(5)]
        with locked(stored) as lock, ThreadPoolExecutor(len(bodies)) as pool:
            posts = [pool.submit(stored.post, body) for body in bodies]
            assert started(stored) == before + accepted
            waited = not any(post.done() for post in posts)
            lock.execute("COMMIT")
            statuses = [post.result()[0] for post in posts]
        accepted += statuses.count(200)
        waited = waited and statuses == [200] * 5
        if waited:
            break
    assert waited
    assert started(stored) == before + accepted


@pytest.mark.embedded
def test_a_store_locked_for_long_is_reported_and_recovers(stored: Exporter) -> None:
    """Callbacks and /-/ready get 503 after five seconds; after the lock is released, both work again."""
    before = started(stored)
    with locked(stored) as lock, ThreadPoolExecutor(4) as pool:
        requests = [
            *(pool.submit(stored.post, start_of("turned-away")) for _ in range(2)),
            *(pool.submit(stored.get, "/-/ready") for _ in range(2)),
        ]
        assert stored.get("/-/healthy")[0] == 200
        assert [each.result()[0] for each in requests] == [503] * 4
        assert stored.scrape().value("exporter_store_up") == 0
        lock.execute("COMMIT")
    until(lambda: stored.scrape().value("exporter_store_up") == 1, "the store is reachable again")
    assert stored.post(start_of("turned-away"))[0] == 200
    stored.until_ready()
    assert started(stored) == before + 1


def test_logs_are_json_and_contain_no_secret(tmp_path: Path) -> None:
    """Every line of the JSON log has the same fields; a rejected callback is logged by reason only."""
    with running(tmp_path, log__format="json", log__level="debug") as exporter:
        exporter.post(
            b'{"event_type":314,"callback_event":"TaskStart","to_url":"rtmp://h/a?k=canary","appid":[]}'
        )
        assert exporter.stop() == 0
        lines = [json.loads(line) for line in exporter.log.splitlines()]
    assert {"ts", "level", "msg"} <= set.intersection(*(set(line) for line in lines))
    assert any(line.get("reason") == "schema" for line in lines)
    assert "canary" not in exporter.log


def test_an_invalid_setting_ends_the_start_with_status_2_and_one_line(tmp_path: Path) -> None:
    """Checked with a real process; the unit tests call the function."""
    exporter = Exporter(tmp_path, relay__retry_window="soon")
    with pytest.raises(AssertionError, match=r"--relay\.retry-window='soon'"):
        exporter.start()
    assert exporter.process is not None
    assert exporter.process.wait(HANG_SECONDS) == 2
    assert exporter.log.count("\n") == 1


def test_a_store_with_other_labels_ends_the_start(tmp_path: Path) -> None:
    """The error line says how to start with the labels of the store."""
    put(tmp_path, [], time.time())
    other = Exporter(tmp_path, metrics__labels="appid")
    with pytest.raises(AssertionError, match="start with those labels"):
        other.start()
    assert other.process is not None
    assert other.process.wait(HANG_SECONDS) == 1
