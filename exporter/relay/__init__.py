"""What the callbacks mean: tasks, their runs, the files in them. No clock, no I/O, no framework."""

from exporter.relay.attribution import Attribution, attribute
from exporter.relay.counted import Counted, Observed, Tale
from exporter.relay.deduplication import Verdict, recalled
from exporter.relay.fold import Folded, fold, is_forgotten, renewed, settle
from exporter.relay.history import Happening, history
from exporter.relay.task import (
    ACTIVE,
    FAILED,
    LOST,
    NONE,
    STATES,
    STATES_BY_SEVERITY,
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
    "STATES_BY_SEVERITY",
    "STOPPED",
    "Attribution",
    "Counted",
    "Course",
    "Entry",
    "Folded",
    "Happening",
    "Observed",
    "Tale",
    "Task",
    "Verdict",
    "Windows",
    "attribute",
    "fold",
    "history",
    "is_forgotten",
    "next_due",
    "recalled",
    "renewed",
    "settle",
    "state_of",
]
