"""The pages over a real exporter: whatever is asked, whatever was sent, whatever is down."""

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
from exporter.ingest.recent_rejections import RecentRejections
from exporter.metrics.process import Telemetry
from exporter.relay import FoldSettings
from exporter.store.protocol import StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.web.pages.handler import ExporterInfo, Pages
from exporter.web.pages.humanize import visible
from exporter.web.pages.status_page import Query
from tests.clock import Clock
from tests.http.fleets import callback, fill, lively
from tests.support import Exporter, request, running, sample

#: Of Python, for a task that is known: 14 to 22 were measured, and ten thousand tasks in 0.1 s.
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
    """The clock that the exporter goes by."""
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[tuple[Exporter, float]]:
    """An exporter with a lively fleet in it, and the time at which that was put there."""
    folder, now = tmp_path_factory.mktemp("pages"), clock.now()
    fill(folder, lively())
    with running(folder, clock=clock) as exporter:
        yield exporter, now


@pytest.fixture
def exporter(filled: tuple[Exporter, float], clock: Clock) -> Exporter:
    """The exporter at the time of its fleet, however long the tests before have taken."""
    exporter, now = filled
    clock.set(now - time.time())
    return exporter


def page(exporter: Exporter, path: str = "/", expected: int = 200) -> str:
    """Return a page."""
    status, headers, body = exporter.get(path)
    assert status == expected, body
    assert headers["content-type"].startswith("text/html")
    return body.decode()


def seen(text: str) -> str:
    """Return what is read of a page, in one line."""
    body = text[text.index("<main") :]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def rows(text: str) -> list[str]:
    """Return the task ids of the table, in its order."""
    return [html.unescape(found) for found in re.findall(r'class="task"><a [^>]*><bdi>([^<]*)<', text)]


def test_with_no_task_the_page_says_so_and_how_to_begin(tmp_path: Path) -> None:
    """No empty table."""
    with running(tmp_path) as exporter:
        text = page(exporter)
    assert "Nothing on air No task is known yet." in seen(text)
    assert "CallbackUrl" in text
    assert "None since this process started" in seen(text)
    assert 'class="tasks"' not in text
    assert "<form" not in text


def test_the_page_answers_what_is_on_air_what_failed_and_why(exporter: Exporter) -> None:
    """The big answer first, then the newest failures with code, hint and message, then all tasks."""
    text = seen(page(exporter))
    assert text.startswith("16 on air , 2 failed , 1 lost")
    assert "118170 3 min ago still down -22 EINVAL: Invalid argument write packet error." in text
    assert "-875574520 FFmpeg: HTTP 404 Server returned 404 Not Found" in text
    assert "has played nothing for 8 min" in text
    assert "overdue by 10 min" in text
    assert "TaskExit 5 applied" in text
    assert rows(page(exporter))[:3] == ["118170", "900017", "900099"]


def test_a_task_page_tells_all_of_one_task(exporter: Exporter) -> None:
    """Its state, its file and how far it is, its run, exits and past, and where it goes."""
    playing = seen(page(exporter, "/tasks/1250000001/224010"))
    assert "active since" in playing
    assert re.search(r"file 1, 3[67]:\d\d of 1:00:00", playing)
    assert "rtmp://5001.livepush.myqcloud.com/ live/ room010" in playing
    assert "file played to its end file 0" in playing
    failed = seen(page(exporter, "/tasks/1250000001/118170"))
    assert "-22 EINVAL: Invalid argument write packet error. 3 min ago" in failed
    assert "run ended" in failed


def test_no_page_has_a_secret(exporter: Exporter) -> None:
    """Neither a push key nor what stood in a rejected body or its path."""
    exporter.post(b'{"event_type":314,"appid":[],"to_url":"rtmp://h/a?txSecret=canary"}')
    exporter.post(b"{}", "/callbacks/canary")
    for path in ("/", "/tasks/1250000001/900017", "/tasks/1250000001/118170"):
        text = page(exporter, path)
        assert KEY not in text
        assert "canary" not in text
        assert "live2/room017" not in text
    assert "~" in seen(page(exporter, "/tasks/1250000001/900017"))


def test_what_was_rejected_lately_is_told(tmp_path: Path) -> None:
    """When, with which answer, why, from where; those that are alike are one."""
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
    """Nothing from elsewhere, nothing inline, never framed, never kept."""
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


def test_what_pages_need_is_served_here_and_may_be_kept(exporter: Exporter) -> None:
    """Under an address that changes with its content."""
    links = set(re.findall(r'"(/-/[\w.]+\?v=\w+)"', page(exporter)))
    assert len(links) == 3
    types = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for link in links:
        status, headers, body = exporter.get(link)
        assert (status, bool(body)) == (200, True)
        assert headers["content-type"].startswith(types[link.split("?")[0].rpartition(".")[2]])
        assert "immutable" in headers["cache-control"]


