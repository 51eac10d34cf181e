"""The texts of the pages, tested without a store and a server."""

import html
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter.errors import CallbackError, Fault
from exporter.metrics.process import RecentRejections
from exporter.metrics.values import FLEET, LabelSetValues, series
from exporter.protocol.events import BY_NAME, Subject
from exporter.relay import ACTIVE, Task, history
from exporter.web.pages.handler import load_templates
from exporter.web.pages.humanize import ago, code_hint, number, plural, position, span, utc, visible
from exporter.web.pages.status_page import (
    FAILURES,
    ROWS,
    SORTS,
    Query,
    callbacks,
    failures,
    read_query,
    summarize,
    table,
)
from exporter.web.pages.task_page import TaskStatus, event_subject, link_to, status_of
from tests.unit.histories import SETTINGS, T0, Delivery, callback, deliver, max_examples

#: Event, seconds after T0, subject.
Step = tuple[str, float, str]
INFO = {"version": "1", "revision": "r", "telemetry_path": "/metrics"}
TEMPLATES = load_templates(asset=str, info=INFO, started=T0, retry_seconds=3600.0)


def task(*steps: Step, task_id: str = "t", until: float | None = None, **more: Any) -> Task:
    """Return a task after (event, seconds from T0, subject); `more` is in each of its callbacks."""
    calls = [(callback(letter, T0 + at, subject, **more), T0 + at + 0.1) for letter, at, subject in steps]
    end = None if until is None else T0 + until
    return replace(deliver([Delivery(*call) for call in calls], until=end).task, task_id=task_id)


def status_at(*steps: Step, now: float = 100.0, **more: Any) -> TaskStatus:
    """Return the status of a task at `now`, in seconds after T0."""
    return status_of(task(*steps, until=now, **more), SETTINGS, T0 + now)


def visible_text(macro: str, *arguments: Any) -> str:
    """Return the visible text of a macro of `parts.html`."""
    return text_of(getattr(TEMPLATES["parts.html"].module, macro)(*arguments))


def text_of(markup: str) -> str:
    """Return the visible text of markup, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", markup)).split())


def task_page(task_: Task) -> str:
    """Return a task's page at 100 s from T0."""
    now = T0 + 100
    status, events = status_of(task_, SETTINGS, now), history(task_)
    return TEMPLATES["task.html"].render(now=now, refresh="on", here="/", status=status, events=events)


# --- texts


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86399, "23 h 59 min"),
        (86400, "1 d"),
        (31.25 * 86400, "31 d 6 h"),
    ],
)
def test_a_span_is_shown_in_its_largest_units(seconds: float, text: str) -> None:
    """It is easy to read."""
    assert span(seconds) == text


def test_a_time_is_shown_relative_to_now_and_to_the_second() -> None:
    """A time in the near future is shown as now, because clocks differ. `datetime` is for machines."""
    assert (ago(T0, T0 + 180.5), utc(T0)) == ("3 min ago", "2026-11-24 06:00:00 UTC")
    assert ago(T0 + 30, T0) == ago(T0, T0) == "just now"
    made = TEMPLATES["parts.html"].module.time(T0, T0 + 180.5)
    assert made == '<time datetime="2026-11-24T06:00:00Z" title="2026-11-24 06:00:00 UTC">3 min ago</time>'


@pytest.mark.parametrize("invalid", [1e18, -1e18, float("inf"), float("-inf"), float("nan")])
def test_a_time_outside_the_calendar_is_shown_as_unknown(invalid: float) -> None:
    """It has no title and no `datetime`."""
    assert utc(invalid) == ""
    made = TEMPLATES["parts.html"].module.time(invalid, T0)
    assert made == '<time title="">at an unknown time</time>'


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0:00"), (9, "0:09"), (250, "4:10"), (3600, "1:00:00"), (14920, "4:08:40")]
)
def test_a_position_is_shown_as_in_media_players(seconds: float, text: str) -> None:
    """Minutes and seconds, hours where there are any."""
    assert position(seconds) == text


