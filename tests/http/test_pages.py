"""The pages of a real exporter: their content, headers, links, odd queries and store failures."""

import html
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlencode

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import fleet
from exporter.metrics.process import Telemetry
from exporter.relay import FoldSettings
from exporter.store.protocol import StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.web.pages.handler import ExporterInfo, Pages
from exporter.web.pages.humanize import visible
from exporter.web.pages.status_page import Query
from tests.clock import Clock
from tests.http.fleets import callback, fill, varied_fleet
from tests.support import Exporter, request, running, sample

#: Maximum number of Python calls for each task of the store. 14 to 22 were measured: 10,000 tasks take 0.1 s.
MOST_CALLS = 40
KEY = "0123456789abcdef0123456789abcdef"
ODD_IDS = [
    "a/b",
    "/",
    "//",
    "a//b/",
    "a/../b",
    "..",
    ".",
    "a?b=c#d",
    "50%",
    "%2F",
    "+ plus",
    "é 日本 \U0001f600",
    "\x00\n\t\x7f",
    "<b>&amp;\"'",
    "{{7*7}}",
    "a\\b",
    "x" * 256,
]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    """Return the clock of the exporter."""
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def exporter_and_fill_time(
    tmp_path_factory: pytest.TempPathFactory, clock: Clock
) -> Iterator[tuple[Exporter, float]]:
    """Yield an exporter with a fleet in every state, and the time at which its store was filled."""
    folder, now = tmp_path_factory.mktemp("pages"), clock.now()
    fill(folder, varied_fleet())
    with running(folder, clock=clock) as exporter:
        yield exporter, now


@pytest.fixture
def exporter(exporter_and_fill_time: tuple[Exporter, float], clock: Clock) -> Exporter:
    """Return the exporter with its clock at the fill time, so that ages do not depend on earlier tests."""
    exporter, now = exporter_and_fill_time
    clock.set(now - time.time())
    return exporter


def page(exporter: Exporter, path: str = "/", expected: int = 200) -> str:
    """Return the HTML of a page."""
    status, headers, body = exporter.get(path)
    assert status == expected, body
    assert headers["content-type"].startswith("text/html")
    return body.decode()


def seen(text: str) -> str:
    """Return the visible text of a page, in one line."""
    body = text[text.index("<main") :]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def rows(text: str) -> list[str]:
    """Return the task ids of the table, in its order."""
    return [html.unescape(found) for found in re.findall(r'class="task"><a [^>]*><bdi>([^<]*)<', text)]


def test_an_empty_status_page_explains_how_to_begin(tmp_path: Path) -> None:
    """It shows no empty table and no search form."""
    with running(tmp_path) as exporter:
        text = page(exporter)
    assert "Nothing on air No task is known yet." in seen(text)
    assert "CallbackUrl" in text
    assert "None since this process started" in seen(text)
    assert 'class="tasks"' not in text
    assert "<form" not in text


def test_the_status_page_shows_what_is_on_air_and_what_failed(exporter: Exporter) -> None:
    """First the summary, then the newest failures with code, hint and message, then all tasks."""
    text = seen(page(exporter))
    assert text.startswith("16 on air , 2 failed , 1 lost")
    assert "118170 3 min ago still down -22 EINVAL: Invalid argument write packet error." in text
    assert "-875574520 FFmpeg: HTTP 404 Server returned 404 Not Found" in text
    assert "has played nothing for 8 min" in text
    assert "overdue by 10 min" in text
    assert "TaskExit 5 applied" in text
    assert rows(page(exporter))[:3] == ["118170", "900017", "900099"]


def test_a_task_page_shows_all_of_one_task(exporter: Exporter) -> None:
    """Its state, file, file position, run, exits, history and destination."""
    playing = seen(page(exporter, "/tasks/1250000001/224010"))
    assert "active since" in playing
    assert re.search(r"file 1, 3[67]:\d\d of 1:00:00", playing)
    assert "rtmp://5001.livepush.myqcloud.com/ live/ room010" in playing
    assert "file played to its end file 0" in playing
    failed = seen(page(exporter, "/tasks/1250000001/118170"))
    assert "-22 EINVAL: Invalid argument write packet error. 3 min ago" in failed
    assert "run ended" in failed


def test_no_page_has_a_secret(exporter: Exporter) -> None:
    """Neither a push key nor any text of a rejected body or path."""
    exporter.post(b'{"event_type":314,"appid":[],"to_url":"rtmp://h/a?txSecret=canary"}')
    exporter.post(b"{}", "/callbacks/canary")
    for path in ("/", "/tasks/1250000001/900017", "/tasks/1250000001/118170"):
        text = page(exporter, path)
        assert KEY not in text
        assert "canary" not in text
        assert "live2/room017" not in text
    assert "~" in seen(page(exporter, "/tasks/1250000001/900017"))


