"""What is said of a run of the tests: what was left out and why, and what a step of it did."""

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
def test_that_is_left_out(number):
    pytest.skip("a part is missing")
"""


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_a_run_ends_with_what_was_left_out_and_why_and_in_ci_that_fails_it(
    tmp_path: Path, ci: str, status: int
) -> None:
    """A test that is left out guards nothing."""
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
    """Run a step that is a script; return its status and all that is said of it."""
    command = [STEP, "Something", "bash", "-c", script]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def test_a_step_is_quiet_but_for_what_it_left_out_or_had_ready() -> None:
    """One line says what was done, and for how long."""
    status, said = step("echo noise; echo more >&2; echo '*** LEFT OUT: a part'; echo '*** and another'")
    assert status == 0
    assert re.fullmatch(r"Something +\d+ s  LEFT OUT: a part\n +and another\n", said)


def test_a_step_that_fails_shows_everything_and_its_status() -> None:
    """So that nobody has to run it again to see why."""
    status, said = step("echo noise; echo more >&2; exit 3")
    assert status == 3
    assert re.fullmatch(r"Something +failed after \d+ s with status 3:\nnoise\nmore\n", said)


#: Files of tests that read a clock or sleep, and why no verdict hangs on the speed of the machine for it.
CLOCKS = {
    "tests/support.py": "the one deadline, which only a hang reaches; polls",
    "tests/caches.py": "says how long it took to make what is kept",
    "tests/fuzz/__main__.py": "how long `make fuzz` goes on",
    "tests/fuzz/soak.py": "how long `make soak` goes on",
    "tests/fuzz/targets.py": "a limit of `make fuzz` alone",
    "tests/fuzz/wire.py": "polls",
    "tests/acceptance/chaos.py": "how long `make chaos` goes on, and how long things are broken",
    "tests/acceptance/test_compose.py": "polls, in a container",
    "tests/acceptance/test_image.py": "polls, in a container",
    "tests/acceptance/test_replicas.py": "how long a server stands still, and nothing hangs on it",
    "tests/http/test_bad_input.py": "nothing is given up before its time; after it, at any",
    "tests/http/test_connections.py": "polls",
    "tests/http/test_tls.py": "nothing is given up before its time; after it, at any",
}
READS = re.compile(
    r"\b(?:monotonic|perf_counter|process_time|thread_time|sleep)(?:_ns)?\((?!0\))|VmRSS|getrusage"
)


def test_no_test_reads_a_clock_without_a_reason() -> None:
    """What is about speed is a benchmark; what waits, waits for a condition."""
    read = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if READS.search(path.read_text()) and path != Path(__file__)
    }
    assert read == CLOCKS.keys()
