"""Runs tests in forks of this process: once as the program is, and once for each fault in a module.

This process has imported what is slow (pytest, hypothesis, what the program and its tests stand on), but
nothing of the program: a fork imports that with the fault in it, so that every `from module import name`
has it too, and runs only the tests that reach the fault. No verdict hangs on the speed of the machine: what
takes ten times the processor time that it takes without the fault, and some seconds, hangs.
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

#: How often the processor time of a test without the fault is not enough; and for the import of everything.
HANG_FACTOR, IMPORT_SECONDS = 10.0, 120.0
#: A test that waits for what never comes needs no processor; this ends it.
WAIT_SECONDS = 900
MEMORY_BYTES = 2 * 2**30
#: No order but ours, and no plugin that a fork would load for nothing.
ARGUMENTS = [
    *("-q", "-x", "--no-header", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-p", "no:cacheprovider", "-p", "no:faulthandler"),
    *("-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"),
]


class Known(NamedTuple):
    """What is known of the tests without a fault.

    Args:
        seconds: processor time by test.
        reached: the tests by module and line.
        imported: every module that they need and that is none of the project's, in the order of import.
    """

    seconds: dict[str, float]
    reached: dict[str, dict[int, list[str]]]
    imported: list[str]

    def tests_of(self, module: str, lines: range) -> list[str]:
        """Return the tests that reach any of the lines."""
        return sorted({test for line in lines for test in self.reached.get(module, {}).get(line, ())})

    @property
    def core_tests(self) -> list[str]:
        """The tests of every file of which one reaches any module; some look at values alone."""
        files = {
            test.partition("::")[0] for rows in self.reached.values() for row in rows.values() for test in row
        }
        return sorted(test for test in self.seconds if test.partition("::")[0] in files)


class Verdict(NamedTuple):
    """What became of a fault: killed, hangs or survived; and the test that found it."""

    outcome: str
    test: str


def know(modules: Mapping[str, Path], arguments: Sequence[str]) -> Known:
    """Run the tests as they are, and see which of them reaches what.

    Raises:
        SystemExit: one of them fails.
    """
    lent, own = os.pipe()
    child = _fork(lambda: _know(modules, arguments, own))
    os.close(own)
    with os.fdopen(lent) as report:
        text = report.read()
    _, status = os.waitpid(child, 0)
    if status or not text:
        raise SystemExit("the tests fail without a fault")
    told = json.loads(text)
    reached = {name: {int(line): tests for line, tests in rows.items()} for name, rows in told[1].items()}
    return Known(told[0], reached, told[2])


def _know(modules: Mapping[str, Path], arguments: Sequence[str], own: int) -> int:
    seen = coverage.Coverage(
        data_file=None, include=[str(path.resolve()) for path in modules.values()], config_file=False
    )
    watch = _Watch(seen)
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
    with os.fdopen(own, "w") as report:
        json.dump([watch.seconds, reached, others], report)
    return int(code)


def _is_foreign(module: ModuleType) -> bool:
    """Whether a module is none of the project's, so that it has no fault and imports none that has."""
    path = Path(getattr(module, "__file__", None) or Path.cwd())
    return "site-packages" in path.parts or not path.resolve().is_relative_to(Path.cwd())


class _Watch:
    """Tells coverage which test runs, and takes its processor time."""

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


def warm(known: Known) -> None:
    """Import what every fork would import."""
    for name in known.imported:
        with suppress(Exception):
            importlib.import_module(name)


def start(
    module: str, path: Path, code: CodeType, tests: Sequence[str], known: Known, grace: float
) -> tuple[int, int]:
    """Run `tests` in a fork, in this order and until one fails, with `code` for a module.

    Args:
        grace: seconds of processor time that a test may take beyond ten times what it takes without a fault.

    Returns: its process id, and what to read the name of the test from that fails.
    """
    lent, own = os.pipe()

    def run() -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(WAIT_SECONDS)
        sys.meta_path.insert(0, _Faulty(module, path, code))
        chosen = _Chosen(tests, known, own, grace)
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        return int(pytest.main([*ARGUMENTS, "--timeout=0", *files], plugins=[chosen]))

    child = _fork(run)
    os.close(own)
    return child, lent


def verdict(status: int, lent: int) -> Verdict:
    """Return what became of a fault, by the status of its fork."""
    with os.fdopen(lent) as report:
        test = report.read()
    if os.WIFSIGNALED(status):
        is_hanging = os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
        return Verdict("hangs" if is_hanging else "killed", test)
    return Verdict("killed" if os.WEXITSTATUS(status) else "survived", test)


class _Faulty(MetaPathFinder, Loader):
    """Imports one module from other code."""

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


class _Chosen:
    """Runs the tests that reach a fault, in the order given, and those that are there only because of it."""

    def __init__(self, tests: Sequence[str], known: Known, own: int, grace: float) -> None:
        self._places = {test: place for place, test in enumerate(tests)}
        self._known = known
        self._own = own
        self._grace = grace
        _limit(IMPORT_SECONDS)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [i for i in items if i.nodeid in self._places or i.nodeid not in self._known.seconds]
        items[:] = sorted(chosen, key=lambda item: self._places.get(item.nodeid, -1))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        _limit(self._grace + HANG_FACTOR * self._known.seconds.get(item.nodeid, 0.0))
        result: Any = yield
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self._own, report.nodeid.encode())


def _limit(seconds: float) -> None:
    """End this process when it has taken so much processor time from now on."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _fork(work: Callable[[], int]) -> int:
    """Run `work` in a fork of this process, and return its id."""
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


def take_no_chances() -> None:
    """Let property tests take the same examples each time, and not look for smaller ones; load no plugin."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "faults", database=None, derandomize=True, phases=phases, deadline=None
    )
    hypothesis.settings.load_profile("faults")
