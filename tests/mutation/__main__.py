"""`python -m tests.mutation`: makes faults in the pure core, and tells which of them no unit test finds.

For each fault a fork imports the program with it and runs the tests that reach it, first those that found
most, then the fastest, until one fails. What survives is a test that is missing, or a fault that changes
nothing anybody can see: these stand in `survivors.txt` with a reason, and are told as accepted. The same
faults in the same order each time; a sample is the same for the same seed.

    python -m tests.mutation --jobs 2                       # everything, a quarter of an hour
    python -m tests.mutation --only exporter.relay.fold     # one module; several: --only A --only B
    python -m tests.mutation --sample 100 --seed 7
    python -m tests.mutation --json FILE, and then --again FILE    # those that survived, after a new test

Exits with 1 if a fault survives that is not accepted, or if one that is accepted is found, or is no more.
mutmut (3.8) and cosmic-ray (8.7) were looked at: the former leaves alone whatever stands outside of
functions or under a decorator (defaults of values, bounds, buckets), the latter starts a process for each
fault and changes the files themselves.
"""

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.mutation.faults import faults
from tests.mutation.run import Known, Verdict, know, start, take_no_chances, verdict, warm

CORE = (
    *sorted(path for path in Path("exporter/protocol").glob("*.py") if path.stem != "schemas"),
    *sorted(Path("exporter/relay").glob("*.py")),
    *(Path(f"exporter/metrics/{name}.py") for name in ("catalogue", "values")),
)
ACCEPTED = Path(__file__).with_name("survivors.txt")


class Made(NamedTuple):
    """A fault that can be made: the how-manieth of its module, its name, and the lines that reach it."""

    module: str
    number: int
    name: str
    first: int
    lines: range
    is_outside: bool

    @property
    def full_name(self) -> str:
        """Its name with its module."""
        return f"{self.module} {self.name}"


def made_in(module: str, path: Path) -> Iterator[Made]:
    """Yield every fault of a module."""
    for number, fault in enumerate(faults(path.read_text())):
        lines = range(fault.first, fault.last + 1)
        yield Made(module, number, fault.name, fault.first, lines, fault.is_outside)


def read_accepted(path: Path) -> dict[str, str]:
    """Return the faults that may survive, each with the reason in the lines under it."""
    accepted: dict[str, str] = {}
    name = ""
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith(" ") and name:
            accepted[name] = f"{accepted[name]} {line.strip()}".strip()
        elif line.strip() and not line.startswith("#"):
            name = line.rstrip()
            accepted[name] = ""
    unexplained = [name for name, reason in accepted.items() if not reason]
    if unexplained:
        raise SystemExit(f"{path}: no reason is given for {unexplained[0]}")
    return accepted


class Hunt:
    """Runs the tests against faults, so many at once."""

    def __init__(self, paths: dict[str, Path], known: Known, *, jobs: int, grace: float) -> None:
        self._paths = paths
        self._known = known
        self._jobs = jobs
        self._grace = grace
        self._found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._running: dict[int, tuple[Made, int]] = {}

    def all(self, made: Sequence[Made]) -> Iterator[tuple[Made, Verdict]]:
        """Yield what became of each."""
        for fault in made:
            if len(self._running) >= self._jobs:
                yield self._next_end()
            tests = self._tests(fault)
            if tests:
                self._start(fault, tests)
            else:
                yield fault, Verdict("survived", "")
        while self._running:
            yield self._next_end()

    def _start(self, made: Made, tests: list[str]) -> None:
        path = self._paths[made.module]
        fault = next(islice(faults(path.read_text()), made.number, None))
        code = compile(fault.tree, str(path.resolve()), "exec")
        child, lent = start(made.module, path.resolve(), code, tests, self._known, self._grace)
        self._running[child] = made, lent

    def _next_end(self) -> tuple[Made, Verdict]:
        child, status = os.wait()
        made, lent = self._running.pop(child)
        seen = verdict(status, lent)
        self._found[made.module][seen.test] += 1
        return made, seen

    def _tests(self, made: Made) -> list[str]:
        reaching = [] if made.is_outside else self._known.tests_of(made.module, made.lines)
        found, seconds = self._found[made.module], self._known.seconds
        return sorted(reaching or self._known.core_tests, key=lambda test: (-found[test], seconds[test]))


