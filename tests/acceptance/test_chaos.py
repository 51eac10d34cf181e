"""Three replicas with every kind of fault once; `make chaos` causes faults for a longer time."""

from pathlib import Path

from tests.acceptance.chaos import chaos

KINDS = 11


def test_three_replicas_under_chaos_are_exact_and_no_counter_goes_backwards(tmp_path: Path) -> None:
    """Totals are exact, also after failovers; in a real Prometheus all replicas count as one."""
    result = chaos(tmp_path, seconds=0, seed=20261126, connections=6, say=print)
    assert not result.broken, result
    assert len(result.faults) == KINDS
    assert result.failed, "no request failed"
    assert result.sent > result.accepted.total()