def test_nothing_of_it_is_seen_from_the_internet(exporter: Exporter) -> None:
    """On the callback listener every path of it is 404."""
    for path in ("/", "/tasks/1250000001/224010", "/-/style.css", "/-/refresh.js", "/-/icon.svg"):
        assert exporter.get(path)[0] == 200
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            assert request(exporter.ports["callbacks"], method, path)[0] == 404


@pytest.mark.parametrize(
    "path", ["/tasks/1250000001/none", "/tasks/4/224010", "/tasks/1250000001/", "/tasks/1250000001/%00%ff"]
)
def test_an_unknown_task_is_404_and_a_page(exporter: Exporter, path: str) -> None:
    """With a way back."""
    text = page(exporter, path, 404)
    assert "Task not found" in text
    assert 'href="/"' in text


@pytest.mark.parametrize(
    "path", ["/tasks", "/tasks/", "/tasks/x/1", "/tasks/-1", "/tasks/" + "9" * 3000 + "/1"]
)
def test_what_is_no_page_is_404(exporter: Exporter, path: str) -> None:
    """And never worse."""
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
def test_no_parameter_makes_an_error(exporter: Exporter, parameters: dict[str, str]) -> None:
    """What is malformed is as if it were not there."""
    query = urlencode(parameters, errors="surrogatepass")
    assert "16 on air" in page(exporter, f"/?{query}")


@pytest.mark.parametrize(
    "query",
    ["page=1&page=2", "state=failed,lost", "q=%ff%00", "%", "&&==&", "q", "page=%31", "q=" + "a" * 4000],
)
def test_no_odd_query_makes_an_error(exporter: Exporter, query: str) -> None:
    """However it is written."""
    page(exporter, f"/?{query}")


def test_tasks_are_filtered_sorted_and_searched_by_the_address(exporter: Exporter) -> None:
    """And every link on the page keeps what was asked."""
    assert rows(page(exporter, "/?state=failed&sort=task")) == ["118170", "900017"]
    assert rows(page(exporter, "/?q=ROOM170")) == ["118170"]
    assert rows(page(exporter, "/?sort=runs&order=desc"))[0] in ("118171", "224020")
    text = page(exporter, "/?state=active&q=5000&sort=runs&refresh=off")
    links = [html.unescape(link) for link in re.findall(r'href="(/\?[^"]*)"', text)]
    assert links
    assert sum("q=5000" in link for link in links) >= len(links) - 1
    assert "1 to 1 of 1 failed with “ 118170 ” Show all" in seen(page(exporter, "/?state=failed&q=118170"))
    assert "No task matches." in seen(page(exporter, "/?q=nonsense"))


def test_the_page_renews_itself_unless_it_is_paused(exporter: Exporter) -> None:
    """Also without scripts; a link pauses and resumes it and keeps what was asked."""
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


def test_what_is_asked_for_comes_before_what_failed(exporter: Exporter) -> None:
    """Else the failures are first; both are always there."""
    for path, failures_first in (
        ("/", True),
        ("/?refresh=off", True),
        ("/?state=active", False),
        ("/?page=2", False),
    ):
        text = page(exporter, path)
        assert (text.index("Latest failures") < text.index("Search</button>")) == failures_first


def test_every_task_has_a_page_whatever_its_id(tmp_path: Path) -> None:
    """The table's own link leads to it, and the page's link to the same as JSON."""
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
                status, _, told = exporter.get(f"/api/v1/tasks/1250000001/{quote(task_id, safe='')}")
                assert (status, orjson.loads(told)["task"]["task_id"]) == (200, task_id)


@pytest.mark.embedded
def test_when_the_store_is_down_the_page_says_so_and_what_it_knows(tmp_path: Path) -> None:
    """200 for the fleet, 503 for a task, and all of it again afterwards."""
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


def cost(folder: Path, tasks: int, query: Query) -> tuple[int, str]:
    """Return how many calls a page of the status of so many tasks takes, and the page."""
    path = folder / str(tasks) / "store.db"
    if not path.exists():
        fleet.fill(path, tasks)
    with closing(SqliteStore(path, StoreOptions())) as store:
        pages = Pages(
            store=store,
            telemetry=Telemetry(version="0", revision="0"),
            rejections=RecentRejections(),
            fold_settings=FoldSettings(),
            info=ExporterInfo("", "", "/metrics"),
        )
        pages.status(query, [])  # what is made once is made
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
def test_many_tasks_cost_a_few_calls_each_and_no_longer_page(tmp_path: Path) -> None:
    """Filtered, sorted or searched: twice as many cost twice as much, little each, and fifty are shown."""
    for query in (Query(), Query(sort="task", order="desc", page=2), Query(q="room1", sort="destination")):
        (few, short), (more, _), (most, long) = (cost(tmp_path, tasks, query) for tasks in (250, 500, 1000))
        assert most - more <= 1.05 * 2 * (more - few)
        assert most - more <= MOST_CALLS * 500
        assert len(rows(short)) == len(rows(long)) == 50
        assert len(long) - len(short) < 1000
        assert "1,000 on air" in long
