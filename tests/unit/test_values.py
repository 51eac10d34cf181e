"""The values of metrics: exact, limited, and the same in any order."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import asdict

from exporter.metrics.catalogue import CATALOGUE, FAMILIES, Scope, in_scope
from exporter.metrics.values import FLEET, MICRO, SEEN_VALUE, SUM, BatchIncrements, LabelSetValues, series
from tests.unit.histories import max_examples

LABELS = ("4", "push.example.com")


def posted(increments: BatchIncrements, labels: tuple[str, ...] = LABELS) -> LabelSetValues:
    """Return an empty label set plus its increments."""
    return LabelSetValues(labels, 0.0).plus(increments.by_labels[labels])


def test_a_measurement_goes_to_the_label_set_of_its_scope() -> None:
    """The labels of the task, or the one of the fleet."""
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
    label_set = posted(increments)
    assert label_set.values[series(family.name, str(bucket))] == 1
    assert label_set.values[series(family.name, str(bucket + 1))] == 1
    assert label_set.values[series(family.name, str(len(family.buckets)))] == 1
    assert label_set.values[series(family.name, SUM)] == 4 * MICRO + 1 + 10**9 * MICRO
    assert label_set.exemplars[series(family.name, str(bucket))] == ("t", 2.0, 9.0)


def test_an_exemplar_needs_a_task() -> None:
    """An exit without a task has none."""
    increments = BatchIncrements()
    increments.record([("callback_delay_seconds", "TaskExit", 1.0)], LABELS, "", 9.0)
    assert not posted(increments, FLEET).exemplars


def test_a_time_never_decreases() -> None:
    """It decreases neither within a batch, nor in the stored values."""
    increments = BatchIncrements()
    increments.set_time("last_callback_timestamp_seconds", "TaskStart", 9.0)
    increments.set_time("last_callback_timestamp_seconds", "TaskStart", 8.0)
    later = LabelSetValues(
        FLEET, 0.0, {}, {series("last_callback_timestamp_seconds", "TaskStart"): 10 * MICRO}
    )
    assert posted(increments, FLEET).times == {
        series("last_callback_timestamp_seconds", "TaskStart"): 9 * MICRO
    }
    assert later.plus(increments.by_labels[FLEET]) == later
    increments.set_time("last_callback_timestamp_seconds", "TaskExit", 0.0)
    assert posted(increments, FLEET).times[series("last_callback_timestamp_seconds", "TaskExit")] == 0


@given(st.lists(st.floats(0, 1e6), max_size=30), st.randoms(use_true_random=False))
@max_examples(50)
def test_sums_are_exact_in_any_order(values: list[float], random) -> None:  # type: ignore[no-untyped-def]
    """Whole microseconds have the same sum, whatever the batches are."""
    other = list(values)
    random.shuffle(other)
    sums = []
    for order in (values, other):
        label_set = LabelSetValues(LABELS, 0.0)
        for value in order:
            increments = BatchIncrements()
            increments.record([("run_seconds", "", value)], LABELS, "t", 1.0)
            label_set = label_set.plus(increments.by_labels[LABELS])
        sums.append(label_set.values)
    assert sums[0] == sums[1]


def test_codes_over_the_limit_share_a_series() -> None:
    """64 codes keep a series of their own; `_unknown` does not count as a code."""
    increments = BatchIncrements()
    codes = [str(n) for n in range(70)]
    increments.record([("tasks_exited_total", code, 1) for code in ["", *codes]], LABELS, "t", 9.0)
    assert increments.apply_limits({})["codes"] == 6
    first = posted(increments)
    assert first.values[series("tasks_exited_total", "_other")] == 6
    assert sum(key.startswith("tasks_exited_total") for key in first.values) == 66
    seen = posted(increments, FLEET).values
    assert seen == {series(SEEN_VALUE, "tasks_exited_total", code): 1 for code in codes[:64]}
    later = BatchIncrements()
    later.record([("tasks_exited_total", code, 1) for code in ("3", "69")], ("5", "other"), "t", 9.0)
    assert later.apply_limits(seen)["codes"] == 1
    assert posted(later, ("5", "other")).values == {
        series("tasks_exited_total", "3"): 1,
        series("tasks_exited_total", "_other"): 1,
    }


def test_fields_over_the_limit_share_a_series() -> None:
    """50 fields have a series of their own."""
    increments = BatchIncrements()
    for number in range(60):
        increments.count("unknown_fields_total", f"field {number}")
    assert increments.apply_limits({})["fields"] == 10


def test_a_measurement_of_an_unknown_family_is_an_error() -> None:
    """A misspelt name must not be dropped."""
    with pytest.raises(KeyError):
        BatchIncrements().record([("tasks_begun_total", "", 1)], LABELS, "t", 9.0)


def test_the_catalogue_is_in_order() -> None:
    """Unique names; units and suffixes as Prometheus requires; every scope has families."""
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
    """The names, labels, known values and bucket bounds that others query.

    After an intended change, run this with UPDATE_GOLDEN=1 and check the difference.
    """
    path = Path(__file__).parent / "golden" / "catalogue.json"
    families = [to_builtins(asdict(family) | {"help": ""}) for family in FAMILIES]
    rows = [{name: value for name, value in family.items() if value} for family in families]
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
