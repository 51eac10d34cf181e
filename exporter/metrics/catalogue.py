"""Every metric family of the program, one row each: the one place to add a metric.

Rows say what a family is called, what it counts, and where its numbers come from; the exposition, the
bounds, the documentation and the tests walk this table. Names here lack the common prefix.
"""

from enum import Enum

from msgspec import Struct

from exporter.errors import REASONS
from exporter.protocol.events import BY_NAME
from exporter.relay import STATES

PREFIX = "css_relay_"
OTHER, UNKNOWN = "other", "_unknown"
BEYOND = "_other"
LABEL_CHOICES = ("appid", "to_host", "source_host", "stream_id", "task_id")

EVENT_NAMES = (*BY_NAME, OTHER)
OUTCOMES = ("applied", "duplicate", "stale", "ignored")
ALARM_TYPES = (
    "PullFileUnstable",
    "PushStreamUnstable",
    "PullFileFailed",
    "PushStreamFailed",
    "FileEndEarly",
    OTHER,
)
ANOMALIES = (
    "missed_start",
    "missed_finish",
    "missed_exit",
    "unattributed_exit",
    "clock_skew",
    "bad_time",
    "time_conflict",
)
QUARANTINE_REASONS = ("json", "schema", "unknown_event")
BOUNDS = ("label_sets", "tasks", "codes", "fields")


class Scope(Enum):
    """Where a family's numbers come from; the value says it in the documentation."""

    LABELLED = "the fleet, by label set"
    FLEET = "the fleet"
    STORE = "the store"
    TASK = "one task"
    PROCESS = "this process"


class Family(Struct, frozen=True, kw_only=True):
    """A metric family.

    Args:
        name: its name without prefix.
        kind: counter, gauge or histogram.
        help: what it means, in one line.
        labels: its labels, apart from those of its scope.
        values: for a family of one label, every value known in advance: they stand at 0 from the start.
        buckets: upper edges of a histogram's buckets, without +Inf.
        limit: how many values of a free label are told apart.
    """

    name: str
    kind: str
    help: str
    scope: Scope
    labels: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    limit: int = 0

    @property
    def full_name(self) -> str:
        """The name with its prefix, as it is shown."""
        return PREFIX + self.name

    @property
    def unit(self) -> str:
        """The unit that its name ends with, empty if there is none."""
        return next((u for u in ("seconds", "ratio") if self.name.endswith("_" + u)), "")


LATENCY = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
GAP = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
PLAY = (10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0)
RATIO = (0.1, 0.5, 0.8, 0.9, 0.95, 0.99, 1.01, 1.05, 1.1, 1.2, 1.5, 2.0)
RUN = (10.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0)
DOWN = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)
DELAY = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
WORK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def _labelled(name: str, help_: str, kind: str = "counter", **more: object) -> Family:
    return Family(name=name, kind=kind, help=help_, scope=Scope.LABELLED, **more)  # type: ignore[arg-type]


def _fleet(name: str, help_: str, kind: str = "counter", **more: object) -> Family:
    return Family(name=name, kind=kind, help=help_, scope=Scope.FLEET, **more)  # type: ignore[arg-type]


def _store(name: str, help_: str, kind: str = "gauge", **more: object) -> Family:
    return Family(name=name, kind=kind, help=help_, scope=Scope.STORE, **more)  # type: ignore[arg-type]


def _task(name: str, help_: str, kind: str = "gauge", **more: object) -> Family:
    return Family(name=name, kind=kind, help=help_, scope=Scope.TASK, **more)  # type: ignore[arg-type]


def _process(name: str, help_: str, kind: str, **more: object) -> Family:
    return Family(name=name, kind=kind, help=help_, scope=Scope.PROCESS, **more)  # type: ignore[arg-type]