def test_the_status_page_shows_recent_rejections(tmp_path: Path) -> None:
    """With time, status, reason and address; equal rejections are one row."""
    with running(tmp_path) as exporter:
        for _ in range(3):
            exporter.post(b'{"event_type":314,"appid":1,"callback_event":"TaskStart"}')
        exporter.post(b"", "/x")
        text = seen(page(exporter))
    assert re.search(
        r"4 rejected since this process started .* 404 token the path or its token is wrong 127\.0\.0\.1",
        text,
    )
    assert re.search(
        r"400 schema /task_id : is missing 127\.0\.0\.1 (just now|\d+ (s|min) ago) , 3 times", text
    )
    assert "Quarantined bodies 1" in text


def test_every_page_has_strict_headers(exporter: Exporter) -> None:
    """No external or inline content, no frames, no caching."""
    for path in ("/", "/tasks/1250000001/224010", "/tasks/1/none"):
        _, headers, body = exporter.get(path)
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["form-action"] == policy["style-src"] == policy["script-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        text = body.decode()
        assert re.search(r"\son\w+=|\sstyle=|javascript:|<style|<script(?! src=\"/)", text) is None
        assert re.findall(r'(?:src|href|action)="(?!/|#|\?)', text) == []


def test_assets_are_served_locally_and_may_be_cached(exporter: Exporter) -> None:
    """The URL of an asset changes with its content."""
    links = set(re.findall(r'"(/-/[\w.]+\?v=\w+)"', page(exporter)))
    assert len(links) == 3
    types = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for link in links:
        status, headers, body = exporter.get(link)
        assert (status, bool(body)) == (200, True)
        assert headers["content-type"].startswith(types[link.split("?")[0].rpartition(".")[2]])
        assert "immutable" in headers["cache-control"]


def test_the_callback_listener_serves_no_page(exporter: Exporter) -> None:
    """Every path of the pages gets 404 there."""
    for path in ("/", "/tasks/1250000001/224010", "/-/style.css", "/-/refresh.js", "/-/icon.svg"):
        assert exporter.get(path)[0] == 200
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            assert request(exporter.ports["callbacks"], method, path)[0] == 404


@pytest.mark.parametrize(
    "path", ["/tasks/1250000001/none", "/tasks/4/224010", "/tasks/1250000001/", "/tasks/1250000001/%00%ff"]
)
def test_an_unknown_task_gets_a_page_with_404(exporter: Exporter, path: str) -> None:
    """The page links back to the status page."""
    text = page(exporter, path, 404)
    assert "Task not found" in text
    assert 'href="/"' in text


@pytest.mark.parametrize(
    "path", ["/tasks", "/tasks/", "/tasks/x/1", "/tasks/-1", "/tasks/" + "9" * 3000 + "/1"]
)
def test_a_malformed_task_path_is_404(exporter: Exporter, path: str) -> None:
    """No such path causes a 5xx."""
    assert exporter.get(path)[0] == 404


@given(
    st.dictionaries(
        st.sampled_from(["state", "q", "sort", "order", "page", "refresh", "other"]),
        st.one_of(
            st.text(max_size=40), st.integers().map(str), st.sampled_from(["failed", "task", "desc", "off"])
        ),
    )
)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_parameter_causes_an_error(exporter: Exporter, parameters: dict[str, str]) -> None:
    """A malformed value is ignored."""
    query = urlencode(parameters, errors="surrogatepass")
    assert "16 on air" in page(exporter, f"/?{query}")


@pytest.mark.parametrize(
    "query",
    ["page=1&page=2", "state=failed,lost", "q=%ff%00", "%", "&&==&", "q", "page=%31", "q=" + "a" * 4000],
)
def test_no_malformed_query_causes_an_error(exporter: Exporter, query: str) -> None:
    """Repeated, unfinished, escaped or long parameters get 200."""
    page(exporter, f"/?{query}")


def test_tasks_are_filtered_sorted_and_searched_by_the_address(exporter: Exporter) -> None:
    """Every link on the page keeps the filter and the search."""
    assert rows(page(exporter, "/?state=failed&sort=task")) == ["118170", "900017"]
    assert rows(page(exporter, "/?q=ROOM170")) == ["118170"]
    assert rows(page(exporter, "/?sort=runs&order=desc"))[0] in ("118171", "224020")
    text = page(exporter, "/?state=active&q=5000&sort=runs&refresh=off")
    links = [html.unescape(link) for link in re.findall(r'href="(/\?[^"]*)"', text)]
    assert links
    assert sum("q=5000" in link for link in links) >= len(links) - 1
    assert "1 to 1 of 1 failed with “ 118170 ” Show all" in seen(page(exporter, "/?state=failed&q=118170"))
    assert "No task matches." in seen(page(exporter, "/?q=nonsense"))


def test_a_page_refreshes_itself_unless_it_is_paused(exporter: Exporter) -> None:
    """Also without scripts; links pause and resume it, and keep the filter."""
    text = page(exporter, "/?state=failed")
    assert '<noscript><meta http-equiv="refresh" content="15; url=/?state=failed"></noscript>' in text
    assert '<html lang="en" data-refresh="15">' in text
    assert '<a href="/?state=failed&amp;refresh=off">Pause</a>' in text
    paused = page(exporter, "/?state=failed&refresh=off")
    assert "http-equiv" not in paused
    assert "<script" not in paused
    assert '<a href="/?state=failed">Resume</a>' in paused
    link = "/tasks/1250000001/224010"
    assert f'<a href="{link}?refresh=off">Pause</a>' in page(exporter, link)
    assert f'<a href="{link}">Resume</a>' in page(exporter, f"{link}?refresh=off")
    assert '<a href="/tasks/1/?id=..&amp;refresh=off">Pause</a>' in page(exporter, "/tasks/1/?id=..", 404)


def test_a_filtered_table_is_above_the_failures(exporter: Exporter) -> None:
    """Without a filter the failures are first; both are always shown."""
    for path, failures_first in (
        ("/", True),
        ("/?refresh=off", True),
        ("/?state=active", False),
        ("/?page=2", False),
    ):
        text = page(exporter, path)
        assert (text.index("Latest failures") < text.index("Search</button>")) == failures_first


def test_every_task_has_a_page_whatever_its_id(tmp_path: Path) -> None:
    """The link in the table leads to the page; the API returns the task for the escaped id."""
    with running(tmp_path) as exporter:
        for task_id in ODD_IDS:
            body = orjson.loads(callback("TaskStart", "1", time.time(), {})) | {"task_id": task_id}
            assert exporter.post(orjson.dumps(body))[0] == 200
        links = re.findall(r'class="task"><a href="([^"]*)"', page(exporter))
        titles = [seen(page(exporter, html.unescape(link))) for link in links]
        for task_id in ODD_IDS:
            title = f"Task {' '.join(visible(task_id).split())} "
            assert sum(title in found for found in titles) == 1, task_id
            if task_id not in (".", ".."):
                status, _, answer_body = exporter.get(f"/api/v1/tasks/1250000001/{quote(task_id, safe='')}")
                assert (status, orjson.loads(answer_body)["task"]["task_id"]) == (200, task_id)


@pytest.mark.embedded
def test_pages_report_an_unreachable_store(tmp_path: Path) -> None:
    """The status page gets 200, a task page 503; when the store is back, both work again."""
    with running(tmp_path) as exporter:
        exporter.post(sample("documented/task_start"))
        path = tmp_path / "data" / "css-relay.db"
        os.rename(path, tmp_path / "away.db")
        assert exporter.post(sample("documented/task_start"))[0] == 503
        text = seen(page(exporter))
        assert text.startswith("The store does not answer")
        assert "Callbacks are answered 503 meanwhile and sent again later." in text
        assert "503 unavailable" in text
        assert "Reachable no" in text
        assert "on air ," not in text
        assert "The store does not answer" in page(exporter, "/tasks/1250000001/118148", 503)
        os.rename(tmp_path / "away.db", path)
        exporter.until_ready()
        assert seen(page(exporter)).startswith("1 on air No task has failed or is lost.")


def calls_and_page(folder: Path, tasks: int, query: Query) -> tuple[int, str]:
    """Return the number of Python calls to render a status page with so many tasks, and the page."""
    path = folder / str(tasks) / "store.db"
    if not path.exists():
        fleet.fill(path, tasks)
    with closing(SqliteStore(path, StoreOptions())) as store:
        pages = Pages(
            store=store,
            telemetry=Telemetry(version="0", revision="0"),
            fold_settings=FoldSettings(),
            info=ExporterInfo("", "", "/metrics"),
        )
        pages.status(query, [])  # fills the caches, so that only a later page is counted
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            text = pages.status(query, [])
        finally:
            sys.setprofile(None)
        return calls, text


@pytest.mark.embedded
def test_the_cost_of_the_status_page_is_linear_and_its_size_bounded(tmp_path: Path) -> None:
    """Twice as many tasks need at most twice as many calls, and a page shows 50, also sorted or searched."""
    for query in (Query(), Query(sort="task", order="desc", page=2), Query(q="room1", sort="destination")):
        (few, short), (more, _), (most, long) = (
            calls_and_page(tmp_path, tasks, query) for tasks in (250, 500, 1000)
        )
        assert most - more <= 1.05 * 2 * (more - few)
        assert most - more <= MOST_CALLS * 500
        assert len(rows(short)) == len(rows(long)) == 50
        assert len(long) - len(short) < 1000
        assert "1,000 on air" in long
