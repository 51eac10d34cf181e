"""Three replicas while everything goes wrong, for a short time; `make chaos` does it for as long as asked."""

from pathlib import Path

import pytest

from tests.acceptance.chaos import chaos

pytestmark = pytest.mark.alone


@pytest.mark.slow
def test_three_replicas_under_chaos_are_exact_and_no_counter_goes_backwards(tmp_path: Path) -> None:
    """Every kind of fault at least once, failovers among them; a real Prometheus looks on."""
    done = chaos(tmp_path, seconds=12, seed=20261126, connections=12, say=print)
    assert not done.wrong, done
    assert len(done.faults) == 11
    assert done.kept["TaskStart"] > 20
    assert done.sent > done.kept.total()
