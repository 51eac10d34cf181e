"""The mutation tests of the core, run on a small module: they find tested faults and report untested ones."""

import json
import subprocess
import sys
from pathlib import Path

from tests.mutation.__main__ import Mutant, report
from tests.mutation.faults import faults
from tests.mutation.run import Verdict
from tests.support import HANG_SECONDS

ROOT = Path(__file__).parents[2]
TOY = """
LIMIT = 3


def is_small(number: int) -> bool:
    return number < LIMIT


def emptied(queue: list[int]) -> int:
    while queue:
        queue.pop()
    return len(queue)


def untested(number: int) -> int:
    return max(number, 0)
"""
TEST = """
from toy import emptied, is_small


def test_a_small_number() -> None:
    assert is_small(2)
    assert not is_small(3)


def test_nothing_is_left() -> None:
    assert emptied([7]) == 0
"""
#: The faults of the module, and the expected outcomes.
OUTCOMES = {
    "module: LIMIT = 3 -> LIMIT = 4": "killed",
    "is_small(): number < LIMIT -> number <= LIMIT": "killed",
    "is_small(): number < LIMIT -> number >= LIMIT": "killed",
    "emptied(): queue.pop() -> pass": "hangs",
    "untested(): max(number, 0) -> min(number, 0)": "survived",
    "untested(): max(number, 0) -> max(number, 1)": "survived",
}
SURVIVORS = [name for name, outcome in OUTCOMES.items() if outcome == "survived"]


def run(folder: Path, *more: str) -> tuple[int, str]:
    """Run the mutation tests on the small module; return the exit status and the output."""
    command = [sys.executable, "-m", "tests.mutation", "--modules", "toy.py", "--tests", "test_toy.py"]
    command += ["--jobs", "1", "--grace", "5", *more]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/bin"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_fault_that_no_test_finds_is_reported_and_every_other_is_found(tmp_path: Path) -> None:
    """A tested fault is killed or hangs; an untested fault survives, and is no failure if it is accepted."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text(TEST)
    report, accepted = tmp_path / "report.json", tmp_path / "survivors.txt"
    found, (survivor, other) = "toy module: LIMIT = 3 -> LIMIT = 4", (f"toy {n}" for n in SURVIVORS)
    accepted.write_text(f"{found}\n    It is found.\n{survivor}\n    Nothing\n    needs it.\n")
    status, output = run(tmp_path, "--json", str(report), "--accepted", str(accepted))
    assert {row["fault"]: row["outcome"] for row in json.loads(report.read_text())} == OUTCOMES, output
    assert status == 1
    reported = [line for line in output.splitlines() if line.startswith(("survives", "accepted"))]
    assert reported == [f"survives: {other}", f"accepted, but found or not existing: {found}"]


def test_the_status_is_0_if_exactly_the_accepted_faults_survive() -> None:
    """An accepted fault that does not exist any more is reported too, if its module was tested."""
    made = Mutant("toy", 0, "max(number, 0) -> min(number, 0)", 1, range(1, 2), is_outside=False)
    survives, is_found = [(made, Verdict("survived", ""))], [(made, Verdict("killed", "a test"))]
    accepted = {made.full_name: "Nothing needs it."}
    assert report(survives, accepted, is_whole=True) == 0
    assert report(survives, {}, is_whole=True) == 1
    assert report(is_found, {}, is_whole=True) == 0
    assert report(is_found, accepted, is_whole=True) == 1
    gone = {**accepted, "toy no more": "It was.", "other no more": "It was."}
    assert [report(survives, gone, is_whole=is_whole) for is_whole in (True, False)] == [1, 0]


def test_faults_are_the_same_each_time_and_each_is_a_different_program() -> None:
    """Each has a unique name, and is undone before the next fault."""
    source = (ROOT / "exporter/relay/state_machine.py").read_text()
    made = [(fault.name, compile(fault.tree, "state_machine", "exec").co_code) for fault in faults(source)]
    assert [name for name, _ in made] == [fault.name for fault in faults(source)]
    assert len({name for name, _ in made}) == len(made) > 100