def test_numbers_are_shown_with_their_noun() -> None:
    """Numbers have a separator for thousands."""
    assert [plural(n, "file") for n in (0, 1, 2, 1234)] == ["0 files", "1 file", "2 files", "1,234 files"]
    assert number(1234567) == "1,234,567"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("-22", "EINVAL: Invalid argument"),
        ("-110", "ETIMEDOUT: Connection timed out"),
        ("-541478725", "FFmpeg: EOF"),
        ("-875574520", "FFmpeg: HTTP 404"),
        ("-1482175736", "FFmpeg: HTTP 4XX"),
        ("-1094995529", "FFmpeg: INDA"),
        ("0", ""),
        ("22", ""),
        ("-1", ""),
        ("-4096", ""),
        ("-99999999", ""),
        ("-4294967296", ""),
        ("-" + "9" * 60, ""),
        ("-²²", ""),
        ("-", ""),
        ("", ""),
        ("E_BUSY", ""),
    ],
)
def test_an_exit_code_has_a_hint_if_it_may_be_known(code: str, hint: str) -> None:
    """Error numbers and FFmpeg's tags have a hint; any other code has none."""
    assert code_hint(code) == hint


def test_invisible_characters_are_replaced() -> None:
    """A character that reverses the text must not make a task look like another."""
    assert visible("a\u202eb\n\0c é 日本") == "a\ufffdb\ufffd\ufffdc é 日本"
    assert visible("plain é 日本") == "plain é 日本"


def test_everything_that_a_template_prints_is_visible_text() -> None:
    """Markup is escaped, and invisible characters are replaced, without a filter in each template."""
    made = (
        TEMPLATES["parts.html"]
        .environment.from_string('{{ text }}<a title="{{ text | upper }}">{{ [text] | join }}')
        .render(text="<b>\u202e\x00'")
    )
    assert made == (
        '&lt;b&gt;\ufffd\ufffd&#39;<a title="&lt;B&gt;\ufffd\ufffd&#39;">&lt;b&gt;\ufffd\ufffd&#39;'
    )


# --- the parameters of the address


ODD = [None, "", "x", "-1", "0", "1e9", "9" * 50, "²", "\0", "active", "desc", "task", "off", "' OR 1=1"]


@given(st.fixed_dictionaries({name: st.sampled_from(ODD) for name in Query.__struct_fields__}))
@max_examples(50)
def test_any_parameter_is_valid_or_replaced_by_its_default(typed: dict[str, str | None]) -> None:
    """Nothing typed into the address causes an error."""
    query = read_query(typed.get)
    assert query.state in ("", "active")
    assert query.sort in SORTS
    assert query.order in ("asc", "desc")
    assert query.refresh in ("on", "off")
    assert query.page >= 1


def test_a_query_is_read_from_its_own_link_unchanged() -> None:
    """The search text may be any text. Parameters with their default are not in the link."""
    query = Query(state="failed", q="a&b=c #?é/", sort="runs", order="desc", page=3, refresh="off")
    parameters = parse_qs(urlsplit(query.link()).query)
    assert read_query(lambda name: parameters.get(name, [None])[0]) == query
    assert Query().link() == "/"
    assert read_query({"order": "ASC".lower(), "refresh": "ON".lower(), "page": "1"}.get).link() == "/"
    assert query.link(q="", state="", sort="state", order="asc", page=1) == "/?refresh=off"
    assert len(read_query({"q": "x" * 9999}.get).q) == 256


def test_a_column_selected_again_is_sorted_in_reverse() -> None:
    """Texts sort ascending first, times and numbers descending first; the first page is shown again."""
    assert Query(page=7).sorted_by("task") == "/?sort=task"
    assert Query(sort="task").sorted_by("task") == "/?sort=task&order=desc"
    assert Query(sort="task", order="desc").sorted_by("task") == "/?sort=task"
    assert Query().sorted_by("heard") == "/?sort=heard&order=desc"
    assert Query().sorted_by("state") == "/?order=desc"


# --- the headline


