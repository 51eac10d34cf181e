"""The pages in a real browser: no script injection, refreshes, phone widths, contrast, accessibility."""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from selenium.webdriver.common.keys import Keys

from bench import fleet
from exporter.web.pages.handler import REFRESH_SECONDS
from tests.http.browser import Browser, browsing
from tests.http.fleets import callback, fill, varied_fleet
from tests.support import Exporter, running, until

#: Texts that would run if a page did not escape them: elements, attributes, templates, URLs.
SHORT = "<script>window.ran = 1</script>\"'><img src=x onerror='window.ran = 2'>"
ATTACK = (
    f'{SHORT}<svg onload="window.ran = 3"></title></noscript></textarea><b id=planted>{{{{ 7 * 7 }}}}'
    "{% raw %} javascript:window.ran=4 ' onfocus='window.ran=5"
)
#: A shorter attack without spaces, since an exit code must not contain any.
CODE = "</td><script>ran=6</script>"
SCHEMES = ("light", "dark")
#: Refresh the page as its timer does, after a refresh that is already running.
REFRESH = """
return (async () => {
  while (isFetching) await new Promise(resolve => setTimeout(resolve, 20));
  await refresh();
})();
"""
#: The time of the page, its scroll position and its path, read in one step from the same page.
PAGE_STATE = """
const made = document.querySelector('#fresh time')?.innerText.trim();
return [made, scrollY, location.pathname + location.search];
"""


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Yield an exporter with tasks in every state, and enough tasks for several pages."""
    folder = tmp_path_factory.mktemp("fleet")
    fleet.fill(folder / "data" / "css-relay.db", 120)
    fill(folder, varied_fleet())
    with running(folder) as exporter:
        exporter.post(b"nonsense")
        yield exporter


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield one browser for all tests, because a start takes seconds."""
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Browser) -> Browser:
    """Return the browser in its first state: wide window, light scheme, scripts on, empty console."""
    one_browser.scripts(on=True)
    one_browser.size(1280)
    one_browser.prefer("light")
    one_browser.open("about:blank")
    one_browser.console_entries()
    return one_browser


def address(exporter: Exporter, path: str = "/") -> str:
    """Return the URL of a page."""
    return f"http://127.0.0.1:{exporter.ports['web']}{path}"


def ids(browser: Browser) -> list[str]:
    """Return the task ids in the table."""
    return browser.texts(".tasks tbody .task")


def attacks() -> Iterator[bytes]:
    """Yield callbacks of every event with the attack in every field, valid and invalid ones."""
    now = time.time()
    file = {"url": ATTACK, "duration": 60}
    messages: dict[str, dict[str, Any]] = {
        "TaskStart": {},
        "VodSourceFileStart": file,
        "VodSourceFileFinish": file,
        "TaskAlarm": {"type": SHORT, "AlarmType": SHORT},
        "ResetTaskConfig": {},
        "TaskExit": {"message": ATTACK, "code": CODE},
    }
    urls = {"to_url": ATTACK, "callback_url": ATTACK, "source_urls": [ATTACK]}
    within = {
        "to_url": f"rtmp://push.example.com/{ATTACK}/x",
        "source_urls": [f"http://a.example.com/{ATTACK}"],
    }
    names = ("stream_id", "task_id", "interface", "product_name", ATTACK)
    for number, (event, msg) in enumerate(messages.items()):
        body = orjson.loads(callback(event, "1", now + number / 100, {})) | dict.fromkeys(names, ATTACK)
        body["msg"] = orjson.loads(body["msg"]) | msg | {"detail": ATTACK, ATTACK: ATTACK}
        yield orjson.dumps(body | urls)
        yield orjson.dumps(body | within | {"task_id": f"another {ATTACK}"})
        yield orjson.dumps(body | {"callback_event": SHORT})
        yield orjson.dumps(body | {"appid": ATTACK})
        yield orjson.dumps({ATTACK: ATTACK, "event_type": 314, "callback_event": event})


def test_no_text_of_a_callback_is_run_as_a_script(tmp_path: Path, browser: Browser) -> None:
    """A script, quotes and markup in any field of any event stay text on every page."""
    with running(tmp_path) as exporter:
        answers = [exporter.post(body)[0] for body in attacks()]
        assert (answers.count(200), answers.count(400)) == (3 * 6, 2 * 6)
        browser.open(address(exporter))
        links = browser.ask("return [...document.querySelectorAll('tbody .task a')].map(a => a.href)")
        assert len(links) == 2
        browser.one("#q").send_keys(ATTACK, Keys.ENTER)
        until(lambda: "q=" in browser.driver.current_url, "the search is submitted")
        assert browser.one("#q").get_attribute("value") == ATTACK
        for link in [browser.driver.current_url, address(exporter), *links]:
            browser.open(link)
            text = browser.text("main")
            assert "<script>window.ran = 1</script>" in text
            assert CODE in text
            assert "{{ 7 * 7 }}" in text
            browser.ask(REFRESH)
            assert (
                browser.all("#planted, main script, main img, main svg, [onerror], [onload], [onfocus]") == []
            )
            assert browser.ask("return window.ran ?? null") is None
            assert browser.console_entries() == []


