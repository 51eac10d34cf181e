"""A small share of the fuzzing, always the same: `make fuzz` does the rest."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import targets

TARGETS = targets()
#: Of a history each callback is an input of its own.
INPUTS, HISTORIES = 300, 60
SEED = 314


@pytest.mark.parametrize("name", TARGETS)
def test_good_input_with_changes_breaks_no_promise(name: str) -> None:
    """The same changes to the seeds each time, and the seeds themselves."""
    target = TARGETS[name]
    mutator = Mutator(Random(SEED), target.seeds)
    number = HISTORIES if name in ("fold", "store") else INPUTS
    for data in (*target.seeds, *(mutator.draw() for _ in range(number))):
        target.check(data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=400))
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_break_a_promise(name: str, data: bytes) -> None:
    """hypothesis finds the shortest that do."""
    TARGETS[name].check(data)
