"""The growth of scrape time, memory and store over millions of callbacks; it takes many minutes.

A thousand tasks are on air the whole time. In addition tasks start and exit, 200 at a time, each with sixteen
files and two deliveries of each file start. The time windows are short, so that the exporter forgets these
tasks soon. Each measurement waits until they are forgotten.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.fleet import DESTINATIONS, fill
from bench.load import LIFE_CYCLES, Load, send_exactly
from bench.process import EXPORTER, Process
from bench.report import Figure, Target
from bench.scrapes import scrape
from bench.stores import size_mib, sqlite

FLEET = 1_000
#: The number of tasks that start and exit at a time, and the callbacks of each task, see life_cycles.lua.
LANES, PER_TASK = 200, 50
WINDOWS = ("--relay.retry-window=3s", "--relay.reorder-window=1s", "--relay.forget-stopped-after=3s")
SCRAPES = 20
SETTLED_SECONDS = 600.0
POLL_SECONDS = 0.2
#: The pause between scrapes, so that a short disturbance of the machine does not affect all of them.
PAUSE_SECONDS = 0.3
#: The largest ratio to the first measurement that is not growth.
FLAT = 1.25


def measure(
    folder: Path,
    flags: Sequence[str],
    *,
    marks: Sequence[int],
    fleet: int = FLEET,
    lanes: int = LANES,
    scrapes: int = SCRAPES,
    fold_settings: Sequence[str] = WINDOWS,
) -> Iterator[Figure]:
    """Send callbacks; measure after a warm-up and after each number of callbacks in `marks`.

    Args:
        lanes: the number of tasks that start and exit at a time, in addition to the fleet.
    """
    yield Figure("growth tasks on air", fleet)
    with sqlite(folder) as url:
        fill(url, fleet)
        with Process(EXPORTER, folder, (*flags, *fold_settings), store=str(url)) as exporter:
            load, sent = Load((exporter.callbacks_url,), LIFE_CYCLES, DESTINATIONS, tasks=lanes), 0
            first: tuple[float, ...] = ()
            limits: list[Target | None]
            for mark in (0, *marks):
                yield Figure(f"growth {mark} rate", _send(load, mark - sent or lanes * PER_TASK), "1/s")
                sent = mark
                _settle(exporter, fleet)
                found = _scrape_ms(exporter, scrapes), exporter.memory_mib()
                if mark in marks[1:]:
                    limits = [_flat(value) for value in first]
                else:  # the warm-up, then the first mark, which all later marks are compared with
                    first, limits = found, [None, None]
                yield Figure(f"growth {mark} scrape", found[0], "ms", limits[0])
                yield Figure(f"growth {mark} memory", found[1], "MiB", limits[1])
                yield Figure(f"growth {mark} store", size_mib(url), "MiB")


def _flat(first: float) -> Target:
    return Target(round(FLAT * first, 1))


def _send(load: Load, number: int) -> float:
    """Send `number` callbacks; return the rate of accepted callbacks per second."""
    if number % (load.tasks * PER_TASK):  # tasks would stay on air
        raise ValueError(f"{number} is not a multiple of {load.tasks * PER_TASK}")
    outcome = send_exactly(load, number)
    if outcome.accepted != number:
        raise RuntimeError(f"only {outcome.accepted} of {number} callbacks were answered 200")
    return outcome.rate


def _settle(exporter: Process, fleet: int) -> None:
    """Wait until the exporter has forgotten all tasks except the fleet."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while (known := _known(exporter)) != fleet:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{known:g} tasks are known, not {fleet}")
        time.sleep(POLL_SECONDS)


def _known(exporter: Process) -> float:
    return sum(value for name, value in exporter.samples().items() if name.startswith("css_relay_tasks{"))


def _scrape_ms(exporter: Process, scrapes: int) -> float:
    web, took = exporter.connect("web"), []
    for _ in range(scrapes):
        time.sleep(PAUSE_SECONDS)
        took.append(scrape(web)[0])
    return median(took)