def test_pages_obey_their_content_security_policy(exporter: Exporter, browser: Browser) -> None:
    """The console reports no violation, neither after loading nor after a refresh."""
    for path in ("/", "/?state=failed&refresh=off", "/tasks/1250000001/118170", "/tasks/1/none"):
        browser.open(address(exporter, path))
        if browser.ask("return typeof refresh == 'function'"):
            browser.ask(REFRESH)
        styled = browser.ask("return getComputedStyle(document.querySelector('.summary')).borderLeftWidth")
        assert styled == "6px"
        console_entries = [c for c in browser.console_entries() if "404 (Not Found)" not in c]
        assert console_entries == []


def test_tasks_are_filtered_sorted_and_paged_by_clicking(exporter: Exporter, browser: Browser) -> None:
    """Each click keeps the other filters; aria-sort states the order for screen readers."""
    browser.open(address(exporter))
    assert ids(browser)[:2] == ["118170", "900017"]
    browser.click(".tiles li:nth-child(4) a")
    assert browser.texts(".tiles [aria-current]") == ["136\n● active"]
    assert len(ids(browser)) == 50
    browser.click("th.task a")
    assert browser.one("th.task").get_attribute("aria-sort") == "ascending"
    assert ids(browser)[0] == "118140"
    browser.click("[rel=next]")
    assert browser.texts(".pages [aria-current]") == ["Page 2 of 3"]
    assert ids(browser)[0] == "100000034"
    browser.click("th.task a")
    assert browser.one("th.task").get_attribute("aria-sort") == "descending"
    assert ids(browser)[0] == "100000119"
    browser.one("#q").send_keys("2240", Keys.ENTER)
    until(lambda: "q=2240" in browser.driver.current_url, "the search is submitted")
    assert ids(browser) == ["224031", "224030", "224020", "224012", "224011", "224010"]
    assert browser.texts(".tiles [aria-current]") == ["136\n● active"]
    browser.click("tbody .task a")
    assert "/tasks/" in browser.driver.current_url
    assert browser.texts("h1") == ["Task 224031"]


def test_a_refresh_keeps_the_state_of_the_page(tmp_path: Path, browser: Browser) -> None:
    """Filter, scroll position, focus and typed text are kept; a paused page does not refresh."""
    fleet.fill(tmp_path / "data" / "css-relay.db", 60)
    with running(tmp_path) as exporter:
        browser.open(address(exporter, "/?state=active&sort=task"))
        browser.one("#q").send_keys("typed")
        browser.ask("scrollTo(0, 700); document.querySelector('th.runs a').focus({preventScroll: true})")
        exporter.post(callback("TaskStart", "1", time.time(), {}))
        browser.ask(REFRESH)
        assert browser.text("h1") == "61 on air"
        assert browser.driver.title.startswith("61 on air")
        assert browser.texts(".found")[0].startswith("1 to 50 of 61 active")
        assert ids(browser)[0] == "1"
        assert browser.one("#q").get_attribute("value") == "typed"
        assert browser.ask("return scrollY") == 700
        assert browser.ask("return document.activeElement.textContent") == "Runs"
        browser.click("#fresh a")
        assert "state=active&sort=task&refresh=off" in browser.driver.current_url
        assert browser.ask("return document.scripts.length") == 0
        assert browser.texts("#fresh a") == ["Resume"]


def test_a_page_refreshes_itself_by_its_timer(tmp_path: Path, browser: Browser) -> None:
    """After REFRESH_SECONDS; it shows a message when the exporter does not answer."""
    with running(tmp_path) as exporter, browser.virtual_clock():
        exporter.post(callback("TaskStart", "1", time.time(), {}))
        browser.open(address(exporter))
        exporter.post(callback("TaskStart", "2", time.time(), {}))

        def later(selector: str) -> str:
            browser.pass_seconds(REFRESH_SECONDS)
            return browser.text(selector)

        until(lambda: later("h1") == "2 on air", "it is refreshed")
        assert browser.text("#stale") == ""
        exporter.stop()
        until(lambda: later("#stale").startswith("Not refreshed since 20"), "the failed refresh is shown")
        assert browser.text("h1") == "2 on air"


