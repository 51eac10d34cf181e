"""Screenshots of the pages for a review by eye: `python -m tests.http.pictures FOLDER`.

The picture in the documentation is also written.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import fleet
from tests.http.browser import Browser, browsing
from tests.http.fleets import fill, varied_fleet
from tests.support import Exporter, running

DOCUMENTED = Path(__file__).parents[2] / "docs" / "pictures" / "status-page.png"
WIDTHS = (1280, 380)
SCHEMES = ("light", "dark")


def fill_large(folder: Path) -> None:
    """Write a fleet of 10,000 tasks, and one with every state."""
    fleet.fill(folder / "data" / "css-relay.db", 10_000)
    fill(folder, varied_fleet())


FLEETS: dict[str, Callable[[Path], None]] = {
    "empty": lambda folder: None,
    "varied": lambda folder: fill(folder, varied_fleet()),
    "large": fill_large,
}


def reject_some(exporter: Exporter) -> None:
    """Send some callbacks that are rejected."""
    for body in (b"nonsense", b'{"event_type":314,"appid":1,"callback_event":"TaskStart"}', b"{}", b"{}"):
        exporter.post(body)
    exporter.post(b"{}", "/callbacks/guess")


def take(browser: Browser, exporter: Exporter, name: str, folder: Path) -> None:
    """Save the pictures of one fleet."""
    address = f"http://127.0.0.1:{exporter.ports['web']}"
    paths = {"status": "/?refresh=off"}
    if name == "varied":
        paths |= {
            "task-playing": "/tasks/1250000001/224010?refresh=off",
            "task-failed": "/tasks/1250000001/118170?refresh=off",
        }
    for page, path in paths.items():
        for width in WIDTHS:
            for scheme in SCHEMES:
                browser.size(width)
                browser.prefer(scheme)
                browser.open(address + path)
                browser.picture(folder / f"{name}-{page}-{width}-{scheme}.png")
                browser.picture(folder / f"{name}-{page}-{width}-{scheme}-whole.png", whole=True)


def document(browser: Browser, exporter: Exporter) -> None:
    """Save the picture for the documentation."""
    browser.size(1280, 1240)
    browser.prefer("light")
    browser.open(f"http://127.0.0.1:{exporter.ports['web']}/")
    DOCUMENTED.parent.mkdir(exist_ok=True)
    browser.picture(DOCUMENTED)


def main(folder: Path) -> None:
    """Save all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FLEETS.items():
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "data").mkdir(mode=0o700)
            make(Path(place))
            with running(Path(place)) as exporter, browsing(Path(place) / "profile") as browser:
                if name != "empty":
                    reject_some(exporter)
                take(browser, exporter, name, folder)
                if name == "varied":
                    document(browser, exporter)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
