"""Whether scrapes, memory and store stay as they are over millions of callbacks: takes many minutes.

A thousand tasks are on air throughout. Beside them tasks come and go, 200 at a time, each with sixteen files
whose starts come twice. The windows are short, so that those are soon forgotten; each measurement waits until
they are.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.fleet import DESTINATIONS, fill
from bench.load import LIVES, Aim, send_exactly
from bench.process import EXPORTER, Process
from bench.report import Figure, Target
from bench.scrapes import scrape
from bench.stores import size_mib, sqlite

FLEET = 1_000
#: How many come and go at a time, and of how many callbacks each consists, see lives.lua.
TOGETHER, LIFE = 200, 50
WINDOWS = ("--relay.retry-window=3s", "--relay.reorder-window=1s", "--relay.forget-stopped-after=3s")
SCRAPES = 20
SETTLED_SECONDS = 600.0
POLL_SECONDS = 0.2
#: Between scrapes, so that one mood of the machine does not meet all of them.
PAUSE_SECONDS = 0.3
#: How much slower, or larger, is still flat.
FLAT = 1.25


def measure(
    folder: Path,
    flags: Sequence[str],
    *,
    marks: Sequence[int],
    fleet: int = FLEET,
    together: int = TOGETHER,
    scrapes: int = SCRAPES,
    fold_settings: Sequence[str] = WINDOWS,
) -> Iterator[Figure]:
    """Send callbacks without end, and measure after a warm-up and after so many of them."""
    yield Figure("growth tasks on air", fleet)
    with sqlite(folder) as url:
        fill(url, fleet)
        with Process(EXPORTER, folder, (*flags, *fold_settings), store=str(url)) as exporter:
            aim, sent = Aim((exporter.callbacks_url,), LIVES, DESTINATIONS, tasks=together), 0
            first: tuple[float, ...] = ()
            limits: list[Target | None]
            for mark in (0, *marks):
                yield Figure(f"growth {mark} rate", _send(aim, mark - sent or together * LIFE), "1/s")
                sent = mark
                _settle(exporter, fleet)
                found = _scrape_ms(exporter, scrapes), exporter.held_mib()
                if mark in marks[1:]:
                    limits = [_flat(value) for value in first]
                else:  # a warm-up, then what the rest is held against
                    first, limits = found, [None, None]
                yield Figure(f"growth {mark} scrape", found[0], "ms", limits[0])
                yield Figure(f"growth {mark} memory", found[1], "MiB", limits[1])
                yield Figure(f"growth {mark} store", size_mib(url), "MiB")


def _flat(first: float) -> Target:
    return Target(round(FLAT * first, 1))


def _send(aim: Aim, number: int) -> float:
    """Send so many callbacks and return how many were taken a second."""
    if number % (aim.tasks * LIFE):  # tasks would be left on air
        raise ValueError(f"{number} is no multiple of {aim.tasks * LIFE}")
    outcome = send_exactly(aim, number)
    if outcome.taken != number:
        raise RuntimeError(f"only {outcome.taken} of {number} callbacks were answered 200")
    return outcome.rate


def _settle(exporter: Process, fleet: int) -> None:
    """Wait until only the tasks that stay are known."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while (known := _known(exporter)) != fleet:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{known:g} tasks are known, not {fleet}")
        time.sleep(POLL_SECONDS)


def _known(exporter: Process) -> float:
    return sum(value for name, value in exporter.numbers().items() if name.startswith("css_relay_tasks{"))


def _scrape_ms(exporter: Process, scrapes: int) -> float:
    web, took = exporter.connect("web"), []
    for _ in range(scrapes):
        time.sleep(PAUSE_SECONDS)
        took.append(scrape(web)[0])
    return median(took)
