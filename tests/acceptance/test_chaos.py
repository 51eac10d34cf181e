"""Three replicas while everything goes wrong, each fault once; `make chaos` does it for as long as asked."""

from pathlib import Path

from tests.acceptance.chaos import chaos

KINDS = 11


def test_three_replicas_under_chaos_are_exact_and_no_counter_goes_backwards(tmp_path: Path) -> None:
    """Every kind of fault once, failovers among them; in a real Prometheus all replicas count as one."""
    done = chaos(tmp_path, seconds=0, seed=20261126, connections=6, say=print)
    assert not done.wrong, done
    assert len(done.faults) == KINDS
    assert done.refused, "nobody has noticed"
    assert done.sent > done.kept.total()
