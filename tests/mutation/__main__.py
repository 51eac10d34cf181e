"""`python -m tests.mutation`: insert faults into the pure core and list those that no unit test finds.

For each fault a forked process imports the program with the fault and runs the tests that reach it until one
fails. The tests that found the most faults run first, then the fastest ones. If a fault survives, a test is
missing, or the fault has no visible effect. Faults without effect are listed in `survivors.txt` with a reason
and reported as accepted. The order of the faults is always the same; a sample depends only on the seed.

    python -m tests.mutation --jobs 2                       # everything, a quarter of an hour
    python -m tests.mutation --only exporter.relay.fold     # one module; several: --only A --only B
    python -m tests.mutation --sample 100 --seed 7
    python -m tests.mutation --json FILE, and then --again FILE    # only the survivors, after a new test

The exit status is 1 if a fault survives that is not accepted, or if an accepted fault is found or does not
exist.
Other tools do not fit: mutmut (3.8) does not change code outside of functions or under a decorator (defaults,
limits, buckets), and cosmic-ray (8.7) starts a process for each fault and changes the files themselves.
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
from tests.mutation.run import (
    Baseline,
    Verdict,
    make_deterministic,
    measure_baseline,
    start,
    verdict,
    warm_up,
)

CORE = (
    *sorted(path for path in Path("exporter/protocol").glob("*.py") if path.stem != "schemas"),
    *sorted(Path("exporter/relay").glob("*.py")),
    *(Path(f"exporter/metrics/{name}.py") for name in ("catalogue", "values")),
)
ACCEPTED = Path(__file__).with_name("survivors.txt")


class Mutant(NamedTuple):
    """A fault by its number in its module, with its name and the lines that reach it."""

    module: str
    number: int
    name: str
    first: int
    lines: range
    is_outside: bool

    @property
    def full_name(self) -> str:
        """The module and the name."""
        return f"{self.module} {self.name}"


def mutants_of(module: str, path: Path) -> Iterator[Mutant]:
    """Yield every fault of a module."""
    for number, fault in enumerate(faults(path.read_text())):
        lines = range(fault.first, fault.last + 1)
        yield Mutant(module, number, fault.name, fault.first, lines, fault.is_outside)


def read_accepted(path: Path) -> dict[str, str]:
    """Return the accepted faults by name, with the reason from the lines below each.

    Raises:
        SystemExit: a fault has no reason.
    """
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


class MutationRun:
    """A run of the tests against faults, `jobs` faults at a time."""

    def __init__(self, paths: dict[str, Path], baseline: Baseline, *, jobs: int, grace: float) -> None:
        self._paths = paths
        self._baseline = baseline
        self._jobs = jobs
        self._grace = grace
        self._found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._running: dict[int, tuple[Mutant, int]] = {}

    def all(self, mutants: Sequence[Mutant]) -> Iterator[tuple[Mutant, Verdict]]:
        """Yield the verdict on each fault."""
        for fault in mutants:
            if len(self._running) >= self._jobs:
                yield self._next_end()
            tests = self._tests(fault)
            if tests:
                self._start(fault, tests)
            else:
                yield fault, Verdict("survived", "")
        while self._running:
            yield self._next_end()

    def _start(self, mutant: Mutant, tests: list[str]) -> None:
        path = self._paths[mutant.module]
        fault = next(islice(faults(path.read_text()), mutant.number, None))
        code = compile(fault.tree, str(path.resolve()), "exec")
        child, reader = start(mutant.module, path.resolve(), code, tests, self._baseline, self._grace)
        self._running[child] = mutant, reader

    def _next_end(self) -> tuple[Mutant, Verdict]:
        child, status = os.wait()
        mutant, reader = self._running.pop(child)
        seen = verdict(status, reader)
        self._found[mutant.module][seen.test] += 1
        return mutant, seen

    def _tests(self, mutant: Mutant) -> list[str]:
        reaching = [] if mutant.is_outside else self._baseline.tests_of(mutant.module, mutant.lines)
        found, seconds = self._found[mutant.module], self._baseline.seconds
        return sorted(reaching or self._baseline.core_tests, key=lambda test: (-found[test], seconds[test]))


def main(words: Sequence[str] | None = None) -> int:
    """Run the tests against the faults, print the results, and return the exit status."""
    given = _options().parse_args(words)
    sys.path.insert(0, str(Path.cwd()))
    make_deterministic()
    paths = {".".join(path.with_suffix("").parts): path for path in given.modules}
    paths = {name: path for name, path in paths.items() if not given.only or name in given.only}
    mutants = [fault for name, path in paths.items() for fault in mutants_of(name, path)]
    if given.again:
        rows = json.loads(given.again.read_text())
        survived = {f"{row['module']} {row['fault']}" for row in rows if row["outcome"] == "survived"}
        mutants = [fault for fault in mutants if fault.full_name in survived]
    if given.sample:
        mutants = sorted(Random(given.seed).sample(mutants, min(given.sample, len(mutants))))
    print(f"{len(mutants)} faults; the tests without one first")
    baseline = measure_baseline(paths, [str(path) for path in given.tests])
    warm_up(baseline)
    run = MutationRun(paths, baseline, jobs=given.jobs, grace=given.grace)
    results = []
    for done, (fault, seen) in enumerate(run.all(mutants), 1):
        results.append((fault, seen))
        if seen.outcome == "survived":
            print(f"survived: {fault.module.replace('.', '/')}.py:{fault.first} {fault.name}", flush=True)
        if done % 100 == 0:
            print(f"{done} of {len(mutants)}", flush=True)
    if given.json:
        _write(given.json, results)
    return report(results, read_accepted(given.accepted), is_whole=not (given.sample or given.again))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="Mutation tests of the core."
    )
    parser.add_argument("--only", action="append", metavar="MODULE", help="only this module, by its name")
    parser.add_argument("--sample", type=int, metavar="N", help="only a random sample of N faults")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of faults at a time")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only the survivors in a file of --json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result of each fault to a file")
    parser.add_argument("--modules", type=Path, nargs="+", default=CORE, metavar="FILE", help="modules")
    parser.add_argument("--tests", type=Path, nargs="+", default=[Path("tests/unit")], help="tests to run")
    parser.add_argument(
        "--grace", type=float, default=10, metavar="SECONDS", help="additional processor time for each test"
    )
    parser.add_argument("--accepted", type=Path, default=ACCEPTED, help="the file with accepted faults")
    return parser


def _write(path: Path, results: Sequence[tuple[Mutant, Verdict]]) -> None:
    rows = [
        {"module": m.module, "line": m.first, "fault": m.name, "outcome": v.outcome, "test": v.test}
        for m, v in sorted(results)
    ]
    path.write_text(json.dumps(rows, indent=1) + "\n")


def report(results: Sequence[tuple[Mutant, Verdict]], accepted: dict[str, str], *, is_whole: bool) -> int:
    """Print the number of found faults by module, and the survivors; return the exit status.

    Args:
        accepted: the reasons of accepted faults, by name.
        is_whole: whether the results include every fault of their modules.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    survivors = {mutant.full_name for mutant, seen in results if seen.outcome == "survived"}
    for mutant, seen in results:
        counts[mutant.module][seen.outcome] += 1
        counts[mutant.module]["accepted"] += mutant.full_name in survivors & accepted.keys()
    print(f"\n{'module':32}{'faults':>8}{'killed':>8}{'hang':>6}{'survive':>9}{'accepted':>10}{'score':>8}")
    for module, row in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        total = row["killed"] + row["hangs"] + row["survived"]
        counting = total - row["accepted"]
        score = (row["killed"] + row["hangs"]) / counting if counting else 1.0
        numbers = f"{total:8}{row['killed']:8}{row['hangs']:6}{row['survived']:9}{row['accepted']:10}"
        print(f"{module:32}{numbers}{score:8.1%}")
    tested = {mutant.full_name for mutant, _ in results}
    modules = {mutant.module for mutant, _ in results}
    gone = {name for name in accepted if name in tested - survivors} | {
        name for name in accepted if is_whole and name.split(" ")[0] in modules and name not in tested
    }
    for mutant, _ in sorted(r for r in results if r[1].outcome == "survived"):
        if mutant.full_name not in accepted:
            print(f"survives: {mutant.full_name}")
    for name in sorted(gone):
        print(f"accepted, but found or not existing: {name}")
    return 1 if gone or survivors - accepted.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
