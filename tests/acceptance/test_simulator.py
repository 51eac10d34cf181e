"""The simulator against a real exporter: its totals are shown exactly, and a difference does not pass."""

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from tempfile import TemporaryFile

import pytest
from msgspec import Struct

from exporter import cli
from tests.clock import Clock
from tests.support import HANG_SECONDS, Exporter, free_port, parse, running, sample, until

EVERY_FAULT = (
    "--fault.duplicate=0.3",
    "--fault.reorder=0.4",
    "--fault.nameless=0.3",
    "--fault.untimed=0.3",
    "--fault.unsigned=0.3",
    "--fault.malformed=0.05",
    "--fault.unknown=0.05",
)
FAST = ("--fast", "--duration=20m", "--tasks=30", "--speed=30", "--failure-every=2m")
PACED = ("--duration=6s", "--tasks=30", "--speed=600", "--failure-every=4s", "--downtime=1s")
#: Nothing that was there before changes by itself while a simulation is compared.
LASTING = {"relay__forget_stopped_after": "30d"}
#: Longer than the reorder window; and longer than the histories of a simulation.
WINDOW_SECONDS, HISTORY_SECONDS = 200.0, 3600.0
SECRETS = ("txSecret", "token=", "canary-key")


class Done(Struct):
    """How a simulation ended, and what it said."""

    status: int
    out: str
    told: str

    def total(self, name: str, *labels: str) -> float:
        """Return what it expects of css_relay_`name`, summed over all samples with such labels."""
        expected = parse(self.out)
        wanted = {tuple(label.split("=")) for label in labels}
        return sum(v for (n, ls), v in expected.items() if n == f"css_relay_{name}" and wanted <= ls)