@pytest.mark.parametrize(
    ("counts", "problems", "css_class", "text", "detail"),
    [
        (None, {}, "down", "The store does not answer", "It is unknown what is on air"),
        ({}, {}, "idle", "Nothing on air", "No task is known yet"),
        ({"stopped": 1234}, {}, "idle", "Nothing on air", "1,234 stopped as planned"),
        ({"active": 12}, {}, "ok", "12 on air", "No task has failed or is lost."),
        ({"active": 12, "stopped": 3}, {}, "ok", "12 on air", "No task has failed or is lost."),
        ({"active": 12, "failed": 2, "lost": 1}, {}, "error", "12 on air, 2 failed, 1 lost", "Failed: "),
        ({"failed": 2}, {}, "error", "0 on air, 2 failed", "Failed: "),
        ({"active": 1, "lost": 1}, {}, "error", "1 on air, 1 lost", "Lost: "),
        ({"active": 2}, {"plays_nothing_seconds": 1}, "warning", "2 on air", "1 active task plays nothing."),
        ({"active": 2}, {"plays_nothing_seconds": 2}, "warning", "2 on air", "2 active tasks play nothing."),
        (
            {"active": 2},
            {"overdue_seconds": 2, "": 3},
            "warning",
            "2 on air",
            "2 files should have ended by now.",
        ),
    ],
)
def test_the_headline_names_the_problems(
    counts: dict[str, int] | None, problems: dict[str, int], css_class: str, text: str, detail: str
) -> None:
    """It says that no task has failed or is lost if there is no problem."""
    tasks = [
        TaskStatus(task(), ACTIVE, **({kind: 61.0} if kind else {}))
        for kind, times in problems.items()
        for _ in range(times)
    ]
    summary = summarize(counts, tasks)
    assert (summary.css_class, ", ".join(part for _, part in summary.parts)) == (css_class, text)
    assert detail in summary.detail
    assert ("No task has failed" in summary.detail) == (css_class == "ok")


# --- one task


def test_a_live_task_is_running_since_its_start() -> None:
    """It has no file and no exit."""
    status = status_at(("S", 0, ""))
    assert (status.state, status.since, status.file, status.exit) == ("active", T0, None, None)
    assert (status.overdue_seconds, status.plays_nothing_seconds, visible_text("doing", status)) == (
        0,
        0,
        "running",
    )


@pytest.mark.parametrize(
    ("now", "at", "percent", "overdue"),
    [
        (0, "0:00", 0, ""),
        (61, "1:00", 10, ""),
        (601, "10:00", 100, ""),
        (720, "10:00", 100, ""),
        (722, "10:00", 100, "2 min"),
        (4201, "10:00", 100, "1 h"),
    ],
)
def test_a_file_is_shown_with_its_position(now: float, at: str, percent: int, overdue: str) -> None:
    """It is overdue past 1.1 times its duration and two minutes; then it is highlighted."""
    status = status_at(("S", 0, ""), ("F", 1, "3"), now=now, duration_seconds=600.0)
    late = f" overdue by {overdue}" if overdue else ""
    assert visible_text("doing", status) == f"file 3, {at} of 10:00 {percent} %{late}"
    assert status.overdue_seconds == (now - 601 if overdue else 0)


@pytest.mark.parametrize(
    ("length", "now", "overdue"), [(3000.0, 3300.0, False), (3000.0, 3302.0, True), (600.0, 722.0, True)]
)
def test_a_long_file_is_overdue_after_a_tenth_of_its_duration(
    length: float, now: float, overdue: bool
) -> None:
    """Two minutes are not enough for a long file."""
    status = status_at(("S", 0, ""), ("F", 1, "3"), now=now, duration_seconds=length)
    assert bool(status.overdue_seconds) == overdue


def test_a_file_of_unknown_duration_is_never_overdue() -> None:
    """Only its position is shown; a file without an index is named by the beginning of its digest."""
    status = status_at(("S", 0, ""), ("F", 1, "b16e2c122117d111"), now=9000)
    assert (visible_text("doing", status), status.overdue_seconds) == ("file ~b16e2c12, 2:29:59", 0)


@pytest.mark.parametrize(("now", "silence"), [(660, ""), (661, "1 min"), (5000, "1 h 13 min")])
def test_dead_air_is_shown(now: float, silence: str) -> None:
    """The task has played a file, and has played none for a minute."""
    status = status_at(("S", 0, ""), ("F", 1, "0"), ("N", 601, "0"), now=now, duration_seconds=600.0)
    assert visible_text("doing", status) == (f"has played nothing for {silence}" if silence else "running")
    assert status.plays_nothing_seconds == (now - 601 if silence else 0)


