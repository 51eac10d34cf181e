"""The pages in a real browser: nothing that a callback says runs, and everything can be used."""

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
from tests.http.fleets import callback, fill, lively
from tests.support import Exporter, running, until

#: What would run if any place took it for more than text: elements, attributes, templates, addresses.
SHORT = "<script>window.ran = 1</script>\"'><img src=x onerror='window.ran = 2'>"
ATTACK = (
    f'{SHORT}<svg onload="window.ran = 3"></title></noscript></textarea><b id=planted>{{{{ 7 * 7 }}}}'
    "{% raw %} javascript:window.ran=4 ' onfocus='window.ran=5"
)
#: An exit code has no spaces.
CODE = "</td><script>ran=6</script>"
SCHEMES = ("light", "dark")
#: As it does by itself now and then; where it does so at this moment, once more.
RENEW = """
return (async () => {
  while (isFetching) await new Promise(resolve => setTimeout(resolve, 20));
  await refresh();
})();
"""
#: When the page was made, how far it is scrolled, and its address: all of one page.
SEEN = """
const made = document.querySelector('#fresh time')?.innerText.trim();
return [made, scrollY, location.pathname + location.search];
"""


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter with a lively fleet, and enough more for several pages."""
    folder = tmp_path_factory.mktemp("fleet")
    fleet.fill(folder / "data" / "css-relay.db", 120)
    fill(folder, lively())
    with running(folder) as exporter:
        exporter.post(b"nonsense")
        yield exporter


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all."""
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Browser) -> Browser:
    """The browser as it is at first: a wide window, light, scripts on, nothing complained of."""
    one_browser.scripts(on=True)
    one_browser.size(1280)
    one_browser.prefer("light")
    one_browser.open("about:blank")
    one_browser.complaints()
    return one_browser


def address(exporter: Exporter, path: str = "/") -> str:
    """Return the address of a page."""
    return f"http://127.0.0.1:{exporter.ports['web']}{path}"


def ids(browser: Browser) -> list[str]:
    """Return the ids of the tasks that the table shows."""
    return browser.texts(".tasks tbody .task")


def attacks() -> Iterator[bytes]:
    """Yield callbacks of every event with the attack in every field, and some that are rejected for it."""
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


def test_nothing_that_a_callback_says_runs(tmp_path: Path, browser: Browser) -> None:
    """A script, quotes and markup in any field of any event stay text on every page."""
    with running(tmp_path) as exporter:
        answers = [exporter.post(body)[0] for body in attacks()]
        assert (answers.count(200), answers.count(400)) == (3 * 6, 2 * 6)
        browser.open(address(exporter))
        links = browser.ask("return [...document.querySelectorAll('tbody .task a')].map(a => a.href)")
        assert len(links) == 2
        browser.one("#q").send_keys(ATTACK, Keys.ENTER)
        until(lambda: "q=" in browser.driver.current_url, "the search is asked")
        assert browser.one("#q").get_attribute("value") == ATTACK
        for link in [browser.driver.current_url, address(exporter), *links]:
            browser.open(link)
            text = browser.text("main")
            assert "<script>window.ran = 1</script>" in text
            assert CODE in text
            assert "{{ 7 * 7 }}" in text
            browser.ask(RENEW)
            assert (
                browser.all("#planted, main script, main img, main svg, [onerror], [onload], [onfocus]") == []
            )
            assert browser.ask("return window.ran ?? null") is None
            assert browser.complaints() == []


def test_the_pages_break_none_of_their_own_policy(exporter: Exporter, browser: Browser) -> None:
    """Neither at first nor when they refresh themselves."""
    for path in ("/", "/?state=failed&refresh=off", "/tasks/1250000001/118170", "/tasks/1/none"):
        browser.open(address(exporter, path))
        if browser.ask("return typeof refresh == 'function'"):
            browser.ask(RENEW)
        styled = browser.ask("return getComputedStyle(document.querySelector('.summary')).borderLeftWidth")
        assert styled == "6px"
        complaints = [c for c in browser.complaints() if "404 (Not Found)" not in c]
        assert complaints == []


