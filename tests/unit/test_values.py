"""Counting: exact, bounded, and the same in any order."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import asdict

from exporter.metrics.catalogue import CATALOGUE, FAMILIES, Scope, in_scope
from exporter.metrics.values import FLEET, MICRO, SEEN, SUM, BatchIncrements, LabelSetValues, series
from tests.unit.histories import tried

LABELS = ("4", "push.example.com")


def posted(increments: BatchIncrements, labels: tuple[str, ...] = LABELS) -> LabelSetValues:
    """Return an empty ledger plus what the tally has for it."""
    return LabelSetValues(labels, 0.0).plus(increments.by_labels[labels])


def test_a_tale_goes_to_the_ledger_of_its_scope() -> None:
    """Those of a label set by labels, those of the fleet without."""
    increments = BatchIncrements()
    increments.record([("tasks_started_total", "", 1), ("anomalies_total", "bad_time", 2)], LABELS, "t", 9.0)
    assert posted(increments).values == {"tasks_started_total": 1}
    assert posted(increments, FLEET).values == {series("anomalies_total", "bad_time"): 2}


def test_a_missing_code_and_an_unknown_alarm_have_a_label_all_the_same() -> None:
    """`_unknown` and `other`."""
    increments = BatchIncrements()
    increments.record(
        [("tasks_exited_total", "", 1), ("alarms_total", "New", 1), ("alarms_total", "FileEndEarly", 1)],
        LABELS,
        "t",
        9.0,
    )
    assert posted(increments).values == {
        series("tasks_exited_total", "_unknown"): 1,
        series("alarms_total", "other"): 1,
        series("alarms_total", "FileEndEarly"): 1,
    }


def test_an_observation_falls_into_the_bucket_whose_edge_it_does_not_exceed() -> None:
    """2 s is the documented bound: exactly 2 s is within it."""
    increments = BatchIncrements()
    family = CATALOGUE["start_to_file_latency_seconds"]
    bucket = family.buckets.index(2.0)
    increments.record(
        [(family.name, "", 2.0), (family.name, "", 2.000001), (family.name, "", 1e9)], LABELS, "t", 9.0
    )
    ledger = posted(increments)
    assert ledger.values[series(family.name, str(bucket))] == 1
    assert ledger.values[series(family.name, str(bucket + 1))] == 1
    assert ledger.values[series(family.name, str(len(family.buckets)))] == 1
    assert ledger.values[series(family.name, SUM)] == 4 * MICRO + 1 + 10**9 * MICRO
    assert ledger.exemplars[series(family.name, str(bucket))] == ("t", 2.0, 9.0)


def test_an_exemplar_needs_a_task() -> None:
    """An exit without an owner has none."""
    increments = BatchIncrements()
    increments.record([("callback_delay_seconds", "TaskExit", 1.0)], LABELS, "", 9.0)
    assert not posted(increments, FLEET).exemplars


def test_a_mark_only_moves_forward() -> None:
    """The newest callback stays the newest, in the batch and in the ledger."""
    increments = BatchIncrements()
    increments.mark("last_callback_timestamp_seconds", "TaskStart", 9.0)
    increments.mark("last_callback_timestamp_seconds", "TaskStart", 8.0)
    later = LabelSetValues(
        FLEET, 0.0, {}, {series("last_callback_timestamp_seconds", "TaskStart"): 10 * MICRO}
    )
    assert posted(increments, FLEET).marks == {
        series("last_callback_timestamp_seconds", "TaskStart"): 9 * MICRO
    }
    assert later.plus(increments.by_labels[FLEET]) == later
    increments.mark("last_callback_timestamp_seconds", "TaskExit", 0.0)
    assert posted(increments, FLEET).marks[series("last_callback_timestamp_seconds", "TaskExit")] == 0


@given(st.lists(st.floats(0, 1e6), max_size=30), st.randoms(use_true_random=False))
@tried(50)
def test_sums_are_exact_in_any_order(values: list[float], random) -> None:  # type: ignore[no-untyped-def]
    """Whole microseconds add up the same, however they are batched."""
    other = list(values)
    random.shuffle(other)
    ledgers = []
    for order in (values, other):
        ledger = LabelSetValues(LABELS, 0.0)
        for value in order:
            increments = BatchIncrements()
            increments.record([("run_seconds", "", value)], LABELS, "t", 1.0)
            ledger = ledger.plus(increments.by_labels[LABELS])
        ledgers.append(ledger.values)
    assert ledgers[0] == ledgers[1]


def test_codes_past_the_limit_are_one() -> None:
    """64 are told apart, the same ones ever after; `_unknown` is no code."""
    increments = BatchIncrements()
    codes = [str(n) for n in range(70)]
    increments.record([("tasks_exited_total", code, 1) for code in ["", *codes]], LABELS, "t", 9.0)
    assert increments.bound({})["tasks_exited_total"] == 6
    first = posted(increments)
    assert first.values[series("tasks_exited_total", "_other")] == 6
    assert sum(key.startswith("tasks_exited_total") for key in first.values) == 66
    seen = posted(increments, FLEET).values
    assert seen == {series(SEEN, "tasks_exited_total", code): 1 for code in codes[:64]}
    later = BatchIncrements()
    later.record([("tasks_exited_total", code, 1) for code in ("3", "69")], ("5", "other"), "t", 9.0)
    assert later.bound(seen)["tasks_exited_total"] == 1
    assert posted(later, ("5", "other")).values == {
        series("tasks_exited_total", "3"): 1,
        series("tasks_exited_total", "_other"): 1,
    }


def test_fields_past_the_limit_are_one() -> None:
    """50 are told apart."""
    increments = BatchIncrements()
    for number in range(60):
        increments.count("unknown_fields_total", f"field {number}")
    assert increments.bound({})["unknown_fields_total"] == 10


def test_a_tale_that_is_not_in_the_catalogue_is_an_error() -> None:
    """A misspelt name must not vanish."""
    with pytest.raises(KeyError):
        BatchIncrements().record([("tasks_begun_total", "", 1)], LABELS, "t", 9.0)


def test_the_catalogue_is_in_order() -> None:
    """Unique names; units and endings as Prometheus wants them; every scope has families."""
    names = [family.full_name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert bool(family.buckets) == (family.kind == "histogram")
        assert list(family.buckets) == sorted(family.buckets)
    assert all(in_scope(scope) for scope in Scope)
    assert sorted(f.name for scope in Scope for f in in_scope(scope)) == sorted(CATALOGUE)
    assert all(family.scope is scope for scope in Scope for family in in_scope(scope))
    assert CATALOGUE["run_seconds"].unit == "seconds"
    assert CATALOGUE["file_play_ratio"].unit == "ratio"
    assert CATALOGUE["tasks"].unit == ""


def test_the_catalogue_is_as_agreed() -> None:
    """What others query: names, labels, the values known in advance, the edges of buckets.

    After a change that is meant, run this with UPDATE_GOLDEN=1 and look at the difference.
    """
    path = Path(__file__).parent / "golden" / "catalogue.json"
    families = [to_builtins(asdict(family) | {"help": ""}) for family in FAMILIES]
    rows = [{name: value for name, value in family.items() if value} for family in families]
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
