"""The totals that an exporter must show for the true histories of tasks, and their comparison with scrapes.

A simple state machine reads each history in order. It uses the event table and the metric catalogue of the
exporter, but no other code of it, so that a fault of the exporter is not repeated here.
"""

from collections import Counter
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from exporter.metrics.catalogue import CATALOGUE, EVENT_NAMES, LABEL_CHOICES, OTHER, PREFIX, UNKNOWN, Scope
from exporter.protocol.events import EventKind, Subject
from exporter.simulator.fleet import Event, RelayTask

#: Name and labels of a sample; the name is without the common prefix.
Key = tuple[str, frozenset[tuple[str, str]]]

#: The compared samples: all that the callbacks of a simulation can change.
COMPARED = {
    f"{family.name}_count" if family.kind == "histogram" else family.name
    for family in CATALOGUE.values()
    if family.scope in (Scope.LABELLED, Scope.FLEET) and family.kind != "gauge"
} - {"unknown_fields_total", "quarantine_evicted_total"} | {"tasks"}
#: The samples that stay exact when callbacks are lost, because they depend on single callbacks only.
EXACT_UNDER_LOSS = {kind.counter for kind in EventKind} | {
    "callbacks_total",
    "callback_delay_seconds_count",
    "tasks_failed_total",
    "quarantined_bodies_total",
}


class Totals:
    """The totals to expect."""

    def __init__(self) -> None:
        self.counts: Counter[Key] = Counter()

    def add(self, name: str, labels: dict[str, str], count: int = 1) -> None:
        """Add to a total."""
        self.counts[name, frozenset(labels.items())] += count

    def record_delivery(self, task: RelayTask, event: Event, *, is_attributable: bool = True) -> None:
        """Count the first delivery of a callback, whose task the exporter finds if it is attributable."""
        kind, labels = event.kind, _labels(task, has_task=is_attributable)
        value = str(event.code) if kind.subject is Subject.EXIT_CODE else event.text
        known = CATALOGUE[kind.counter].values
        if OTHER in known and value not in known:
            value = OTHER
        self.add(kind.counter, labels | ({kind.label: value} if kind.label else {}))
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


class TaskProgress:
    """The state of a task in its true history; its events are counted in `totals`."""

    def __init__(self, task: RelayTask, totals: Totals) -> None:
        self._labels = _labels(task, has_task=True)
        self._totals = totals
        self._state = ""
        self._awaits_first_file = True
        self._is_playing = False

    def record_event(self, event: Event) -> None:
        """Count the next event."""
        previous = self._state
        match event.kind:
            case EventKind.START:
                if previous:
                    self._add("tasks_restarted_total", "downtime_seconds_count")
                self._state, self._awaits_first_file = "active", True
            case EventKind.FILE_START:
                is_first = self._awaits_first_file
                self._add("start_to_file_latency_seconds_count" if is_first else "file_gap_seconds_count")
                self._awaits_first_file, self._is_playing = False, True
            case EventKind.FILE_FINISH:
                self._add("file_play_seconds_count", "file_play_ratio_count")
                self._is_playing = False
            case EventKind.EXIT:
                self._add("run_seconds_count")
                if self._is_playing:
                    self._add("files_interrupted_total")
                self._state, self._is_playing = "failed" if event.code else "stopped", False
        if previous:
            self._totals.add("tasks", self._labels | {"state": previous}, -1)
        self._totals.add("tasks", self._labels | {"state": self._state})

    def _add(self, *names: str) -> None:
        for name in names:
            self._totals.add(name, self._labels)


def _labels(task: RelayTask, *, has_task: bool) -> dict[str, str]:
    """Return every label of `--metrics.labels`; most are unknown for an exit without its task."""
    source_host = task.sources[0].split("/")[2]
    labels = {"appid": str(task.appid), "source_host": source_host}
    of_task = {"to_host": task.to_host, "stream_id": task.stream_id, "task_id": task.task_id}
    return labels | (of_task if has_task else dict.fromkeys(of_task, UNKNOWN))


def compared_samples(exposition: str) -> dict[Key, float]:
    """Return the compared samples in the text of a scrape."""
    return {
        (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name.removeprefix(PREFIX) in COMPARED
    }


class Comparison:
    """The comparison of the totals to expect with the increase between two scrapes.

    Args:
        expected: totals with every label of `--metrics.labels`.
        before, after: the two scrapes.
        lossy: callbacks were lost, so only the samples in EXACT_UNDER_LOSS are compared.
        unanswered: number of requests without an answer; each may have been counted, and its repetition
            as a duplicate.
    """

    def __init__(
        self,
        *,
        expected: Mapping[Key, int],
        before: Mapping[Key, float],
        after: Mapping[Key, float],
        lossy: bool,
        unanswered: int,
    ) -> None:
        # The exporter may have any --metrics.labels: the totals are summed over the labels that it lacks.
        shown = {name for key in after if key[0] == "tasks" for name, _ in key[1]}
        hidden = set(LABEL_CHOICES) - (shown - {"to_host", "stream_id", "task_id"} if lossy else shown)
        totals = sum_over(expected, hidden)
        self.increase = sum_over({key: value - before.get(key, 0) for key, value in after.items()}, hidden)
        keys = totals.keys() | self.increase.keys()
        if lossy:
            keys = {key for key in keys if key[0] in EXACT_UNDER_LOSS}
        #: Number of compared samples, and a line for each that differs from its total.
        self.compared = len(keys)
        self.differences: list[str] = []
        for key in sorted(keys, key=lambda key: (key[0], sorted(key[1]))):
            total, increase = totals[key], self.increase[key]
            may_exceed = unanswered if ("outcome", "duplicate") in key[1] else 0
            if not 0 <= increase - total <= may_exceed:
                self.differences.append(f"{sample_text(key)}: expected {total:g}, grew by {increase:g}")


def sum_over(counts: Mapping[Key, float], hidden: set[str]) -> Counter[Key]:
    """Return `counts` summed over the labels in `hidden`."""
    summed: Counter[Key] = Counter()
    for (name, labels), count in counts.items():
        summed[name, frozenset(label for label in labels if label[0] not in hidden)] += count  # type: ignore[assignment]
    return summed


def sample_text(key: Key) -> str:
    """Return the name and labels of a sample in the text format."""
    name, labels = key
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels))
    return f"{PREFIX}{name}" + (f"{{{inside}}}" if inside else "")
