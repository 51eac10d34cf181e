"""Fuzzes one target guided by coverage: `python -m tests.fuzz.coverage TARGET [flags of libFuzzer]`."""

import sys

import atheris

# Before the rest, so that it is not instrumented: atheris breaks a sum or two of the simulator's.
from tests.fuzz import seeds  # noqa: F401

with atheris.instrument_imports(include=["exporter"]):
    from tests.fuzz.targets import targets, timed

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, timed(targets()[name].check))
    atheris.Fuzz()
