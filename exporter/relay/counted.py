"""What the fold counts and observes beside the counter of each event, every name once.

`exporter.metrics.values` holds the names to the catalogue when it is imported.
"""

from enum import Enum, StrEnum

#: A tale of a callback: a metric family (without prefix), a label value or "", and an amount.
Measurement = tuple[str, str, float]


class Counted(Enum):
    """One more of a counter; the value is the tale."""

    TASK_RESTARTED = ("tasks_restarted_total", "", 1)
    TASK_FAILED = ("tasks_failed_total", "", 1)
    TASK_LOST = ("tasks_lost_total", "", 1)
    FILE_INTERRUPTED = ("files_interrupted_total", "", 1)
    MISSED_START = ("anomalies_total", "missed_start", 1)
    MISSED_FINISH = ("anomalies_total", "missed_finish", 1)
    MISSED_EXIT = ("anomalies_total", "missed_exit", 1)
    UNATTRIBUTED_EXIT = ("anomalies_total", "unattributed_exit", 1)
    CLOCK_SKEW = ("anomalies_total", "clock_skew", 1)
    BAD_TIME = ("anomalies_total", "bad_time", 1)
    TIME_CONFLICT = ("anomalies_total", "time_conflict", 1)

    @property
    def increment(self) -> Measurement:
        """The tale of one more."""
        return self.value


class Observed(StrEnum):
    """A histogram that durations are observed in; the value is its family."""

    START_TO_FILE = "start_to_file_latency_seconds"
    FILE_GAP = "file_gap_seconds"
    FILE_PLAY = "file_play_seconds"
    FILE_PLAY_RATIO = "file_play_ratio"
    RUN = "run_seconds"
    DOWNTIME = "downtime_seconds"
    CALLBACK_DELAY = "callback_delay_seconds"
