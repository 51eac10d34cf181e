"""What the callbacks mean: tasks, their runs, the files in them. No clock, no I/O, no framework."""

from exporter.relay.attribution import Attribution, attribute
from exporter.relay.course import Tale
from exporter.relay.fold import Folded, fold, is_forgotten, settle
from exporter.relay.identity import Verdict
from exporter.relay.task import (
    ACTIVE,
    FAILED,
    LOST,
    NONE,
    STATES,
    STOPPED,
    Course,
    Entry,
    Task,
    Windows,
    next_due,
    state_of,
)

__all__ = [
    "ACTIVE",
    "FAILED",
    "LOST",
    "NONE",
    "STATES",
    "STOPPED",
    "Attribution",
    "Course",
    "Entry",
    "Folded",
    "Tale",
    "Task",
    "Verdict",
    "Windows",
    "attribute",
    "fold",
    "is_forgotten",
    "next_due",
    "settle",
    "state_of",
]
