"""`make soak`: run one exporter for a long time with fleets that have every fault, one after the other.

Tasks are lost and forgotten soon after their fleet has ended, so that memory and store must not grow. In the
end the counters must match the totals that the simulator reports for all fleets.
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
from exporter.simulator.totals import sample_text
from tests.support import Exporter, running

FAULTS = (
    *("--fault.duplicate=0.3", "--fault.reorder=0.3", "--fault.nameless=0.3", "--fault.untimed=0.3"),
    *("--fault.unsigned=0.3", "--fault.malformed=0.05", "--fault.unknown=0.05"),
)
FLEET = ("--tasks=300", "--speed=300", "--failure-every=6s", "--downtime=2s")
REORDER_SECONDS = 1
#: The largest allowed growth of a trend after the warm-up, as a share of the mean.
MAX_GROWTH = 0.05
MAX_HANDLES = 6
ACCEPTS = ("text/plain", "application/openmetrics-text")


class Usage(Struct, frozen=True):
    """The resources of the exporter at a time (seconds): memory and store on disk (bytes), file handles."""

    at: float
    memory: float
    store: float
    handles: float


#: The resources that must not grow, by name.
FIGURES: dict[str, Callable[[Usage], float]] = {
    "memory": lambda sample: sample.memory,
    "store": lambda sample: sample.store,
}


class SoakResult(Struct):
    """The result of a soak test.

    Args:
        fleets: the number of fleets that were sent.
        samples: the resources of the exporter after the warm-up.
        answers: the number of answers to callbacks by status, as seen by the sender.
        faults: descriptions of faults.
    """

    fleets: int
    samples: list[Usage]
    answers: Counter[int]
    faults: list[str]

    def growth(self, of: Callable[[Usage], float]) -> float:
        """Return the growth of a resource's trend over all samples, as a share of its mean."""
        times, values = [sample.at for sample in self.samples], [of(sample) for sample in self.samples]
        return linear_regression(times, values).slope * (times[-1] - times[0]) / mean(values)


def soak(folder: Path, seconds: float, fleet_seconds: int) -> SoakResult:
    """Send fleets of `fleet_seconds` seconds each for `seconds`, and sample the exporter during that time."""
    # All callbacks of a fleet arrive within its time, so that its tasks can be forgotten soon after it.
    gone = fleet_seconds + 10
    key = folder / "key"
    key.write_text("soaking-key\n")
    key.chmod(0o600)
    windows = {"retry_window": gone, "lost_after": gone, "forget_after": gone, "forget_stopped_after": gone}
    flags = {f"relay__{name}": f"{value}s" for name, value in windows.items()}
    flags |= {"relay__reorder_window": f"{REORDER_SECONDS}s", "callback__sign_key_file": str(key)}
    with running(folder, **flags) as exporter:
        before, worker = counted(exporter), exporter.worker
        monitor = UsageMonitor(exporter)
        monitor.start()
        result, expected = SoakResult(0, [], Counter(), []), Counter[str]()
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            result.fleets += 1
            expected += _send(exporter, result, key, fleet_seconds)
        monitor.end()
        time.sleep(REORDER_SECONDS + 2)
        warm = max(3.0 * gone, seconds / 4)
        result.samples = [sample for sample in monitor.samples if sample.at > warm]
        result.faults += miscounted(expected, counted(exporter), before)
        result.faults += _check_exporter(exporter, worker, result)
    return result


