"""The event table, and the checks of its names and of the fold's names."""

from typing import Any

import pytest

from exporter.metrics.catalogue import CATALOGUE, Family, Scope
from exporter.metrics.values import check_all_counted, check_names
from exporter.protocol.events import BY_LETTER, EventKind, EventRow, Subject, check_complete, kinds_by

ROW: dict[str, Any] = {
    "letter": "P",
    "callback_event": "TaskMadeUp",
    "schema": "task_made_up",
    "subject": Subject.NOTHING,
    "counter": "tasks_lost_total",
    "changes_state": False,
    "description": "made up",
}


def test_the_letters_in_stored_records_do_not_change() -> None:
    """A stored record with another letter would be read as another event."""
    letters = {letter: kind.callback_event for letter, kind in BY_LETTER.items()}
    assert letters == {
        "S": "TaskStart",
        "F": "VodSourceFileStart",
        "N": "VodSourceFileFinish",
        "E": "TaskExit",
        "A": "TaskAlarm",
        "R": "ResetTaskConfig",
    }


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"letter": ""}, "the event TaskMadeUp: expected one letter, not ''"),
        ({"letter": "PA"}, "the event TaskMadeUp: expected one letter, not 'PA'"),
        ({"subject": Subject.TEXT}, "the event TaskMadeUp: text_fields are for a subject of kind TEXT"),
        ({"text_fields": ("a",)}, "the event TaskMadeUp: text_fields are for a subject of kind TEXT"),
    ],
)
def test_an_inconsistent_row_is_refused(wrong: dict[str, Any], error: str) -> None:
    """The text names the event."""
    with pytest.raises(ValueError, match=error):
        EventRow(**ROW | wrong)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (
            {"counter": "made_up_total"},
            "the event TaskMadeUp: the catalogue has no counter made_up_total",
        ),
        ({"counter": "run_seconds"}, "the event TaskMadeUp: the catalogue has no counter run_seconds"),
        ({"counter": "task_runs_total"}, "the catalogue has no counter task_runs_total of the fleet"),
        ({"label": "code"}, r"the event TaskMadeUp: tasks_lost_total has the labels \(\), not 'code'"),
        ({"counter": "tasks_exited_total"}, r"tasks_exited_total has the labels \('code',\), not ''"),
        ({"counter": "free_total", "label": "text"}, "free_total needs values or a limit"),
    ],
)
def test_the_counter_of_an_event_is_in_the_catalogue(
    wrong: dict[str, Any], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the label of the event, and a limit if callers choose the label values."""
    free = Family(name="free_total", kind="counter", help="", scope=Scope.LABELLED, labels=("text",))
    monkeypatch.setitem(CATALOGUE, "free_total", free)
    check_names([EventRow(**ROW)], (), ())
    with pytest.raises(ValueError, match=error):
        check_names([EventRow(**ROW | wrong)], (), ())


def test_the_families_of_the_fold_are_in_the_catalogue() -> None:
    """So are the values of their labels."""
    for measurement, error in (
        (("tasks_lot_total", "", 1), "the fold: the catalogue has no counter tasks_lot_total"),
        (("anomalies_total", "missed", 1), "the fold: the family anomalies_total has no value 'missed'"),
        (("anomalies_total", "", 1), "the fold: the family anomalies_total has no value ''"),
        (("tasks_lost_total", "x", 1), "the fold: the family tasks_lost_total has no value 'x'"),
    ):
        with pytest.raises(ValueError, match=error):
            check_names((), [measurement], ())
    with pytest.raises(ValueError, match="the fold: the catalogue has no histogram tasks_lost_total"):
        check_names((), (), ["tasks_lost_total"])


def test_a_family_of_the_fleet_that_nothing_counts_is_refused() -> None:
    """Its samples would be 0 for ever. Families of the store, of tasks and of the process are not counted."""
    forgotten = Family(name="forgotten_total", kind="counter", help="", scope=Scope.FLEET)
    check_all_counted([forgotten], ["forgotten_total"])
    with pytest.raises(ValueError, match="nothing counts the family forgotten_total"):
        check_all_counted([forgotten], ["tasks_lost_total"])
    check_all_counted([Family(name="x", kind="gauge", help="", scope=Scope.STORE)], [])


def test_no_two_events_have_the_same_key() -> None:
    """The text names both."""
    assert set(kinds_by(lambda kind: kind.callback_event).values()) == set(EventKind)
    with pytest.raises(ValueError, match="the events START and EXIT have the same 'task_start_time'"):
        kinds_by(lambda kind: kind.time_field.replace("exit", "start") or kind.name)


def test_a_table_of_events_that_change_the_state_is_complete() -> None:
    """It has no other event: the event table decides which events change the state."""
    complete = {kind: kind.description for kind in EventKind if kind.changes_state}
    assert check_complete("table", complete) == complete
    for wrong in (complete.keys() - {EventKind.EXIT}, complete.keys() | {EventKind.ALARM}):
        name = "TaskExit" if EventKind.EXIT not in wrong else "TaskAlarm"
        with pytest.raises(
            ValueError,
            match=f"table: expected one entry for each event with changes_state=True; check {name}",
        ):
            check_complete("table", dict.fromkeys(wrong, ""))
