"""The pure core: tasks, their runs, and the files in them. It knows no clock, no I/O and no framework."""

from exporter.relay.attribution import Attribution, attribute_exit
from exporter.relay.counted import Counted, Measurement, Observed
from exporter.relay.deduplication import Verdict, with_replay_horizon
from exporter.relay.fold import Folded, fold, is_forgotten, settle, with_counters_reset
from exporter.relay.history import HistoryEvent, history
from exporter.relay.task import (
    ACTIVE,
    FAILED,
    LOST,
    NONE,
    STATES,
    STATES_BY_SEVERITY,
    STOPPED,
    Entry,
    FoldSettings,
    RunState,
    Task,
    key_of,
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
    "Entry",
    "FoldSettings",
    "Folded",
    "HistoryEvent",
    "Measurement",
    "Observed",
    "RunState",
    "Task",
    "Verdict",
    "attribute_exit",
    "fold",
    "history",
    "is_forgotten",
    "key_of",
    "next_due",
    "settle",
    "state_of",
    "with_counters_reset",
    "with_replay_horizon",
]
