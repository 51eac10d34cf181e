"""The event table, and that its names and the fold's are held to the other tables."""

from typing import Any

import pytest

from exporter.metrics.catalogue import CATALOGUE, Family, Scope
from exporter.metrics.values import check_names
from exporter.protocol.events import BY_LETTER, EventKind, EventRow, Subject, kinds_by, of_moving_kinds

ROW: dict[str, Any] = {
    "letter": "P",
    "callback_event": "TaskPause",
    "schema": "task_pause",
    "subject": Subject.NOTHING,
    "counts": "tasks_lost_total",
    "moves": False,
    "words": "run paused",
}


def test_the_letters_of_records_stay() -> None:
    """Stores hold them: a letter that changed would make another event of what is there."""
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
    ("wrong", "said"),
    [
        ({"letter": ""}, "the event TaskPause: expected one letter, not ''"),
        ({"letter": "PA"}, "the event TaskPause: expected one letter, not 'PA'"),
        ({"subject": Subject.TEXT}, "the event TaskPause: text_fields are for a subject of kind TEXT"),
        ({"text_fields": ("a",)}, "the event TaskPause: text_fields are for a subject of kind TEXT"),
    ],
)
def test_parts_of_a_row_that_do_not_go_together_are_refused(wrong: dict[str, Any], said: str) -> None:
    """The text names the event."""
    with pytest.raises(ValueError, match=said):
        EventRow(**ROW | wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"counts": "tasks_paused_total"},
            "the event TaskPause: the catalogue has no counter tasks_paused_total",
        ),
        ({"counts": "run_seconds"}, "the event TaskPause: the catalogue has no counter run_seconds"),
        ({"counts": "task_runs_total"}, "the catalogue has no counter task_runs_total of the fleet"),
        ({"label": "code"}, r"the event TaskPause: tasks_lost_total has the labels \(\), not 'code'"),
        ({"counts": "tasks_exited_total"}, r"tasks_exited_total has the labels \('code',\), not ''"),
        ({"counts": "free_total", "label": "text"}, "free_total needs values or a limit"),
    ],
)
def test_what_an_event_counts_is_in_the_catalogue(
    wrong: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With that label, and with a bound where the label comes from outside."""
    free = Family(name="free_total", kind="counter", help="", scope=Scope.LABELLED, labels=("text",))
    monkeypatch.setitem(CATALOGUE, "free_total", free)
    check_names([EventRow(**ROW)], (), ())
    with pytest.raises(ValueError, match=said):
        check_names([EventRow(**ROW | wrong)], (), ())


def test_what_the_fold_counts_is_in_the_catalogue() -> None:
    """Families and the values of their labels."""
    for tale, said in (
        (("tasks_lot_total", "", 1), "the fold: the catalogue has no counter tasks_lot_total"),
        (("anomalies_total", "missed", 1), "the fold: the family anomalies_total has no value 'missed'"),
        (("anomalies_total", "", 1), "the fold: the family anomalies_total has no value ''"),
        (("tasks_lost_total", "x", 1), "the fold: the family tasks_lost_total has no value 'x'"),
    ):
        with pytest.raises(ValueError, match=said):
            check_names((), [tale], ())
    with pytest.raises(ValueError, match="the fold: the catalogue has no histogram tasks_lost_total"):
        check_names((), (), ["tasks_lost_total"])


def test_no_two_events_are_told_apart_by_the_same() -> None:
    """The text names both."""
    assert set(kinds_by(lambda kind: kind.callback_event).values()) == set(EventKind)
    with pytest.raises(ValueError, match="the events START and EXIT have the same 'task_start_time'"):
        kinds_by(lambda kind: kind.time_field.replace("exit", "start") or kind.name)


def test_a_table_of_moving_events_has_each_of_them() -> None:
    """And no other: what moves a task and what does not is said in one place."""
    whole = {kind: kind.words for kind in EventKind if kind.moves}
    assert of_moving_kinds(whole) == whole
    for wrong in (whole.keys() - {EventKind.EXIT}, whole.keys() | {EventKind.ALARM}):
        name = "TaskExit" if EventKind.EXIT not in wrong else "TaskAlarm"
        with pytest.raises(ValueError, match=f"for no other: {name}"):
            of_moving_kinds(dict.fromkeys(wrong, ""))
