"""The summary of a test run, with the skipped tests and why, and the output of its steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP = ROOT / "scripts" / "step"
SUITE = """
import pytest

def test_that_passes():
    pass

@pytest.mark.parametrize("number", range(2))
def test_that_is_skipped(number):
    pytest.skip("a part is missing")
"""


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_a_run_ends_with_a_summary_of_skipped_tests_and_fails_for_them_in_ci(
    tmp_path: Path, ci: str, status: int
) -> None:
    """A skipped test checks nothing."""
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--noconftest",
    ]
    done = subprocess.run(
        [*command, "-c", os.devnull, f"--rootdir={tmp_path}", suite],
        cwd=ROOT,
        env={**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"^1 passed, 0 failed, 2 left out; 2 x a part is missing", done.stdout, re.MULTILINE)
    assert done.returncode == status, done.stdout


def step(script: str) -> tuple[int, str]:
    """Run a step; return its exit status and its output."""
    command = [STEP, "Something", "bash", "-c", script]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def test_a_step_prints_one_line_and_what_it_left_out() -> None:
    """The line has the name of the step and its duration."""
    status, output = step("echo noise; echo more >&2; echo '*** LEFT OUT: a part'; echo '*** and another'")
    assert status == 0
    assert re.fullmatch(r"Something +\d+ s  LEFT OUT: a part\n +and another\n", output)


def test_a_failed_step_prints_its_whole_output_and_its_status() -> None:
    """Nobody has to run it again to see why it failed."""
    status, output = step("echo noise; echo more >&2; exit 3")
    assert status == 3
    assert re.fullmatch(r"Something +failed after \d+ s with status 3:\nnoise\nmore\n", output)


#: Test files that read a clock or sleep, and why no result depends on the speed of the machine.
CLOCKS = {
    "tests/support.py": "the one deadline, exceeded by hangs only; polls",
    "tests/caches.py": "prints how long it took to fill a cache",
    "tests/fuzz/__main__.py": "the duration of `make fuzz`",
    "tests/fuzz/soak.py": "the duration of `make soak`",
    "tests/fuzz/targets.py": "a limit for `make fuzz` only",
    "tests/fuzz/wire.py": "polls",
    "tests/acceptance/chaos.py": "the duration of `make chaos` and of its faults",
    "tests/acceptance/test_compose.py": "polls, in a container",
    "tests/acceptance/test_hops.py": "which functions ran between two moments; no result depends on how long",
    "tests/acceptance/test_image.py": "polls, in a container",
    "tests/acceptance/test_replicas.py": "the duration of a server's pause; no result depends on it",
    "tests/http/test_bad_input.py": "a connection is not closed before its time limit; after it, at any time",
    "tests/http/test_connections.py": "polls",
    "tests/http/test_tls.py": "a connection is not closed before its time limit; after it, at any time",
}
READS = re.compile(
    r"\b(?:monotonic|perf_counter|process_time|thread_time|sleep)(?:_ns)?\((?!0\))|VmRSS|getrusage"
)


def test_no_test_reads_a_clock_without_a_reason() -> None:
    """Speed is measured by benchmarks; tests wait for conditions."""
    read = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if READS.search(path.read_text()) and path != Path(__file__)
    }
    assert read == CLOCKS.keys()
