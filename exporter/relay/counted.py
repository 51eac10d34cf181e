"""The measurements of the fold in addition to the counter of each event. Each family is named here only.

`exporter.metrics.values` checks at import that the catalogue has all of them.
"""

from enum import Enum, StrEnum

#: An increment of a counter or an observation of a histogram: the metric family (without prefix), the value
#: of its own label ("" if it has none), and the amount.
Measurement = tuple[str, str, float]


class Counted(Enum):
    """A counter that the fold increases by one; the value is the measurement."""

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
        """This counter as a measurement, with the amount 1."""
        return self.value


class Observed(StrEnum):
    """A histogram that the fold observes durations in; the value is its family."""

    START_TO_FILE = "start_to_file_latency_seconds"
    FILE_GAP = "file_gap_seconds"
    FILE_PLAY = "file_play_seconds"
    FILE_PLAY_RATIO = "file_play_ratio"
    RUN = "run_seconds"
    DOWNTIME = "downtime_seconds"
    CALLBACK_DELAY = "callback_delay_seconds"