@pytest.mark.parametrize(
    ("steps", "state", "since", "doing"),
    [
        ([("E", 40, "-22")], "failed", 40, "-22 EINVAL: Invalid argument write\ufffderror"),
        ([("E", 40, "0")], "stopped", 40, "ended as planned, 0 write\ufffderror"),
        ([("E", 40, "")], "failed", 40, "no code write\ufffderror"),
    ],
)
def test_an_ended_task_is_shown_with_its_reason(
    steps: list[Step], state: str, since: float, doing: str
) -> None:
    """It is failed or stopped, since its exit."""
    status = status_at(("S", 0, ""), *steps, message="write\nerror")
    assert (status.state, status.since, visible_text("doing", status)) == (state, T0 + since, doing)


def test_a_lost_task_is_shown_without_an_exit_code() -> None:
    """An earlier exit is not its reason; it is lost since its last callback."""
    lost = status_at(("E", 0, "-5"), ("F", 1, "0"), now=9000, duration_seconds=60.0)
    assert (lost.state, visible_text("doing", lost)) == ("lost", "no callback for too long")
    assert (lost.since, lost.file) == (lost.task.last_callback_at, None)


@pytest.mark.parametrize(
    "task_id", ["118148", "a/b", "/", "//", "a?b#c", "%2F", "é 日", "<b>", "..a", "a\\b"]
)
def test_a_link_is_valid_for_any_task_id(task_id: str) -> None:
    """The task_id is one segment of the path."""
    link = link_to(7, task_id)
    assert link.startswith("/tasks/7/")
    segment = link.removeprefix("/tasks/7/")
    assert not set(segment) & set("/?#\\<> ")
    assert segment not in (".", "..")


@pytest.mark.parametrize("task_id", [".", ".."])
def test_a_task_id_of_dots_is_a_query_parameter(task_id: str) -> None:
    """A browser resolves it as a path segment, in any encoding."""
    assert link_to(7, task_id) == f"/tasks/7/?id={task_id}"


@pytest.mark.parametrize(
    ("step", "subject"),
    [
        (("S", 0, ""), ""),
        (("F", 1, "0"), "file 0"),
        (("F", 1, "b16e2c122117d111"), "file ~b16e2c12"),
        (("A", 5, "FileEndEarly"), "FileEndEarly"),
    ],
)
def test_an_event_is_shown_with_its_subject(step: Step, subject: str) -> None:
    """A start has no subject."""
    assert event_subject(history(task(step))[0]) == subject


def test_an_exit_code_is_shown_by_its_own_macro() -> None:
    """The macro shows its hint and message too."""
    event = history(task(("E", 1, "-22"), message="m"))[0]
    assert (event.kind.subject, event_subject(event)) == (Subject.EXIT_CODE, "")
    assert visible_text("code", event) == "-22 EINVAL: Invalid argument m"


def test_a_task_page_shows_its_run_its_last_exit_and_its_history() -> None:
    """The newest event first; each time relative to now and to the second."""
    steps: list[Step] = [
        ("S", 0, ""),
        ("F", 1, "0"),
        ("A", 5, "FileEndEarly"),
        ("E", 40.5, "-22"),
        ("S", 60, ""),
    ]
    page = task_page(task(*steps))
    rows = [text_of(row) for row in re.findall(r"<tr><td>(.*?)</tr>", page.replace("</td>", " | "))]
    assert rows == [
        "40 s ago 2026-11-24 06:01:00 UTC | run started | |",
        "59 s ago 2026-11-24 06:00:40 UTC | run ended | -22 EINVAL: Invalid argument |",
        "1 min ago 2026-11-24 06:00:05 UTC | alarm | FileEndEarly |",
        "1 min ago 2026-11-24 06:00:01 UTC | file started | file 0 |",
        "1 min ago 2026-11-24 06:00:00 UTC | run started | |",
    ]
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.replace("<br>", " ")))
    assert text_of(facts["Started"]) == "40 s ago 2026-11-24 06:01:00 UTC"
    assert text_of(facts["Last exit"]) == "-22 EINVAL: Invalid argument 59 s ago 2026-11-24 06:00:40 UTC"
    assert (facts["Runs"], "File started" in facts, "not shown" in page) == ("2", False, False)