class UsageMonitor(threading.Thread):
    """A thread that requests metrics and pages every second and samples the exporter's resources."""

    def __init__(self, exporter: Exporter) -> None:
        super().__init__(daemon=True)
        self._exporter = exporter
        self._stopping = threading.Event()
        self.samples: list[Usage] = []

    def run(self) -> None:
        """Sample until `end` is called."""
        begun = time.monotonic()
        while not self._stopping.wait(1.0):
            for accept in ACCEPTS:
                self._exporter.get("/metrics", Accept=accept, Accept_Encoding="gzip")
            for path in ("/", "/api/v1/tasks", "/-/ready"):
                assert self._exporter.get(path)[0] == 200
            self.samples.append(self._sample(time.monotonic() - begun))

    def end(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self.join()

    def _sample(self, at: float) -> Usage:
        process = Path(f"/proc/{self._exporter.worker}")
        memory = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())
        assert memory is not None
        store = sum(path.stat().st_size for path in (self._exporter.folder / "data").iterdir())
        return Usage(at, int(memory[1]) * 1024.0, float(store), float(len(os.listdir(process / "fd"))))


def counted(exporter: Exporter) -> Counter[str]:
    """Return the whole-number samples of a scrape, by name and labels in the format of the simulator."""
    samples = exporter.scrape().samples
    return Counter(
        {
            sample_text((name.removeprefix(PREFIX), labels)): int(value)
            for (name, labels), value in samples.items()
            if value == int(value)
        }
    )


def _send(exporter: Exporter, result: SoakResult, key: Path, seconds: int) -> Counter[str]:
    """Send a fleet; return the expected counters, without the number of tasks, which are soon forgotten."""
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
    """Return a line for each counter with an unexpected increase."""
    shown = {name: after[name] - before[name] for name in expected}
    return [
        f"{name}: expected {expected[name]}, grew by {shown[name]}"
        for name in expected
        if shown[name] != expected[name]
    ]


def _check_exporter(exporter: Exporter, worker: int, result: SoakResult) -> list[str]:
    errors = [line for line in exporter.log.splitlines() if "level=error" in line or "Traceback" in line]
    scrape = exporter.scrape()
    answered = sum(
        scrape.value("exporter_request_seconds_count", status=str(status)) for status in range(500, 600)
    )
    checks = {
        f"{answered:g} answers with a status of 500 or above": answered > 0
        or any(status >= 500 for status in result.answers),
        f"errors in the log: {errors[:3]}": bool(errors),
        "the worker was replaced": exporter.worker != worker,
    }
    return [*(what for what, is_so in checks.items() if is_so), *grown(result)]


def grown(result: SoakResult) -> list[str]:
    """Return a line for each resource that has grown."""
    half = len(result.samples) // 2
    first, last = (
        max(sample.handles for sample in part) for part in (result.samples[:half], result.samples[half:])
    )
    trends = {name: result.growth(of) for name, of in FIGURES.items()}
    lines = [f"{name} grows: {trend:.3f}" for name, trend in trends.items() if trend > MAX_GROWTH]
    return lines + [f"file handles: at most {first:g}, later {last:g}"] * (last - first > MAX_HANDLES)


def main() -> int:
    """Run the soak test; return 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.soak", description="Soak the exporter.")
    parser.add_argument("--minutes", type=float, default=15, help="duration, default 15")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = soak(Path(folder), options.minutes * 60, fleet_seconds=20)
    print("\n".join(report(result)))
    if options.json:
        options.json.write_bytes(msgspec.json.encode(result))
    return 1 if result.faults else 0


def report(result: SoakResult) -> list[str]:
    """Return the lines of the report on a soak test."""
    first = result.samples[0]
    lines = [f"{result.fleets} fleets, {result.answers.total()} answers: {dict(result.answers)}"]
    for name, of in FIGURES.items():
        values = [of(sample) / of(first) for sample in result.samples]
        span = f"{min(values):.2f} to {max(values):.2f} times the first sample"
        lines.append(f"{name}: trend {result.growth(of):+.1%}, {span}")
    handles: Sequence[float] = [sample.handles for sample in result.samples]
    lines.append(
        f"file handles: {min(handles):g} to {max(handles):g}; {len(result.samples)} samples after the warm-up"
    )
    return [*lines, *(f"WRONG: {fault}" for fault in result.faults)]


if __name__ == "__main__":
    sys.exit(main())