class Place(Struct):
    """An exporter and the clock that it goes by, with the default reorder window."""

    exporter: Exporter
    clock: Clock


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An exporter for all simulations: each is held against what it adds."""
    folder = tmp_path_factory.mktemp("exporter")
    (folder / "key").write_text("canary-key\n")
    clock = Clock(folder)
    with running(folder, clock=clock, **LASTING) as exporter:
        yield Place(exporter, clock)


def key_flag(place: Place) -> str:
    """Return the flag for a file with a key in it."""
    return f"--sign-key-file={place.exporter.folder / 'key'}"


def command(target: Exporter, *flags: str, shown: Exporter | None = None) -> list[str]:
    """Return the command line of a simulation that verifies, perhaps at another replica."""
    urls = (
        f"--target=http://127.0.0.1:{target.ports['callbacks']}/callbacks",
        f"--verify=http://127.0.0.1:{(shown or target).ports['web']}/metrics",
    )
    return [sys.executable, "-m", "exporter", "simulate", *urls, *flags]


def simulated(
    place: Place, *flags: str, shown: Exporter | None = None, stranger: bytes | None = None
) -> Done:
    """Run a simulation to its end; the window that it waits for passes at once.

    Args:
        shown: the replica at which it verifies, if that is another one.
        stranger: a callback that somebody else sends meanwhile.
    """
    place.clock.advance(HISTORY_SECONDS)  # so that no two simulations have tasks of one name
    environment = {**os.environ, **place.clock.environment}
    with (
        TemporaryFile("w+") as out,
        subprocess.Popen(
            command(place.exporter, *flags, shown=shown),
            env=environment,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("waiting "):
                if stranger is not None:
                    assert place.exporter.post(stranger)[0] == 200
                place.clock.advance(WINDOW_SECONDS)
        status = process.wait(HANG_SECONDS)
        out.seek(0)
        done = Done(status, out.read(), "".join(lines))
    assert not any(secret in done.out + done.told for secret in SECRETS)
    assert "100%" not in done.told, "a bar is for terminals"
    return done


def assert_exact(done: Done, samples: int) -> None:
    """Assert that as many samples were compared, and that all were as expected."""
    assert done.status == 0, done.told
    compared, differ = re.findall(r"(\d+) samples compared, (\d+) differ", done.told)[0]
    assert differ == "0"
    assert int(compared) > samples


@pytest.mark.parametrize("seed", [1, 2])
def test_a_simulation_with_every_fault_at_once_is_exact(place: Place, seed: int) -> None:
    """Each grows the numbers by just what it sent, and nothing that time tells later changes them."""
    done = simulated(place, *FAST, *EVERY_FAULT, f"--seed={seed}", key_flag(place))
    assert_exact(done, samples=200)
    assert done.total("callbacks_total", "outcome=duplicate") > 100
    assert done.total("callbacks_total", "outcome=ignored") > 10
    assert done.total("quarantined_bodies_total", "reason=schema") > 10
    assert done.total("anomalies_total", "kind=unattributed_exit") > 0
    applied = done.total("callbacks_total", "outcome=applied")
    assert 0 < done.total("callback_delay_seconds_count") < applied, "some tasks state times"
    assert_settled(place)


def assert_settled(place: Place) -> None:
    """Assert that the exporter has nothing more to tell: a gap that is seen now is the next thing told."""
    before = place.exporter.scrape()
    gap = sample("documented/vod_source_file_start").replace(b"118145", str(place.clock.now()).encode())
    assert place.exporter.post(gap)[0] == 200
    place.clock.advance(WINDOW_SECONDS)
    missed = before.value("anomalies_total", kind="missed_start")
    until(
        lambda: place.exporter.scrape().value("anomalies_total", kind="missed_start") > missed,
        "the sweep tells the gap",
    )
    after = place.exporter.scrape()
    assert after.value("anomalies_total") == before.value("anomalies_total") + 1
    for name in ("run_seconds", "downtime_seconds", "file_gap_seconds", "start_to_file_latency_seconds"):
        assert after.value(f"{name}_count") == before.value(f"{name}_count"), name


def test_a_fleet_in_its_own_time_is_exact(place: Place) -> None:
    """Callbacks that come when things happen, with every fault at once; no sooner than they happen."""
    begun = place.clock.now()
    done = simulated(place, *PACED, *EVERY_FAULT, key_flag(place))
    assert_exact(done, samples=50)
    assert place.clock.now() - HISTORY_SECONDS - WINDOW_SECONDS - begun > 4, "it takes its time"


def test_losses_are_told_and_what_came_is_exact(place: Place) -> None:
    """Each callback counts by itself; what is missing shows as anomalies, once a sweep has found it."""
    before = place.exporter.scrape()
    done = simulated(place, *FAST, "--fault.lose=0.2", "--fault.duplicate=0.3", "--fault.reorder=0.3")
    assert_exact(done, samples=30)

    def untold() -> list[str]:
        after = place.exporter.scrape()
        kinds = ("missed_start", "missed_finish", "missed_exit")
        told = {
            k: after.value("anomalies_total", kind=k) - before.value("anomalies_total", kind=k) for k in kinds
        }
        return [kind for kind, count in told.items() if count == 0]

    until(lambda: not untold(), "what is missing is told")


def test_a_difference_ends_with_status_one(place: Place) -> None:
    """Somebody else sends a callback, too: that is told once the window is over and numbers stand still."""
    stranger = sample("derived/task_start_event_time")
    shorter = f"--reorder-window={WINDOW_SECONDS - 50:g}s"
    done = simulated(place, "--fast", "--duration=1m", "--tasks=2", shorter, stranger=stranger)
    assert done.status == 1
    assert f"waiting {WINDOW_SECONDS - 48:g} s for the exporter to settle" in done.told
    assert "css_relay_tasks_started_total" in done.told
    assert "expected 0, grew by 1" in done.told


def test_it_says_when_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a trace of the path, which may be a secret."""
    monkeypatch.setattr("exporter.simulator.sender.PAUSE_SECONDS", 0.0)
    port = free_port()
    target = f"--target=http://127.0.0.1:{port}/callbacks/canary-token"
    assert cli.main(["simulate", target, "--fast", "--tasks=1", "--duration=1m"]) == 1
    said = "".join(capsys.readouterr())
    assert f"stopped sending to 127.0.0.1:{port}: no answer" in said
    assert "canary" not in said


def test_a_terminal_shows_how_far_it_is(place: Place) -> None:
    """Up to the end, which is at 100 %."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    target = f"--target=http://127.0.0.1:{place.exporter.ports['callbacks']}/callbacks"
    words = ["simulate", target, "--fast", "--duration=5m", "--tasks=3"]
    place.clock.advance(HISTORY_SECONDS)
    with subprocess.Popen(
        [sys.executable, "-m", "exporter", *words],
        env={**os.environ, **place.clock.environment},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: read(ours), b""))
    os.close(ours)
    assert process.returncode == 0
    assert b"100%" in shown
    assert b"s of histories" in shown


def read(terminal: int) -> bytes:
    """Return what is shown next, nothing once nobody has the other end any more."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