def test_a_task_page_shows_100_events() -> None:
    """The number of older events is shown too."""
    page = task_page(task(*(("A", float(n), "FileEndEarly") for n in range(101))))
    assert (page.count("<tr><td>"), "<p>1 older event not shown.</p>" in page) == (100, True)
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert (facts["Started"], facts["Last exit"]) == ("unknown", "none")


def test_an_inferred_run_is_marked() -> None:
    """The start of the file is shown as the start of the run."""
    page = text_of(task_page(task(("F", 70, "0"), until=99.0)))
    assert (
        "Started30 s ago inferred from a file event; no TaskStart was received2026-11-24 06:01:10 UTC" in page
    )
    assert "File started30 s ago2026-11-24 06:01:10 UTC" in page


# --- the fleet


def test_the_newest_failures_are_shown_also_of_tasks_that_are_active_again() -> None:
    """A planned end is not a failure."""
    fleet = [status_at(("S", 0, ""), ("E", 10.0 + n, "-22"), task_id=str(n)) for n in range(9)]
    fleet.append(status_at(("S", 0, ""), ("E", 50, "0"), task_id="planned"))
    fleet.append(status_at(("S", 0, ""), ("E", 30, "-5"), ("S", 60, ""), task_id="back"))
    found = failures(fleet, SETTINGS)
    assert [(each.task.task_id, each.state) for each in found] == [("back", "active")] + [
        (str(n), "failed") for n in range(8, 9 - FAILURES, -1)
    ]
    assert failures([], SETTINGS) == []


def mixed() -> list[TaskStatus]:
    """Return tasks in every state, in no order."""
    return [
        status_at(("S", 5, ""), task_id="10", to_url="rtmp://b.example.com/live/x"),
        status_at(("S", 0, ""), ("E", 20, "0"), task_id="9", to_url="rtmp://a.example.com/live/y"),
        status_at(("S", 0, ""), ("E", 30, "-22"), task_id="b", stream_id="Room7"),
        status_at(("S", 0, ""), ("E", 40, "-22"), ("S", 50, ""), task_id="a"),
        status_at(("S", 0, ""), ("E", 35, "-22"), task_id="100"),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), ["100", "b", "a", "10", "9"]),
        (Query(order="desc"), ["9", "10", "a", "b", "100"]),
        (Query(sort="task"), ["9", "10", "100", "a", "b"]),
        (Query(sort="since", order="desc"), ["a", "100", "b", "9", "10"]),
        (Query(sort="destination", order="desc", q="/live/"), ["10", "9"]),
        (Query(sort="heard", order="desc"), ["a", "100", "b", "9", "10"]),
        (Query(sort="runs", order="desc"), ["a", "10", "9", "b", "100"]),
        (Query(state="failed"), ["100", "b"]),
        (Query(state="lost"), []),
        (Query(q="ROOM7"), ["b"]),
        (Query(q="a.example.com"), ["9"]),
        (Query(q="10"), ["100", "10"]),
        (Query(q="10", state="active"), ["10"]),
        (Query(q=".*"), []),
    ],
)
def test_tasks_are_filtered_and_sorted(query: Query, expected: list[str]) -> None:
    """Failed tasks are first by default. Numbers are sorted by value. The search text is not a pattern."""
    shown = table(mixed(), query)
    assert [row.task.task_id for row in shown.rows] == expected
    assert shown.found == len(expected)


def test_a_task_with_dead_air_comes_before_the_other_active_tasks() -> None:
    """Its state is active too."""
    silent = status_at(
        ("S", 0, ""), ("F", 1, "0"), ("N", 11, "0"), task_id="silent", duration_seconds=10.0, now=200.0
    )
    newer = status_at(("S", 90, ""), task_id="newer", now=200.0)
    shown = table([newer, silent], Query())
    assert [row.task.task_id for row in shown.rows] == ["silent", "newer"]


