"""Run tests in forks of this process: once without a fault, and once for each fault.

This process imports the slow packages (pytest, hypothesis, the dependencies), but no module of the program. A
fork imports the program with the fault in it, so that every `from module import name` has it too, and runs
only the tests that reach the fault. The verdict does not depend on the speed of the machine: a test hangs if
it needs more than ten times its processor time without the fault, plus some seconds.
"""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import coverage
import hypothesis
import pytest

#: The limit of processor time for a test, as a multiple of its time without a fault; and the limit for all
#: imports.
HANG_FACTOR, IMPORT_SECONDS = 10.0, 120.0
#: The limit of elapsed time, for a test that waits forever without using processor time.
WAIT_SECONDS = 900
MEMORY_BYTES = 2 * 2**30
#: pytest's arguments: only the plugins that the tests need, and no cache.
ARGUMENTS = [
    *("-q", "-x", "--no-header", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-p", "no:cacheprovider", "-p", "no:faulthandler"),
    *("-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
]


class Baseline(NamedTuple):
    """The results of a run without a fault.

    Args:
        seconds: the processor time of each test.
        reached: by module and line, the tests that reach the line.
        imported: the imported modules of other packages, in the order of import.
    """

    seconds: dict[str, float]
    reached: dict[str, dict[int, list[str]]]
    imported: list[str]

    def tests_of(self, module: str, lines: range) -> list[str]:
        """Return the tests that reach any of the lines."""
        return sorted({test for line in lines for test in self.reached.get(module, {}).get(line, ())})

    @property
    def core_tests(self) -> list[str]:
        """All tests of the files with a test that reaches a module: a test of constants reaches no line."""
        files = {
            test.partition("::")[0] for rows in self.reached.values() for row in rows.values() for test in row
        }
        return sorted(test for test in self.seconds if test.partition("::")[0] in files)


class Verdict(NamedTuple):
    """The result for a fault: killed, hangs or survived; and the test that found it."""

    outcome: str
    test: str


def measure_baseline(modules: Mapping[str, Path], arguments: Sequence[str]) -> Baseline:
    """Run the tests without a fault and return the lines that each of them reaches.

    Raises:
        SystemExit: a test fails.
    """
    reader, writer = os.pipe()
    child = _fork(lambda: _measure_baseline(modules, arguments, writer))
    os.close(writer)
    with os.fdopen(reader) as report:
        text = report.read()
    _, status = os.waitpid(child, 0)
    if status or not text:
        raise SystemExit("the tests fail without a fault")
    told = json.loads(text)
    reached = {name: {int(line): tests for line, tests in rows.items()} for name, rows in told[1].items()}
    return Baseline(told[0], reached, told[2])


def _measure_baseline(modules: Mapping[str, Path], arguments: Sequence[str], writer: int) -> int:
    seen = coverage.Coverage(
        data_file=None, include=[str(path.resolve()) for path in modules.values()], config_file=False
    )
    watch = _TestTimer(seen)
    seen.start()
    code = pytest.main([*ARGUMENTS, *arguments], plugins=[watch])
    seen.stop()
    data = seen.get_data()
    reached = {
        name: {
            line: [test for test in tests if test]
            for line, tests in data.contexts_by_lineno(str(path.resolve())).items()
        }
        for name, path in modules.items()
    }
    others = [name for name, module in sys.modules.items() if _is_foreign(module)]
    with os.fdopen(writer, "w") as report:
        json.dump([watch.seconds, reached, others], report)
    return int(code)


def _is_foreign(module: ModuleType) -> bool:
    """Return whether a module is of another package, so that neither it nor its imports have a fault."""
    path = Path(getattr(module, "__file__", None) or Path.cwd())
    return "site-packages" in path.parts or not path.resolve().is_relative_to(Path.cwd())


class _TestTimer:
    """A pytest plugin that tells coverage which test runs and measures its processor time."""

    def __init__(self, seen: coverage.Coverage) -> None:
        self._seen = seen
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._seen.switch_context(item.nodeid)
        begun = sum(os.times()[:2])
        result: Any = yield
        self.seconds[item.nodeid] = round(sum(os.times()[:2]) - begun, 3)
        self._seen.switch_context("")
        return result


def warm_up(baseline: Baseline) -> None:
    """Import the modules of other packages now, so that no fork has to."""
    for name in baseline.imported:
        with suppress(Exception):
            importlib.import_module(name)


def start(
    module: str, path: Path, code: CodeType, tests: Sequence[str], baseline: Baseline, grace: float
) -> tuple[int, int]:
    """Run `tests` in a fork, in this order and until one fails, with `code` as the code of a module.

    Return the process id and the file descriptor for the name of the failing test.

    Args:
        grace: seconds of processor time that a test may need beyond ten times its time without a fault.
    """
    reader, writer = os.pipe()

    def run() -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(WAIT_SECONDS)
        sys.meta_path.insert(0, _MutantImporter(module, path, code))
        chosen = _TestSelection(tests, baseline, writer, grace)
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        return int(pytest.main([*ARGUMENTS, "--timeout=0", *files], plugins=[chosen]))

    child = _fork(run)
    os.close(writer)
    return child, reader


def verdict(status: int, reader: int) -> Verdict:
    """Return the verdict on a fault, by the exit status of its fork."""
    with os.fdopen(reader) as report:
        test = report.read()
    if os.WIFSIGNALED(status):
        is_hanging = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
        return Verdict("hangs" if is_hanging else "killed", test)
    return Verdict("killed" if os.WEXITSTATUS(status) else "survived", test)


class _MutantImporter(MetaPathFinder, Loader):
    """An importer that uses other code for one module."""

    def __init__(self, module: str, path: Path, code: CodeType) -> None:
        self._module, self._path, self._code = module, path, code

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self._module:
            return None
        spec = spec_from_file_location(name, self._path)
        assert spec is not None
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


class _TestSelection:
    """A pytest plugin that selects the tests that reach a fault, and tests that exist only with the fault."""

    def __init__(self, tests: Sequence[str], baseline: Baseline, writer: int, grace: float) -> None:
        self._places = {test: place for place, test in enumerate(tests)}
        self._baseline = baseline
        self._writer = writer
        self._grace = grace
        _limit(IMPORT_SECONDS)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [i for i in items if i.nodeid in self._places or i.nodeid not in self._baseline.seconds]
        items[:] = sorted(chosen, key=lambda item: self._places.get(item.nodeid, -1))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        _limit(self._grace + HANG_FACTOR * self._baseline.seconds.get(item.nodeid, 0.0))
        result: Any = yield
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self._writer, report.nodeid.encode())


def _limit(seconds: float) -> None:
    """End this process after `seconds` more seconds of processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _fork(work: Callable[[], int]) -> int:
    """Run `work` in a fork of this process, and return the id of the fork."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        code = work()
    finally:
        sys.stdout.flush()
        os._exit(code)


def make_deterministic() -> None:
    """Make property tests use the same examples each time and search no smaller ones; load no plugins."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "faults", database=None, derandomize=True, phases=phases, deadline=None
    )
    hypothesis.settings.load_profile("faults")
