"""Computes the totals that an exporter must show for the true histories of tasks.

A simple state machine reads each history in order. It uses the event table and the metric catalogue of the
exporter, but no other code of it, so that a fault of the exporter is not repeated here.
"""

from collections import Counter

from exporter.metrics.catalogue import CATALOGUE, EVENT_NAMES, OTHER, UNKNOWN
from exporter.protocol.events import EventKind, Subject
from exporter.simulator.fleet import Event, RelayTask

Key = tuple[str, frozenset[tuple[str, str]]]

#: The metrics that stay exact when callbacks are lost, because they depend on single callbacks only.
EXACT_UNDER_LOSS = frozenset(
    {
        "callbacks_total",
        "callback_delay_seconds_count",
        "tasks_failed_total",
        "quarantined_bodies_total",
        *(kind.counter for kind in EventKind),
    }
)


class Totals:
    """The totals to expect; metric names are without the common prefix."""

    def __init__(self) -> None:
        self.counts: Counter[Key] = Counter()
        self._progress: dict[str, TaskProgress] = {}

    def add(self, name: str, labels: dict[str, str], count: int = 1) -> None:
        """Add to a total."""
        self.counts[name, frozenset(labels.items())] += count

    def record_delivery(self, task: RelayTask, event: Event, *, is_attributable: bool = True) -> None:
        """Count the first delivery of a callback.

        Args:
            task: its task.
            event: the event that it reports.
            is_attributable: the exporter can find its task.
        """
        labels = _labels(task) if is_attributable else _labels(task, has_task=False)
        kind = event.kind
        self.add(kind.counter, labels | ({kind.label: _value(event)} if kind.label else {}))
        if kind is EventKind.EXIT and event.code:
            self.add("tasks_failed_total", labels)
        if not is_attributable:
            self.add("anomalies_total", {"kind": "unattributed_exit"})
        self.record_outcome(kind.callback_event, "applied")
        if task.has_times:  # without an event time there is no delay
            self.add("callback_delay_seconds_count", {"event": kind.callback_event})

    def record_outcome(self, event: str, outcome: str) -> None:
        """Count a callback that is answered with 200."""
        known = event if event in EVENT_NAMES else OTHER
        self.add("callbacks_total", {"event": known, "outcome": outcome})

    def record_event(self, task: RelayTask, event: Event) -> None:
        """Count an event of the true history of a task."""
        progress = self._progress.get(task.task_id)
        if progress is None:
            progress = self._progress[task.task_id] = TaskProgress(task)
        else:  # the task leaves its previous state
            self.add("tasks", progress.labels | {"state": progress.state}, -1)
        for name in progress.apply(event):
            self.add(name, progress.labels)
        self.add("tasks", progress.labels | {"state": progress.state})


class TaskProgress:
    """The state of a task in its true history."""

    def __init__(self, task: RelayTask) -> None:
        self.labels = _labels(task)
        self.state = "none"
        self._awaits_first_file = True
        self._is_playing = False

    def apply(self, event: Event) -> tuple[str, ...]:
        """Apply the next event; return the counters and histogram counts that increase by one."""
        match event.kind:
            case EventKind.START:
                is_restart = self.state != "none"
                self.state, self._awaits_first_file = "active", True
                return ("tasks_restarted_total", "downtime_seconds_count") if is_restart else ()
            case EventKind.FILE_START:
                is_first, self._awaits_first_file, self._is_playing = self._awaits_first_file, False, True
                return ("start_to_file_latency_seconds_count" if is_first else "file_gap_seconds_count",)
            case EventKind.FILE_FINISH:
                self._is_playing = False
                return "file_play_seconds_count", "file_play_ratio_count"
            case EventKind.EXIT:
                is_interrupted, self._is_playing = self._is_playing, False
                self.state = "failed" if event.code else "stopped"
                return ("run_seconds_count", *(("files_interrupted_total",) if is_interrupted else ()))
        return ()


def _value(event: Event) -> str:
    """Return the label value for the subject of an event."""
    if event.kind.subject is Subject.EXIT_CODE:
        return str(event.code)
    known = CATALOGUE[event.kind.counter].values
    return event.text if event.text in known or OTHER not in known else OTHER


def _labels(task: RelayTask, *, has_task: bool = True) -> dict[str, str]:
    """Return every label of `--metrics.labels`; most are unknown for an exit without its task."""
    source_host = task.sources[0].split("/")[2]
    labels = {"appid": str(task.appid), "source_host": source_host}
    of_task = {"to_host": task.to_host, "stream_id": task.stream_id, "task_id": task.task_id}
    return labels | (of_task if has_task else dict.fromkeys(of_task, UNKNOWN))
