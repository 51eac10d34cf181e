"""Fuzz one target guided by coverage: `python -m tests.fuzz.coverage TARGET [flags of libFuzzer]`."""

import sys

import atheris

with atheris.instrument_imports(include=["exporter"]):
    from tests.fuzz.targets import targets, timed

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, timed(targets()[name].check))
    atheris.Fuzz()