FAMILIES = (
    _store("tasks", "Tasks known, by state.", labels=("state",), values=STATES),
    _labelled("tasks_started_total", "Runs begun by a TaskStart, redeliveries apart."),
    _labelled("tasks_restarted_total", "Runs begun of tasks that had run before."),
    _labelled("tasks_exited_total", "Runs ended, by exit code.", labels=("code",), limit=64),
    _labelled("tasks_failed_total", "Runs ended with a code that is not one of a planned end."),
    _labelled("tasks_lost_total", "Active tasks given up after a long silence."),
    _labelled("files_started_total", "Files begun."),
    _labelled("files_played_total", "Files played to their end."),
    _labelled("files_interrupted_total", "Files cut off by the exit of their run."),
    _labelled("alarms_total", "Alarms of the service, by type.", labels=("type",), values=ALARM_TYPES),
    _labelled("config_resets_total", "Changes of a task's configuration."),
    _labelled(
        "start_to_file_latency_seconds",
        "Time from a TaskStart to its run's first VodSourceFileStart; up to 2 s is normal.",
        "histogram",
        buckets=LATENCY,
    ),
    _labelled(
        "file_gap_seconds",
        "Time from a file's finish to the next one's start in a run: dead air.",
        "histogram",
        buckets=GAP,
    ),
    _labelled("file_play_seconds", "Time from a file's start to its finish.", "histogram", buckets=PLAY),
    _labelled(
        "file_play_ratio",
        "Time from a file's start to its finish over its declared length.",
        "histogram",
        buckets=RATIO,
    ),
    _labelled("run_seconds", "Time from a run's start to its exit.", "histogram", buckets=RUN),
    _labelled(
        "downtime_seconds", "Time from an exit to the same task's next start.", "histogram", buckets=DOWN
    ),
    _fleet("callbacks_total", "Callbacks answered 200.", labels=("event", "outcome")),
    _fleet(
        "callback_delay_seconds",
        "Time from what a callback states to its arrival; 0 where its clock is ahead.",
        "histogram",
        labels=("event",),
        values=tuple(BY_NAME),
        buckets=DELAY,
    ),
    _fleet("anomalies_total", "What the histories of tasks lacked.", labels=("kind",), values=ANOMALIES),
    _fleet("unknown_fields_total", "Fields of callbacks that no schema names.", labels=("field",), limit=50),
    _fleet(
        "last_callback_timestamp_seconds",
        "Arrival of the newest callback answered 200.",
        "gauge",
        labels=("event",),
    ),
    _store("quarantined_callbacks", "Distinct bodies kept in the quarantine now."),
    _fleet(
        "quarantined_bodies_total",
        "Distinct bodies taken into the quarantine.",
        labels=("reason",),
        values=QUARANTINE_REASONS,
    ),
    _fleet("quarantine_evicted_total", "Bodies given up for room or age."),
    _store("store_created_timestamp_seconds", "When the store was made: the generation of its counters."),
    _task("task_state", "1 for the state the task is in, 0 for the others.", labels=("state",)),
    _task("task_info", "What is known of the task; always 1.", labels=("source_host", "stream_id", "to_url")),
    _task("task_runs_total", "Runs begun by a TaskStart.", "counter"),
    _task("task_start_timestamp_seconds", "Start of the current or last run."),
    _task("task_exit_timestamp_seconds", "The last exit, where the task is not active.", labels=("code",)),
    _task("task_file_start_timestamp_seconds", "Start of the file being played."),
    _task("task_file_duration_seconds", "Declared length of the file being played."),
    _task(
        "task_file_finish_timestamp_seconds",
        "Finish of the last file, while the task is active and plays none: running dead air.",
    ),
    _process(
        "callbacks_rejected_total",
        "Callbacks refused, by reason.",
        "counter",
        labels=("reason",),
        values=REASONS,
    ),
    _process(
        "exporter_build_info",
        "Version of the exporter; always 1.",
        "gauge",
        labels=("python", "revision", "version"),
    ),
    _process(
        "exporter_request_seconds",
        "Time to answer a callback, by status.",
        "histogram",
        labels=("status",),
        buckets=WORK,
    ),
    _process("exporter_commit_seconds", "Time to fold and commit a batch.", "histogram", buckets=WORK),
    _process("exporter_render_seconds", "Time to render a scrape.", "histogram", buckets=WORK),
    _process("exporter_batch_callbacks", "Callbacks committed at once.", "histogram", buckets=BATCH),
    _process("exporter_queued_callbacks", "Callbacks that wait for their commit.", "gauge"),
    _process("exporter_store_up", "1 if the store answered the last time it was asked.", "gauge"),
    _process("exporter_callback_open", "1 if anybody may send callbacks.", "gauge"),
    _process(
        "exporter_overflowed_total",
        "What a bound on the number of series cut off.",
        "counter",
        labels=("bound",),
        values=BOUNDS,
    ),
)

#: The families by name without prefix.
CATALOGUE = {family.name: family for family in FAMILIES}


def in_scope(scope: Scope) -> tuple[Family, ...]:
    """Return the families of a scope, in the order they are shown."""
    return tuple(family for family in FAMILIES if family.scope is scope)
