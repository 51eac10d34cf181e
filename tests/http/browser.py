"""A headless Chromium for tests, controlled through ChromeDriver."""

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
#: The width of the screen in CSS pixels, even if the page is wider and therefore zoomed out.
SEEN_WIDTH = "return Math.round(visualViewport.width * visualViewport.scale)"
#: One script, because a refresh could replace the element between finding and clicking it.
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
        driver: its driver.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        """Open a URL and wait until the page is loaded."""
        self.driver.get(address)

    def size(self, width: int, height: int = 900) -> None:
        """Set the size of the page, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        until(lambda: self.ask(SEEN_WIDTH) == width, "the page has this width")

    def prefer(self, scheme: str) -> None:
        """Set the preferred colour scheme: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def scripts(self, *, on: bool) -> None:
        """Turn the scripts of pages on or off."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not on})

    def ask(self, script: str, *values: Any) -> Any:
        """Run a script in the page, even with scripts off, and return its result."""
        return self.driver.execute_script(script, *values)

    def ask_between(self, script: str) -> Any:
        """Return the result of a script; None if it fails because another page is being loaded."""
        with suppress(WebDriverException):
            return self.ask(script)
        return None

    def all(self, selector: str) -> list[WebElement]:
        """Return all elements of a selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """Return the first element of a selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the visible texts of all elements of a selector, read in one step."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())"
        found: list[str] = self.ask(script, selector)
        return found

    def text(self, selector: str) -> str:
        """Return the visible text of the first element of a selector."""
        return self.texts(selector)[0]

    @contextmanager
    def virtual_clock(self) -> Iterator[None]:
        """Use a new tab for the block; `pass_seconds` moves its clock."""
        old = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")  # a tab cannot return to the real time
        try:
            yield
        finally:
            tab = self.driver.current_window_handle
            until(lambda: self._is_closed(tab), "the tab is closed")
            self.driver.switch_to.window(old)

    def _is_closed(self, tab: str) -> bool:
        """Close the tab; return whether it is closed. The driver raises an error if the page is slow."""
        with suppress(WebDriverException):
            self.driver.close()
        return tab not in self.driver.window_handles

    def pass_seconds(self, seconds: float) -> None:
        """Advance the clock of the page at once, and wait for its requests."""
        start = until(lambda: self.ask_between("return Date.now()"), "a page is loaded")
        policy = {"policy": "pauseIfNetworkFetchesPending", "budget": 1000 * seconds}
        self.driver.execute_cdp_cmd("Emulation.setVirtualTimePolicy", policy)
        until(
            lambda: (self.ask_between("return Date.now()") or 0) > start + 1000 * seconds - 1,
            "the clock of the page is advanced",
        )

    def click(self, selector: str) -> None:
        """Click a visible link, and wait until the URL has changed."""
        before = self.driver.current_url
        assert self.ask(CLICK, selector), f"{selector} is not visible, or is covered by another element"
        until(lambda: self.driver.current_url != before, f"{selector} opens another URL")

    def console_entries(self) -> list[str]:
        """Return the new entries of the console, such as errors and violations of the policy."""
        return [json.dumps(entry) for entry in self.driver.get_log("browser")]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save a screenshot of the window, or of the whole page."""
        if whole:
            width, height = self.ask("return [innerWidth, document.documentElement.scrollHeight]")
            self.size(width, height)
        self.driver.save_screenshot(str(path))


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Yield a browser with a new profile in `folder`; without one the test is skipped, or fails in CI."""
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