def test_tasks_are_filtered_sorted_and_paged_by_clicking(exporter: Exporter, browser: Browser) -> None:
    """What was asked stays asked; the newest order is told to those who can't see it."""
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
    until(lambda: "q=2240" in browser.driver.current_url, "the search is asked")
    assert ids(browser) == ["224031", "224030", "224020", "224012", "224011", "224010"]
    assert browser.texts(".tiles [aria-current]") == ["136\n● active"]
    browser.click("tbody .task a")
    assert "/tasks/" in browser.driver.current_url
    assert browser.texts("h1") == ["Task 224031"]


def test_it_refreshes_itself_in_place(tmp_path: Path, browser: Browser) -> None:
    """Filter, scroll position, focus and what is typed stay; a paused page stays as it is."""
    fleet.fill(tmp_path / "data" / "css-relay.db", 60)
    with running(tmp_path) as exporter:
        browser.open(address(exporter, "/?state=active&sort=task"))
        browser.one("#q").send_keys("typed")
        browser.ask("scrollTo(0, 700); document.querySelector('th.runs a').focus({preventScroll: true})")
        exporter.post(callback("TaskStart", "1", time.time(), {}))
        browser.ask(RENEW)
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


def test_it_refreshes_itself_by_itself(tmp_path: Path, browser: Browser) -> None:
    """After a while, and tells when it can't any more."""
    with running(tmp_path) as exporter, browser.moved_clock():
        exporter.post(callback("TaskStart", "1", time.time(), {}))
        browser.open(address(exporter))
        exporter.post(callback("TaskStart", "2", time.time(), {}))

        def later(selector: str) -> str:
            browser.pass_seconds(REFRESH_SECONDS)
            return browser.text(selector)

        until(lambda: later("h1") == "2 on air", "it is refreshed")
        assert browser.text("#stale") == ""
        exporter.stop()
        until(lambda: later("#stale").startswith("Not refreshed since 20"), "it says so")
        assert browser.text("h1") == "2 on air"


def test_it_works_with_scripts_off(exporter: Exporter, browser: Browser) -> None:
    """Links and forms, and a page that loads itself anew with what was asked."""
    with browser.moved_clock():
        browser.scripts(on=False)
        browser.open(address(exporter, "/?state=failed"))
        assert ids(browser) == ["118170", "900017"]
        browser.click("th.task a")
        assert "sort=task" in browser.driver.current_url
        assert ids(browser) == ["118170", "900017"]
        browser.one("#q").send_keys("1250", Keys.ENTER)
        until(lambda: "q=1250" in browser.driver.current_url, "it is searched")
        assert ids(browser) == ["118170", "900017"]
        loaded = browser.text("#fresh time")
        browser.ask("scrollTo(0, 200)")

        def address_anew() -> str | None:
            browser.pass_seconds(REFRESH_SECONDS + 1)
            now, scrolled, path = browser.ask_between(SEEN) or [None, None, None]
            return path if scrolled == 200 and now not in (None, loaded) else None

        assert until(address_anew, "it is loaded anew, where it was") == "/?state=failed&q=1250&sort=task"


def test_a_phone_needs_no_scrolling_to_the_side(exporter: Exporter, browser: Browser) -> None:
    """At 320 and at 380 pixels nothing is cut off."""
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
    """4.5 to 1, as WCAG's level AA asks; and dark is dark."""
    for path in ("/", "/tasks/1250000001/224031", "/tasks/1250000001/118170", "/tasks/1/none"):
        browser.open(address(exporter, path))
        for scheme in SCHEMES:
            browser.prefer(scheme)
            assert browser.ask(CONTRAST) == [], (path, scheme)
            ground = browser.ask(GROUND)
            assert (sum(ground) < 3 * 64) == (scheme == "dark"), path


#: The colour behind everything.
GROUND = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
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


def test_a_page_can_be_used_without_seeing_it(exporter: Exporter, browser: Browser) -> None:
    """Language, title, landmarks, headings in order, names for what can be used, headers for every table."""
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


def test_the_keyboard_leads_past_the_links_and_shows_where_it_is(
    exporter: Exporter, browser: Browser
) -> None:
    """The first stop skips to the content; whatever has the focus has an outline."""
    browser.open(address(exporter))
    browser.one("body").send_keys(Keys.TAB)
    assert browser.ask("return document.activeElement.className") == "skip"
    assert browser.ask("return document.activeElement.getBoundingClientRect().left") == 0
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.ask("return getComputedStyle(document.activeElement).outlineWidth") == "3px"
    browser.driver.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.ask("return location.hash") == "#main"