def main(words: Sequence[str] | None = None) -> int:
    """Make the faults, print what became of them, and return the exit status."""
    given = _options().parse_args(words)
    sys.path.insert(0, str(Path.cwd()))
    take_no_chances()
    paths = {".".join(path.with_suffix("").parts): path for path in given.modules}
    paths = {name: path for name, path in paths.items() if not given.only or name in given.only}
    made = [fault for name, path in paths.items() for fault in made_in(name, path)]
    if given.again:
        rows = json.loads(given.again.read_text())
        survived = {f"{row['module']} {row['fault']}" for row in rows if row["outcome"] == "survived"}
        made = [fault for fault in made if fault.full_name in survived]
    if given.sample:
        made = sorted(Random(given.seed).sample(made, min(given.sample, len(made))))
    print(f"{len(made)} faults; the tests without one first")
    known = know(paths, [str(path) for path in given.tests])
    warm(known)
    hunt = Hunt(paths, known, jobs=given.jobs, grace=given.grace)
    results = []
    for done, (fault, seen) in enumerate(hunt.all(made), 1):
        results.append((fault, seen))
        if seen.outcome == "survived":
            print(f"survived: {fault.module.replace('.', '/')}.py:{fault.first} {fault.name}", flush=True)
        if done % 100 == 0:
            print(f"{done} of {len(made)}", flush=True)
    if given.json:
        _write(given.json, results)
    return report(results, read_accepted(given.accepted), is_whole=not (given.sample or given.again))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Mutation tests of the core."
    )
    parser.add_argument("--only", action="append", metavar="MODULE", help="this module alone, by its name")
    parser.add_argument("--sample", type=int, metavar="N", help="so many faults, drawn by chance")
    parser.add_argument("--seed", type=int, default=0, help="draws another sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="so many faults at once")
    parser.add_argument("--again", type=Path, metavar="FILE", help="those that survived, by such a report")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what became of each fault")
    parser.add_argument("--modules", type=Path, nargs="+", default=CORE, metavar="FILE", help="other modules")
    parser.add_argument("--tests", type=Path, nargs="+", default=[Path("tests/unit")], help="other tests")
    parser.add_argument(
        "--grace", type=float, default=10, metavar="SECONDS", help="before a test is said to hang"
    )
    parser.add_argument("--accepted", type=Path, default=ACCEPTED, help="faults that may survive, and why")
    return parser


def _write(path: Path, results: Sequence[tuple[Made, Verdict]]) -> None:
    rows = [
        {"module": m.module, "line": m.first, "fault": m.name, "outcome": v.outcome, "test": v.test}
        for m, v in sorted(results)
    ]
    path.write_text(json.dumps(rows, indent=1) + "\n")


def report(results: Sequence[tuple[Made, Verdict]], accepted: dict[str, str], *, is_whole: bool) -> int:
    """Print how many faults were found, by module, and what is left; return the exit status.

    Args:
        accepted: why a fault may survive, by its name.
        is_whole: every fault of these modules is among the results.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    survivors = {made.full_name for made, seen in results if seen.outcome == "survived"}
    for made, seen in results:
        counts[made.module][seen.outcome] += 1
        counts[made.module]["accepted"] += made.full_name in survivors & accepted.keys()
    print(f"\n{'module':32}{'faults':>8}{'killed':>8}{'hang':>6}{'survive':>9}{'accepted':>10}{'score':>8}")
    for module, row in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        total = row["killed"] + row["hangs"] + row["survived"]
        counting = total - row["accepted"]
        score = (row["killed"] + row["hangs"]) / counting if counting else 1.0
        numbers = f"{total:8}{row['killed']:8}{row['hangs']:6}{row['survived']:9}{row['accepted']:10}"
        print(f"{module:32}{numbers}{score:8.1%}")
    looked_at = {made.full_name for made, _ in results}
    modules = {made.module for made, _ in results}
    gone = {name for name in accepted if name in looked_at - survivors} | {
        name for name in accepted if is_whole and name.split(" ")[0] in modules and name not in looked_at
    }
    for made, _ in sorted(r for r in results if r[1].outcome == "survived"):
        if made.full_name not in accepted:
            print(f"survives: {made.full_name}")
    for name in sorted(gone):
        print(f"accepted, but found or no more: {name}")
    return 1 if gone or survivors - accepted.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
