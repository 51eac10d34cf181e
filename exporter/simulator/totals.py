"""What must be counted of the true histories of tasks.

A plain machine reads each history in the order in which it happened. It shares the tables of events and of
metrics with the exporter, and nothing of its way to count, so that the two can be held against each other.
"""

from collections import Counter

from exporter.metrics.catalogue import CATALOGUE, EVENT_NAMES, OTHER, UNKNOWN
from exporter.protocol.events import EventKind, Subject
from exporter.simulator.fleet import Event, Relay

Key = tuple[str, frozenset[tuple[str, str]]]

#: What stays exact when callbacks are lost, because each counts by itself.
EXACT_UNDER_LOSS = frozenset(
    {
        "callbacks_total",
        "callback_delay_seconds_count",
        "tasks_failed_total",
        "quarantined_bodies_total",
        *(kind.counts for kind in EventKind),
    }
)


class Totals:
    """Counts what an exporter must show; names lack the common prefix."""

    def __init__(self) -> None:
        self.counts: Counter[Key] = Counter()
        self._courses: dict[str, Course] = {}

    def add(self, name: str, labels: dict[str, str], count: int = 1) -> None:
        """Count something."""
        self.counts[name, frozenset(labels.items())] += count

    def delivered(self, relay: Relay, event: Event, *, owner: bool = True) -> None:
        """Count what a callback says by itself, when it comes for the first time.

        Args:
            relay: its task.
            event: what it tells of.
            owner: the task can be told from it.
        """
        labels = _labels(relay) if owner else _labels(relay, known=False)
        kind = event.kind
        self.add(kind.counts, labels | ({kind.label: _value(event)} if kind.label else {}))
        if kind is EventKind.EXIT and event.code:
            self.add("tasks_failed_total", labels)
        if not owner:
            self.add("anomalies_total", {"kind": "unattributed_exit"})
        self.outcome(kind.callback_event, "applied")
        if relay.timed:
            self.add("callback_delay_seconds_count", {"event": kind.callback_event})

    def outcome(self, event: str, outcome: str) -> None:
        """Count a callback answered 200."""
        known = event if event in EVENT_NAMES else OTHER
        self.add("callbacks_total", {"event": known, "outcome": outcome})

    def happened(self, relay: Relay, event: Event) -> None:
        """Follow a task through what truly happened to it."""
        course = self._courses.get(relay.task_id)
        if course is None:
            course = self._courses[relay.task_id] = Course(relay)
        else:
            self.add("tasks", course.labels | {"state": course.state}, -1)
        for name in course.step(event):
            self.add(name, course.labels)
        self.add("tasks", course.labels | {"state": course.state})


class Course:
    """Where a task stands in its true history."""

    def __init__(self, relay: Relay) -> None:
        self.labels = _labels(relay)
        self.state = "none"
        self._is_fresh = True
        self._playing = False

    def step(self, event: Event) -> tuple[str, ...]:
        """Take in the next event; return the counters and histogram counts that go up by one."""
        match event.kind:
            case EventKind.START:
                again = self.state != "none"
                self.state, self._is_fresh = "active", True
                return ("tasks_restarted_total", "downtime_seconds_count") if again else ()
            case EventKind.FILE_START:
                first, self._is_fresh, self._playing = self._is_fresh, False, True
                return ("start_to_file_latency_seconds_count" if first else "file_gap_seconds_count",)
            case EventKind.FILE_FINISH:
                self._playing = False
                return "file_play_seconds_count", "file_play_ratio_count"
            case EventKind.EXIT:
                cut_off, self._playing = self._playing, False
                self.state = "failed" if event.code else "stopped"
                return ("run_seconds_count", *(("files_interrupted_total",) if cut_off else ()))
        return ()


def _value(event: Event) -> str:
    """Return the value of the label that tells an event's subject."""
    if event.kind.subject is Subject.EXIT_CODE:
        return str(event.code)
    known = CATALOGUE[event.kind.counts].values
    return event.text if event.text in known or OTHER not in known else OTHER


def _labels(relay: Relay, *, known: bool = True) -> dict[str, str]:
    """Return everything that `--metrics.labels` may name; of an exit without its task little is known."""
    source_host = relay.sources[0].split("/")[2]
    labels = {"appid": str(relay.appid), "source_host": source_host}
    hidden = {"to_host": relay.to_host, "stream_id": relay.stream_id, "task_id": relay.task_id}
    return labels | (hidden if known else dict.fromkeys(hidden, UNKNOWN))
