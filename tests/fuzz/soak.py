"""`make soak`: one exporter under fleets with every fault, one after the other, for a long time.

Tasks are lost, and forgotten, soon after their fleet is gone, so that what the exporter holds must stay the
same. In the end what it counted is what the simulator says of all the fleets together.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import linear_regression, mean

import msgspec
from msgspec import Struct

from exporter.metrics.catalogue import PREFIX
from exporter.simulator.verify import sample_text
from tests.support import Exporter, running

FAULTS = (
    *("--fault.duplicate=0.3", "--fault.reorder=0.3", "--fault.nameless=0.3", "--fault.untimed=0.3"),
    *("--fault.unsigned=0.3", "--fault.malformed=0.05", "--fault.unknown=0.05"),
)
FLEET = ("--tasks=300", "--speed=300", "--failure-every=6s", "--downtime=2s")
REORDER_SECONDS = 1
#: By what part of itself a figure's trend may grow over the time after the warm-up.
MAX_GROWTH = 0.05
MAX_HANDLES = 6
ACCEPTS = ("text/plain", "application/openmetrics-text")


class Look(Struct, frozen=True):
    """What the exporter holds at a time (seconds): memory, store on disk (bytes), file handles."""

    at: float
    memory: float
    store: float
    handles: float


#: What must not grow, by its name.
FIGURES: dict[str, Callable[[Look], float]] = {
    "memory": lambda look: look.memory,
    "store": lambda look: look.store,
}


class Soaked(Struct):
    """What came of a soak.

    Args:
        fleets: how many were sent.
        looks: what the exporter held after the warm-up.
        answers: of callbacks, by status, as their sender saw them.
        faults: what was wrong.
    """

    fleets: int
    looks: list[Look]
    answers: Counter[int]
    faults: list[str]

    def growth(self, of: Callable[[Look], float]) -> float:
        """Return by what part of its mean a figure's trend grows over all looks."""
        times, values = [look.at for look in self.looks], [of(look) for look in self.looks]
        return linear_regression(times, values).slope * (times[-1] - times[0]) / mean(values)


def soak(folder: Path, seconds: float, fleet_seconds: int) -> Soaked:
    """Send fleets of so many seconds for so long, and look at the exporter all the while."""
    # What a fleet says comes within its time; nothing of it is of use for longer than that and a little.
    gone = fleet_seconds + 10
    key = folder / "key"
    key.write_text("soaking-key\n")
    key.chmod(0o600)
    windows = {"retry_window": gone, "lost_after": gone, "forget_after": gone, "forget_stopped_after": gone}
    flags = {f"relay__{name}": f"{value}s" for name, value in windows.items()}
    flags |= {"relay__reorder_window": f"{REORDER_SECONDS}s", "callback__sign_key_file": str(key)}
    with running(folder, **flags) as exporter:
        before, worker = counted(exporter), exporter.worker
        looker = Looker(exporter)
        looker.start()
        result, expected = Soaked(0, [], Counter(), []), Counter[str]()
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            result.fleets += 1
            expected += _send(exporter, result, key, fleet_seconds)
        looker.end()
        time.sleep(REORDER_SECONDS + 2)
        warm = max(3.0 * gone, seconds / 4)
        result.looks = [look for look in looker.looks if look.at > warm]
        result.faults += miscounted(expected, counted(exporter), before)
        result.faults += _unwell(exporter, worker, result)
    return result


class Looker(threading.Thread):
    """Looks at an exporter every second, as Prometheus and a browser would, and at what it holds."""

    def __init__(self, exporter: Exporter) -> None:
        super().__init__(daemon=True)
        self._exporter = exporter
        self._stopping = threading.Event()
        self.looks: list[Look] = []

    def run(self) -> None:
        """Look until told to end."""
        begun = time.monotonic()
        while not self._stopping.wait(1.0):
            for accept in ACCEPTS:
                self._exporter.get("/metrics", Accept=accept, Accept_Encoding="gzip")
            for path in ("/", "/api/v1/tasks", "/-/ready"):
                assert self._exporter.get(path)[0] == 200
            self.looks.append(self._look(time.monotonic() - begun))

    def end(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self.join()

    def _look(self, at: float) -> Look:
        process = Path(f"/proc/{self._exporter.worker}")
        memory = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())
        assert memory is not None
        store = sum(path.stat().st_size for path in (self._exporter.folder / "data").iterdir())
        return Look(at, int(memory[1]) * 1024.0, float(store), float(len(os.listdir(process / "fd"))))


