"""A small, constant part of the fuzz tests; `make fuzz` runs the rest."""

from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import GUIDED, guided
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import targets

TARGETS = targets()
#: Fewer histories than other inputs, because a history has many callbacks.
INPUTS, HISTORIES = 300, 60
SEED = 314


@pytest.mark.parametrize("name", TARGETS)
def test_changed_valid_inputs_break_no_invariant(name: str) -> None:
    """The seeds, and the same changes to them each time."""
    target = TARGETS[name]
    mutator = Mutator(Random(SEED), target.seeds)
    number = HISTORIES if name in ("fold", "store") else INPUTS
    for data in (*target.seeds, *(mutator.draw() for _ in range(number))):
        target.check(data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=400))
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_break_an_invariant(name: str, data: bytes) -> None:
    """hypothesis would find the shortest ones."""
    TARGETS[name].check(data)


@pytest.mark.parametrize("name", GUIDED)
def test_the_guided_fuzzer_runs(name: str, tmp_path: Path) -> None:
    """Its instrumentation changes the compiled code of the exporter, which can make an import fail."""
    if not find_spec("atheris"):
        pytest.skip("atheris is not installed")
    row = guided(name, TARGETS[name], SEED, "-runs=50", tmp_path)
    assert (row.faults, row.inputs > 0) == ((), True)
