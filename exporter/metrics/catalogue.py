"""The metric catalogue: one row for each metric family.

To add a metric, add its row here, and count it where its scope is counted: LABELLED and FLEET by a row of
`protocol.events`, in `relay.counted` and the module of `relay` that detects it, or in `ingest.batch`; STORE
and TASK in `web.text_format`; PROCESS in `metrics.process`. Then run `make docs`.
The exposition, the limits, the documentation and the tests read this table. Names are without the prefix.
"""

from enum import Enum

from msgspec import Struct

from exporter.errors import REASONS
from exporter.protocol.events import BY_NAME
from exporter.relay import STATES

PREFIX = "css_relay_"
#: The label value for a value that is not in a family's list.
OTHER = "other"
UNKNOWN = "_unknown"  # a missing value
#: The label value for all values over a limit. The underscore distinguishes it from values of callbacks.
OVERFLOW = "_other"
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
    """The source of a family's numbers; the value is its text in the documentation."""

    LABELLED = "the fleet, by label set"
    FLEET = "the fleet"
    STORE = "the store"
    TASK = "one task"
    PROCESS = "this process"


class Family(Struct, frozen=True, kw_only=True):
    """A metric family.

    Args:
        name: the name without the prefix.
        kind: counter, gauge or histogram.
        help: the meaning, in one line; the HELP text of the exposition.
        scope: where its numbers come from, and which labels are added.
        labels: its labels, without those of its scope.
        values: if it has one label, the values known in advance; their samples are 0 from the start.
        buckets: upper bounds of a histogram's buckets, without +Inf.
        limit: maximum number of label values that senders choose; further ones become OVERFLOW. 0: no limit.
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
        """The name with the prefix, as exposed."""
        return PREFIX + self.name

    @property
    def bound(self) -> str:
        """The name of the limit in `exporter_overflowed_total`: `codes` for the label `code`."""
        return f"{self.labels[0]}s"

    @property
    def unit(self) -> str:
        """The unit at the end of the name, empty if there is none."""
        return next((u for u in ("seconds", "ratio") if self.name.endswith("_" + u)), "")


# 2 s must be a bucket bound: it is the documented maximum between TaskStart and the first file.
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
    _store("tasks", "Number of known tasks, by state.", labels=("state",), values=STATES),
    _labelled("tasks_started_total", "Runs started by a TaskStart; redeliveries are not counted."),
    _labelled("tasks_restarted_total", "Runs started by a TaskStart of a task that had run before."),
    _labelled("tasks_exited_total", "Runs that ended, by exit code.", labels=("code",), limit=64),
    _labelled("tasks_failed_total", "Runs that ended with a code that is not in --relay.ok-exit-codes."),
    _labelled("tasks_lost_total", "Active tasks marked lost, because no callback arrived for too long."),
    _labelled("files_started_total", "Files that started to play."),
    _labelled("files_played_total", "Files that played to their end."),
    _labelled("files_interrupted_total", "Files interrupted by the exit of their run."),
    _labelled("alarms_total", "Alarms of the service, by type.", labels=("type",), values=ALARM_TYPES),
    _labelled("config_resets_total", "Configuration changes of tasks."),
    _labelled(
        "start_to_file_latency_seconds",
        "Time from a TaskStart to the first VodSourceFileStart of its run; up to 2 s is normal.",
        "histogram",
        buckets=LATENCY,
    ),
    _labelled(
        "file_gap_seconds",
        "Time from the finish of a file to the start of the next one in its run; nothing plays meanwhile.",
        "histogram",
        buckets=GAP,
    ),
    _labelled("file_play_seconds", "Time from the start of a file to its finish.", "histogram", buckets=PLAY),
    _labelled(
        "file_play_ratio",
        "Time from the start of a file to its finish, divided by its declared duration.",
        "histogram",
        buckets=RATIO,
    ),
    _labelled("run_seconds", "Time from the start of a run to its exit.", "histogram", buckets=RUN),
    _labelled(
        "downtime_seconds", "Time from the exit of a task to its next start.", "histogram", buckets=DOWN
    ),
    _fleet("callbacks_total", "Callbacks answered 200, by event and outcome.", labels=("event", "outcome")),
    _fleet(
        "callback_delay_seconds",
        "Time from the event time of a callback to its arrival; 0 if the sender's clock is ahead.",
        "histogram",
        labels=("event",),
        values=tuple(BY_NAME),
        buckets=DELAY,
    ),
    _fleet("anomalies_total", "Missing callbacks and wrong times.", labels=("kind",), values=ANOMALIES),
    _fleet("unknown_fields_total", "Callback fields that no schema lists.", labels=("field",), limit=50),
    _fleet(
        "last_callback_timestamp_seconds",
        "Arrival time of the newest callback answered 200.",
        "gauge",
        labels=("event",),
    ),
    _store("quarantined_callbacks", "Distinct bodies in the quarantine now."),
    _fleet(
        "quarantined_bodies_total",
        "Distinct bodies added to the quarantine, by reason.",
        labels=("reason",),
        values=QUARANTINE_REASONS,
    ),
    _fleet("quarantine_evicted_total", "Bodies deleted from the quarantine because of size or age limits."),
    _store("store_created_timestamp_seconds", "Time at which the counters of the store started at 0."),
    _task("task_state", "1 for the current state of the task, 0 for the other states.", labels=("state",)),
    _task("task_info", "Properties of the task; always 1.", labels=("source_host", "stream_id", "to_url")),
    _task("task_runs_total", "Runs of the task started by a TaskStart.", "counter"),
    _task("task_start_timestamp_seconds", "Start time of the current run, or of the last one."),
    _task("task_exit_timestamp_seconds", "Last exit, while the task is not active.", labels=("code",)),
    _task("task_file_start_timestamp_seconds", "Start time of the file that is playing."),
    _task("task_file_duration_seconds", "Declared duration of the file that is playing."),
    _task(
        "task_file_finish_timestamp_seconds",
        "Finish time of the last file, while the task is active and plays nothing.",
    ),
    _process(
        "callbacks_rejected_total",
        "Callbacks rejected, by reason.",
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
        "Time to answer a callback, by HTTP status.",
        "histogram",
        labels=("status",),
        buckets=WORK,
    ),
    _process("exporter_commit_seconds", "Time to fold and commit a batch.", "histogram", buckets=WORK),
    _process("exporter_render_seconds", "Time to render a scrape.", "histogram", buckets=WORK),
    _process("exporter_batch_callbacks", "Callbacks in a batch.", "histogram", buckets=BATCH),
    _process("exporter_queued_callbacks", "Callbacks waiting for their commit.", "gauge"),
    _process("exporter_store_up", "1 if the last read and the last write of the store succeeded.", "gauge"),
    _process("exporter_callback_open", "1 if anybody on the network can send callbacks.", "gauge"),
    _process(
        "exporter_overflowed_total",
        "Label sets, tasks, exit codes and fields that got no series of their own, by limit.",
        "counter",
        labels=("bound",),
        values=BOUNDS,
    ),
)

#: The families by their name without the prefix.
CATALOGUE = {family.name: family for family in FAMILIES}


def in_scope(scope: Scope) -> tuple[Family, ...]:
    """Return the families of a scope, in the order of the exposition."""
    return tuple(family for family in FAMILIES if family.scope is scope)
