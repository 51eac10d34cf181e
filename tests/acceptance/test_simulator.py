"""The simulator with a real exporter: the exporter shows its exact totals, and a difference is reported."""

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
#: Tasks of earlier simulations must not be forgotten during the comparison of a later one.
LASTING = {"relay__forget_stopped_after": "30d"}
#: Longer than the reorder window, and longer than the histories of a simulation.
WINDOW_SECONDS, HISTORY_SECONDS = 200.0, 3600.0
SECRETS = ("txSecret", "token=", "canary-key")


class Result(Struct):
    """The exit status of a simulation, its stdout and its stderr."""

    status: int
    out: str
    err: str

    def total(self, name: str, *labels: str) -> float:
        """Return the expected sum of css_relay_`name` over all samples with these labels."""
        expected = parse(self.out)
        wanted = {tuple(label.split("=")) for label in labels}
        return sum(v for (n, ls), v in expected.items() if n == f"css_relay_{name}" and wanted <= ls)


class Clocked(Struct):
    """An exporter with the default reorder window, and its clock."""

    exporter: Exporter
    clock: Clock


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocked]:
    """Yield an exporter for all simulations; each one checks what it adds."""
    folder = tmp_path_factory.mktemp("exporter")
    (folder / "key").write_text("canary-key\n")
    clock = Clock(folder)
    with running(folder, clock=clock, **LASTING) as exporter:
        yield Clocked(exporter, clock)


def key_flag(clocked: Clocked) -> str:
    """Return the flag of the sign key file."""
    return f"--sign-key-file={clocked.exporter.folder / 'key'}"


def command(target: Exporter, *flags: str, replica: Exporter | None = None) -> list[str]:
    """Return the command line of a simulation that verifies, by default at its target."""
    urls = (
        f"--target=http://127.0.0.1:{target.ports['callbacks']}/callbacks",
        f"--verify=http://127.0.0.1:{(replica or target).ports['web']}/metrics",
    )
    return [sys.executable, "-m", "exporter", "simulate", *urls, *flags]