def test_a_tile_filters_by_its_state_and_keeps_the_other_parameters() -> None:
    """The first tile shows all tasks; states without tasks have a tile too."""
    query, counts = Query(state="failed", q="x", page=3), {"failed": 2, "lost": 0, "active": 1200}
    page = TEMPLATES["status.html"].render(
        now=T0,
        refresh="on",
        here="/",
        query=query,
        error="",
        is_writable=True,
        summary=summarize(counts),
        counts=counts,
        known=1202,
        unread=0,
        failures=[],
        table=table([], query),
        callbacks=callbacks(LabelSetValues(FLEET, 0.0, {}, {})),
        created=T0,
        quarantined=0,
        rejected=0,
        rejections=[],
    )
    tiles = re.search(r'<ul class="tiles".*?</ul>', page, re.DOTALL)
    assert tiles is not None
    links = re.findall(r'<a href="([^"]*)"( aria-current="true")?>(.*?)</a>', tiles[0])
    assert [(html.unescape(link), bool(chosen), text_of(text)) for link, chosen, text in links] == [
        ("/?q=x", False, "1,202 all"),
        ("/?state=failed&q=x", True, "2 ✕ failed"),
        ("/?state=lost&q=x", False, "0 ? lost"),
        ("/?state=active&q=x", False, "1,200 ● active"),
    ]


@pytest.mark.parametrize(
    ("asked", "page", "first", "rows"),
    [(1, 1, 1, ROWS), (2, 2, ROWS + 1, ROWS), (3, 3, 2 * ROWS + 1, 1), (99, 3, 2 * ROWS + 1, 1)],
)
def test_tasks_are_shown_in_pages(asked: int, page: int, first: int, rows: int) -> None:
    """A page past the last is the last page."""
    known = status_at(("S", 0, ""))
    shown = table([known] * (2 * ROWS + 1), Query(page=asked))
    assert (shown.page, shown.first, len(shown.rows), shown.pages) == (page, first, rows, 3)


def test_without_tasks_there_is_one_empty_page() -> None:
    """Whichever page is requested."""
    shown = table([], Query(page=9))
    assert (shown.page, shown.found, shown.pages, list(shown.rows)) == (1, 0, 1, [])


def test_callbacks_are_shown_by_event_and_outcome() -> None:
    """Every event, also without callbacks."""
    values = {
        series("callbacks_total", "TaskStart", "applied"): 7,
        series("callbacks_total", "TaskStart", "stale"): 2,
    }
    marks = {series("last_callback_timestamp_seconds", "TaskStart"): T0 * 10**6}
    by_event = {event: rest for event, *rest in callbacks(LabelSetValues(FLEET, 0.0, values, marks))}
    assert by_event["TaskStart"] == [{"applied": 7, "duplicate": 0, "stale": 2, "ignored": 0}, T0]
    assert by_event["other"] == [dict.fromkeys(("applied", "duplicate", "stale", "ignored"), 0), 0]
    assert list(by_event) == [*BY_NAME, "other"]


# --- rejections


def test_equal_rejections_are_shown_once() -> None:
    """They are shown with their newest time and their number; the newest first."""
    clock = iter(range(100))
    rejections = RecentRejections(clock=lambda: float(next(clock)))
    schema = CallbackError(400, "schema", (Fault("/msg", "is missing"), Fault("/x", "second")))
    for rejected, source in ((schema, "a"), (CallbackError(404, "token"), "a"), (schema, "b"), (schema, "a")):
        rejections.add(rejected, source)
    shown = [
        (kind.reason, kind.source, kind.pointer, kind.message, *last_and_times)
        for kind, last_and_times in rejections.newest_first()
    ]
    assert shown == [
        ("schema", "a", "/msg", "is missing", 4.0, 2),
        ("schema", "b", "/msg", "is missing", 3.0, 1),
        ("token", "a", "", "", 2.0, 1),
    ]
    assert (rejections.total, rejections.since) == (4, 0.0)


def test_the_recent_rejections_are_limited() -> None:
    """Their number and length are limited. The rejection not seen for the longest time is deleted first."""
    rejections = RecentRejections(max_kinds=3)
    for number_ in range(5):
        rejections.add(
            CallbackError(400, "schema", (Fault("/p" * 999, "m" * 999),)), f"{number_}" + "s" * 999
        )
        rejections.add(CallbackError(404, "token"), "scanner")
    shown = [kind for kind, _ in rejections.newest_first()]
    assert [r.source[0] for r in shown] == ["s", "4", "3"]
    assert all(len(text) <= 200 for r in shown for text in (r.source, r.pointer, r.message))
    assert rejections.total == 10