def test_pages_work_without_scripts(exporter: Exporter, browser: Browser) -> None:
    """Links and forms work, and the page reloads itself with the same filter."""
    with browser.virtual_clock():
        browser.scripts(on=False)
        browser.open(address(exporter, "/?state=failed"))
        assert ids(browser) == ["118170", "900017"]
        browser.click("th.task a")
        assert "sort=task" in browser.driver.current_url
        assert ids(browser) == ["118170", "900017"]
        browser.one("#q").send_keys("1250", Keys.ENTER)
        until(lambda: "q=1250" in browser.driver.current_url, "the search is submitted")
        assert ids(browser) == ["118170", "900017"]
        loaded = browser.text("#fresh time")
        browser.ask("scrollTo(0, 200)")

        def path_after_reload() -> str | None:
            browser.pass_seconds(REFRESH_SECONDS + 1)
            now, scrolled, path = browser.ask_between(PAGE_STATE) or [None, None, None]
            return path if scrolled == 200 and now not in (None, loaded) else None

        assert (
            until(path_after_reload, "it is reloaded at the same scroll position")
            == "/?state=failed&q=1250&sort=task"
        )


def test_no_page_scrolls_sideways_on_a_phone(exporter: Exporter, browser: Browser) -> None:
    """At 320 and 380 pixels nothing is cut off."""
    for path in ("/", "/?q=nothing", "/tasks/1250000001/224031", "/tasks/1250000001/900017"):
        browser.size(320)
        browser.open(address(exporter, path))
        for width in (320, 380):
            browser.size(width)
            widths = browser.ask("return [innerWidth, document.documentElement.scrollWidth]")
            assert widths == [width, width], path
            cut = browser.ask(
                "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.unseen')"
                " && e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML)"
            )
            assert cut == [], path


#: Elements with text whose contrast with their background is below 4.5.
CONTRAST = """
const channel = c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
const light = rgb => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
const read = text => text.match(/[\\d.]+/g).map(Number);
const ground = e => {
  for (; e; e = e.parentElement) {
    const rgb = read(getComputedStyle(e).backgroundColor);
    if (rgb.length < 4 || rgb[3] > 0) return rgb;
  }
  return [255, 255, 255];
};
const found = [];
for (const e of document.querySelectorAll('body *')) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
  if (!e.checkVisibility() || e.closest('.skip')) continue;
  const [a, b] = [light(read(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) found.push([e.outerHTML.slice(0, 99), ratio]);
}
return found;
"""


def test_every_text_has_contrast_in_either_scheme(exporter: Exporter, browser: Browser) -> None:
    """At least 4.5 to 1, as WCAG level AA requires; the background of the dark scheme is dark."""
    for path in ("/", "/tasks/1250000001/224031", "/tasks/1250000001/118170", "/tasks/1/none"):
        browser.open(address(exporter, path))
        for scheme in SCHEMES:
            browser.prefer(scheme)
            assert browser.ask(CONTRAST) == [], (path, scheme)
            ground = browser.ask(GROUND)
            assert (sum(ground) < 3 * 64) == (scheme == "dark"), path


#: The background colour of the page.
GROUND = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
#: Tables, controls and landmarks without an accessible name, and repeated ids.
NAMELESS = """
const all = selector => [...document.querySelectorAll(selector)];
const named = e => e.ariaLabel || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent;
return [
  ...all('table').filter(t => !t.caption || [...t.querySelectorAll('th')].some(h => !h.scope)),
  ...all('a, button').filter(e => !e.textContent.trim()),
  ...all('input:not([type=hidden])').filter(e => !e.labels.length),
  ...all('nav, section, form').filter(e => !named(e)),
  ...all('[id]').filter(e => all(`[id="${e.id}"]`).length > 1),
].map(e => e.outerHTML.slice(0, 99));
"""


def test_pages_have_the_structure_that_screen_readers_need(exporter: Exporter, browser: Browser) -> None:
    """Language, title, landmarks, ordered headings, names of controls, and table headers."""
    for path in ("/", "/tasks/1250000001/224031", "/tasks/1/none"):
        browser.open(address(exporter, path))
        assert browser.ask("return document.documentElement.lang") == "en"
        assert len(browser.driver.title) > 10
        assert [len(browser.all(name)) for name in ("main", "header", "footer", "h1")] == [1, 1, 1, 1]
        headings = "return [...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))"
        levels = browser.ask(headings)
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), path
        assert browser.ask(NAMELESS) == [], path


def test_the_keyboard_can_skip_the_links_and_the_focus_is_visible(
    exporter: Exporter, browser: Browser
) -> None:
    """The first Tab stop is a link to the content; the focused element has an outline."""
    browser.open(address(exporter))
    browser.one("body").send_keys(Keys.TAB)
    assert browser.ask("return document.activeElement.className") == "skip"
    assert browser.ask("return document.activeElement.getBoundingClientRect().left") == 0
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.ask("return getComputedStyle(document.activeElement).outlineWidth") == "3px"
    browser.driver.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.ask("return location.hash") == "#main"