def simulate(
    clocked: Clocked, *flags: str, replica: Exporter | None = None, foreign: bytes | None = None
) -> Result:
    """Run a simulation; advance the clock instead of waiting for the reorder window.

    Args:
        replica: the replica at which it verifies, by default its target.
        foreign: a callback that another sender sends meanwhile.
    """
    clocked.clock.advance(HISTORY_SECONDS)  # so that no two simulations have the same task ids
    environment = {**os.environ, **clocked.clock.environment}
    with (
        TemporaryFile("w+") as out,
        subprocess.Popen(
            command(clocked.exporter, *flags, replica=replica),
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
                if foreign is not None:
                    assert clocked.exporter.post(foreign)[0] == 200
                clocked.clock.advance(WINDOW_SECONDS)
        status = process.wait(HANG_SECONDS)
        out.seek(0)
        result = Result(status, out.read(), "".join(lines))
    assert not any(secret in result.out + result.err for secret in SECRETS)
    assert "100%" not in result.err, "a progress bar is for terminals only"
    return result


def assert_exact(result: Result, samples: int) -> None:
    """Assert that more than `samples` samples were compared, without a difference."""
    assert result.status == 0, result.err
    compared, differ = re.findall(r"(\d+) samples compared, (\d+) differ", result.err)[0]
    assert differ == "0"
    assert int(compared) > samples


@pytest.mark.parametrize("seed", [1, 2])
def test_a_simulation_with_every_fault_at_once_is_exact(clocked: Clocked, seed: int) -> None:
    """The counters grow exactly by the totals of the simulation, and later sweeps change nothing."""
    result = simulate(clocked, *FAST, *EVERY_FAULT, f"--seed={seed}", key_flag(clocked))
    assert_exact(result, samples=200)
    assert result.total("callbacks_total", "outcome=duplicate") > 100
    assert result.total("callbacks_total", "outcome=ignored") > 10
    assert result.total("quarantined_bodies_total", "reason=schema") > 10
    assert result.total("anomalies_total", "kind=unattributed_exit") > 0
    applied = result.total("callbacks_total", "outcome=applied")
    assert 0 < result.total("callback_delay_seconds_count") < applied, "only some tasks have event times"
    assert_settled(clocked)


def assert_settled(clocked: Clocked) -> None:
    """Assert that everything is settled: after a new gap, the sweep counts that gap and nothing else."""
    before = clocked.exporter.scrape()
    gap = sample("documented/vod_source_file_start").replace(b"118145", str(clocked.clock.now()).encode())
    assert clocked.exporter.post(gap)[0] == 200
    clocked.clock.advance(WINDOW_SECONDS)
    missed = before.value("anomalies_total", kind="missed_start")
    until(
        lambda: clocked.exporter.scrape().value("anomalies_total", kind="missed_start") > missed,
        "the sweep counts the gap",
    )
    after = clocked.exporter.scrape()
    assert after.value("anomalies_total") == before.value("anomalies_total") + 1
    for name in ("run_seconds", "downtime_seconds", "file_gap_seconds", "start_to_file_latency_seconds"):
        assert after.value(f"{name}_count") == before.value(f"{name}_count"), name


def test_a_simulation_in_real_time_is_exact(clocked: Clocked) -> None:
    """Callbacks are sent at their event times, not earlier, with every fault at once."""
    begun = clocked.clock.now()
    result = simulate(clocked, *PACED, *EVERY_FAULT, key_flag(clocked))
    assert_exact(result, samples=50)
    assert clocked.clock.now() - HISTORY_SECONDS - WINDOW_SECONDS - begun > 4, (
        "it takes as long as its histories"
    )


def test_losses_are_counted_as_anomalies(clocked: Clocked) -> None:
    """The accepted callbacks are exact; a sweep counts the missing ones as anomalies."""
    before = clocked.exporter.scrape()
    result = simulate(clocked, *FAST, "--fault.lose=0.2", "--fault.duplicate=0.3", "--fault.reorder=0.3")
    assert_exact(result, samples=30)

    def missing() -> list[str]:
        after = clocked.exporter.scrape()
        kinds = ("missed_start", "missed_finish", "missed_exit")
        counts = {
            k: after.value("anomalies_total", kind=k) - before.value("anomalies_total", kind=k) for k in kinds
        }
        return [kind for kind, count in counts.items() if count == 0]

    until(lambda: not missing(), "the missing callbacks are counted")


def test_a_difference_ends_with_status_one(clocked: Clocked) -> None:
    """Another sender sends a callback, too: the difference is reported after the reorder window."""
    foreign = sample("derived/task_start_event_time")
    shorter = f"--reorder-window={WINDOW_SECONDS - 50:g}s"
    result = simulate(clocked, "--fast", "--duration=1m", "--tasks=2", shorter, foreign=foreign)
    assert result.status == 1
    assert f"waiting {WINDOW_SECONDS - 48:g} s for the exporter to settle" in result.err
    assert "css_relay_tasks_started_total" in result.err
    assert "expected 0, grew by 1" in result.err


def test_an_unreachable_target_is_reported_without_its_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path is not printed, because it may contain a token."""
    monkeypatch.setattr("exporter.simulator.client.PAUSE_SECONDS", 0.0)
    port = free_port()
    target = f"--target=http://127.0.0.1:{port}/callbacks/canary-token"
    assert cli.main(["simulate", target, "--fast", "--tasks=1", "--duration=1m"]) == 1
    output = "".join(capsys.readouterr())
    assert f"stopped sending to 127.0.0.1:{port}: no answer" in output
    assert "canary" not in output


def test_a_terminal_shows_the_progress(clocked: Clocked) -> None:
    """The progress bar ends at 100 %."""
    screen, terminal_end = pty.openpty()
    termios.tcsetwinsize(terminal_end, (24, 80))
    target = f"--target=http://127.0.0.1:{clocked.exporter.ports['callbacks']}/callbacks"
    arguments = ["simulate", target, "--fast", "--duration=5m", "--tasks=3"]
    clocked.clock.advance(HISTORY_SECONDS)
    with subprocess.Popen(
        [sys.executable, "-m", "exporter", *arguments],
        env={**os.environ, **clocked.clock.environment},
        stdout=subprocess.DEVNULL,
        stderr=terminal_end,
    ) as process:
        os.close(terminal_end)
        shown = b"".join(iter(lambda: read(screen), b""))
    os.close(screen)
    assert process.returncode == 0
    assert b"100%" in shown
    assert b"s of histories" in shown


def read(terminal: int) -> bytes:
    """Return the next output of a terminal; nothing after the process has closed it."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
