"""The simulator against a real exporter: its totals are shown exactly, and a difference does not pass."""

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Exporter, free_port, running, sample

EVERY_FAULT = (
    "--fault.duplicate=0.3",
    "--fault.reorder=0.4",
    "--fault.nameless=0.3",
    "--fault.untimed=0.3",
    "--fault.unsigned=0.3",
    "--fault.malformed=0.05",
    "--fault.unknown=0.05",
)
FAST = ("--fast", "--duration=20m", "--tasks=60", "--speed=30", "--failure-every=2m")
WINDOW = "1s"


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """An exporter whose reorder window is soon over."""
    with running(tmp_path, relay__reorder_window=WINDOW) as exporter:
        yield exporter


@pytest.fixture
def key_flag(tmp_path: Path) -> str:
    """The flag for a file with a key in it."""
    (tmp_path / "key").write_text("canary-key\n")
    return f"--sign-key-file={tmp_path / 'key'}"


def command(exporter: Exporter, *flags: str) -> list[str]:
    """Return the command line of a simulation against `exporter` that verifies."""
    target, metrics = (f"http://127.0.0.1:{exporter.ports[name]}" for name in ("callbacks", "web"))
    given = (f"--target={target}/callbacks", f"--verify={metrics}/metrics", f"--reorder-window={WINDOW}")
    return [sys.executable, "-m", "exporter", "simulate", *given, *flags]


def simulated(exporter: Exporter, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a simulation to its end."""
    return subprocess.run(command(exporter, *flags), capture_output=True, text=True, check=False)


def test_ten_seeds_with_every_fault_at_once_are_exact(exporter: Exporter, key_flag: str) -> None:
    """One after the other into the same store: each grows the numbers by just what it sent."""
    for seed in range(1, 11):
        done = simulated(exporter, *FAST, *EVERY_FAULT, f"--seed={seed}", key_flag)
        assert done.returncode == 0, (seed, done.stderr)
        assert " 0 differ" in done.stderr
        assert int(done.stderr.rpartition("settle\n")[2].split()[0]) > 200
        assert 'css_relay_callbacks_total{event="TaskStart",outcome="duplicate"}' in done.stdout


@pytest.mark.alone
def test_a_fleet_in_its_own_time_is_exact(exporter: Exporter, key_flag: str) -> None:
    """Callbacks that come when things happen, with every fault at once."""
    paced = ("--duration=20s", "--tasks=60", "--speed=300", "--failure-every=8s", "--downtime=3s")
    done = simulated(exporter, *paced, *EVERY_FAULT, key_flag)
    assert done.returncode == 0, done.stderr


def test_losses_are_told_and_what_came_is_exact(exporter: Exporter) -> None:
    """Each callback counts by itself; what is missing shows as anomalies."""
    done = simulated(exporter, *FAST, "--fault.lose=0.2", "--fault.duplicate=0.3", "--fault.reorder=0.3")
    assert done.returncode == 0, done.stderr
    scrape = exporter.scrape()
    for kind in ("missed_start", "missed_finish", "missed_exit"):
        assert scrape.value("anomalies_total", kind=kind) > 0, kind


def test_a_difference_ends_with_status_one(exporter: Exporter) -> None:
    """Here somebody else sends a callback too."""
    with subprocess.Popen(
        [*command(exporter, *FAST), "--reorder-window=3s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        exporter.post(sample("derived/task_start_event_time"))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "css_relay_tasks_started_total" in errors
    assert "expected 0, grew by 1" in errors


def test_it_says_when_nobody_answers() -> None:
    """Without a trace of the path, which may be a secret."""
    port = free_port()
    target = f"--target=http://127.0.0.1:{port}/callbacks/canary-token"
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "simulate", target, "--fast", "--tasks=1", "--duration=1m"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"gave up on 127.0.0.1:{port}: it does not answer" in done.stderr
    assert "canary" not in done.stderr + done.stdout


def test_no_secret_is_in_what_it_prints(exporter: Exporter, key_flag: str) -> None:
    """Neither push keys, nor tokens of files, nor the key that it signs with."""
    done = simulated(exporter, *FAST, key_flag)
    assert done.returncode == 0
    for secret in ("txSecret", "token=", "canary-key"):
        assert secret not in done.stdout + done.stderr


def test_a_terminal_shows_how_far_it_is(exporter: Exporter) -> None:
    """And a file of output does not."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    done = subprocess.run(command(exporter, *FAST), stdout=subprocess.PIPE, stderr=slave, check=False)
    os.close(slave)
    shown = os.read(master, 65536).decode()
    os.close(master)
    assert done.returncode == 0
    assert "100%" in shown
    assert "100%" not in simulated(exporter, *FAST, "--seed=2").stderr
