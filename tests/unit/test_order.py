"""The order of arrival, and how often each callback comes, do not matter."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.histories import (
    Delivery,
    counters,
    deliver,
    gauges,
    happened,
    in_order,
    random_history,
    shuffled,
)

HISTORIES = 1000
FAR = 40_000.0


@pytest.mark.parametrize("block", range(10))
def test_a_thousand_histories_give_the_same_in_any_order(block: int) -> None:
    """Delayed by up to the reorder window, shuffled, a fifth twice or more: the same counters and gauges."""
    for seed in range(block * HISTORIES // 10, (block + 1) * HISTORIES // 10):
        random = Random(seed)
        history = random_history(random)
        end = history[-1].event_time_seconds + FAR  # type: ignore[operator]
        expected = deliver(in_order(history), until=end)
        actual = deliver(shuffled(history, random), until=end)
        assert counters(actual) == counters(expected), f"seed {seed}"
        assert gauges(actual) == gauges(expected), f"seed {seed}"
        assert actual.outcomes["applied"] == len(history), f"seed {seed}"
        assert actual.outcomes["stale"] == 0, f"seed {seed}"


@pytest.mark.parametrize("seed", range(200))
def test_durations_are_exact_in_any_order_where_callbacks_state_their_times(seed: int) -> None:
    """Late callbacks are measured by their own times, once nothing can come in between any more."""
    random = Random(seed)
    history = random_history(random)
    end = history[-1].event_time_seconds + FAR  # type: ignore[operator]
    orderly = deliver([Delivery(c, happened(c) + 7) for c in history], until=end)
    late = [Delivery(c, happened(c) + random.uniform(7, 178)) for c in history]
    assert deliver(late, until=end).durations == orderly.durations


@given(st.randoms(use_true_random=False), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_delivering_anything_twice_changes_only_the_duplicate_count(random: Random, times: int) -> None:
    """Whatever is sent again within the retry window is a duplicate, and nothing else."""
    history = random_history(random)
    end = history[-1].event_time_seconds + FAR  # type: ignore[operator]
    once = deliver(in_order(history), until=end)
    deliveries = in_order(history)
    again = [d for d in deliveries for _ in range(times)]
    twice = deliver(again, until=end)
    assert twice.counts == once.counts
    assert gauges(twice) == gauges(once)
    assert twice.outcomes["duplicate"] == len(history) * (times - 1)