def counted(exporter: Exporter) -> Counter[str]:
    """Return every number of the scrape, by its name and labels as a simulation writes them."""
    samples = exporter.scrape().samples
    return Counter(
        {
            sample_text((name.removeprefix(PREFIX), labels)): int(value)
            for (name, labels), value in samples.items()
            if value == int(value)
        }
    )


def _send(exporter: Exporter, result: Soaked, key: Path, seconds: int) -> Counter[str]:
    """Send a fleet; return what must be counted of it, but for the tasks, which are soon forgotten."""
    target = f"--target=http://127.0.0.1:{exporter.ports['callbacks']}/callbacks"
    given = (target, f"--seed={result.fleets}", f"--duration={seconds}s", f"--sign-key-file={key}")
    command = [sys.executable, "-m", "exporter", "simulate", *given, *FLEET, *FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        result.faults.append(f"seed {result.fleets}: {done.stderr[-500:]}")
    for number, status in re.findall(r"(\d+) of (\d+)", done.stderr):
        result.answers[int(status)] += int(number)
    lines = (line.rpartition(" ") for line in done.stdout.splitlines())
    return Counter({name: int(value) for name, _, value in lines if not name.startswith("css_relay_tasks{")})


def miscounted(expected: Counter[str], after: Counter[str], before: Counter[str]) -> list[str]:
    """Return a line for each number that is not as expected."""
    shown = {name: after[name] - before[name] for name in expected}
    return [
        f"{name}: expected {expected[name]}, grew by {shown[name]}"
        for name in expected
        if shown[name] != expected[name]
    ]


def _unwell(exporter: Exporter, worker: int, result: Soaked) -> list[str]:
    errors = [line for line in exporter.log.splitlines() if "level=error" in line or "Traceback" in line]
    scrape = exporter.scrape()
    answered = sum(
        scrape.value("exporter_request_seconds_count", status=str(status)) for status in range(500, 600)
    )
    checks = {
        f"{answered:g} answers from 500 on": answered > 0 or any(status >= 500 for status in result.answers),
        f"errors in the log: {errors[:3]}": bool(errors),
        "the worker is another one": exporter.worker != worker,
    }
    return [*(what for what, is_so in checks.items() if is_so), *grown(result)]


def grown(result: Soaked) -> list[str]:
    """Return a line for each thing that the exporter holds and that did not stay the same."""
    half = len(result.looks) // 2
    first, last = (max(look.handles for look in part) for part in (result.looks[:half], result.looks[half:]))
    trends = {name: result.growth(of) for name, of in FIGURES.items()}
    lines = [f"{name} grows: {trend:.3f}" for name, trend in trends.items() if trend > MAX_GROWTH]
    return lines + [f"file handles: at most {first:g}, later {last:g}"] * (last - first > MAX_HANDLES)


def main() -> int:
    """Soak; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.soak", description="Soak the exporter.")
    parser.add_argument("--minutes", type=float, default=15, help="for how long, default 15")
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = soak(Path(folder), options.minutes * 60, fleet_seconds=20)
    print("\n".join(report(result)))
    if options.json:
        options.json.write_bytes(msgspec.json.encode(result))
    return 1 if result.faults else 0


def report(result: Soaked) -> list[str]:
    """Return what is to be said of a soak, a line each."""
    first = result.looks[0]
    lines = [f"{result.fleets} fleets, {result.answers.total()} answers: {dict(result.answers)}"]
    for name, of in FIGURES.items():
        values = [of(look) / of(first) for look in result.looks]
        span = f"{min(values):.2f} to {max(values):.2f} times what it was at first"
        lines.append(f"{name}: trend {result.growth(of):+.1%}, {span}")
    handles: Sequence[float] = [look.handles for look in result.looks]
    lines.append(
        f"file handles: {min(handles):g} to {max(handles):g}; {len(result.looks)} looks after the warm-up"
    )
    return [*lines, *(f"WRONG: {fault}" for fault in result.faults)]


if __name__ == "__main__":
    sys.exit(main())
