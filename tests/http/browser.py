"""A real headless browser, driven through its own driver."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support import HANG_SECONDS, free_port, tool, until

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
)
#: Of the screen, whatever a page for phones makes of it that is wider.
SEEN_WIDTH = "return Math.round(visualViewport.width * visualViewport.scale)"
#: In one step, so that the page does not put another element in the place of the one that was found.
CLICK = """
const element = document.querySelector(arguments[0]);
element.scrollIntoView({block: 'nearest', behavior: 'instant'});
const {left, top, width, height} = element.getClientRects()[0] ?? new DOMRect();
if (!element.contains(document.elementFromPoint(left + width / 2, top + height / 2))) return false;
element.click();
return true;
"""


class Browser:
    """A browser with one tab.

    Args:
        driver: drives it.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self.driver.get(address)

    def size(self, width: int, height: int = 900) -> None:
        """Give the page so many CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        until(lambda: self.ask(SEEN_WIDTH) == width, "the page has this width")

    def prefer(self, scheme: str) -> None:
        """Prefer a colour scheme: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def scripts(self, *, on: bool) -> None:
        """Switch the scripts of pages on or off."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not on})

    def ask(self, script: str, *values: Any) -> Any:
        """Return what a script of the tester's, run in the page, gives."""
        return self.driver.execute_script(script, *values)

    def ask_between(self, script: str) -> Any:
        """Return what a script gives; None where one page takes the place of another, and none is there."""
        with suppress(WebDriverException):
            return self.ask(script)
        return None

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements that a selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """Return the first element that a selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts that are seen of elements, all of one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())"
        found: list[str] = self.ask(script, selector)
        return found

    def text(self, selector: str) -> str:
        """Return the text that is seen of the first element."""
        return self.texts(selector)[0]

    @contextmanager
    def moved_clock(self) -> Iterator[None]:
        """Let the tab have a time that `pass_seconds` moves, until the block ends."""
        old = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")  # the time of a tab can't be given back to it
        try:
            yield
        finally:
            tab = self.driver.current_window_handle
            until(lambda: self._is_closed(tab), "the tab is closed")
            self.driver.switch_to.window(old)

    def _is_closed(self, tab: str) -> bool:
        """Close the tab, and return whether it is: the driver gives up where the page is slow to go."""
        with suppress(WebDriverException):
            self.driver.close()
        return tab not in self.driver.window_handles

    def pass_seconds(self, seconds: float) -> None:
        """Let so many seconds pass for the page at once, and wait for what it fetches meanwhile."""
        begin = until(lambda: self.ask_between("return Date.now()"), "a page that tells its time")
        given = {"policy": "pauseIfNetworkFetchesPending", "budget": 1000 * seconds}
        self.driver.execute_cdp_cmd("Emulation.setVirtualTimePolicy", given)
        until(
            lambda: (self.ask_between("return Date.now()") or 0) > begin + 1000 * seconds - 1,
            "the page's time has passed",
        )

    def click(self, selector: str) -> None:
        """Click on a link that can be seen, and wait until it has led somewhere else."""
        before = self.driver.current_url
        assert self.ask(CLICK, selector), f"{selector} is not seen, or lies under something"
        until(lambda: self.driver.current_url != before, f"{selector} leads somewhere")

    def complaints(self) -> list[str]:
        """Return what the console says since it was asked last: violations of the policy, errors."""
        return [json.dumps(entry) for entry in self.driver.get_log("browser")]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Take a picture of what is seen, or of the whole page."""
        if whole:
            width, height = self.ask("return [innerWidth, document.documentElement.scrollHeight]")
            self.size(width, height)
        self.driver.save_screenshot(str(path))


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Yield a browser with a fresh profile in `folder`; without one the test is skipped, in CI it fails."""
    options = webdriver.ChromeOptions()
    options.binary_location = tool("chromium")
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(tool("chromedriver"), port=free_port()))
    driver.command_executor.client_config.timeout = HANG_SECONDS
    driver.set_page_load_timeout(HANG_SECONDS)
    driver.set_script_timeout(HANG_SECONDS)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
