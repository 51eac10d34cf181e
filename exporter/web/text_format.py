"""Writes the lines of a scrape for one record at a time, exactly as prometheus_client would.

prometheus_client writes a whole registry together. Per record, lines of unchanged records can be cached.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

from prometheus_client.utils import floatToGoString

from exporter.metrics.catalogue import (
    CATALOGUE,
    EVENT_NAMES,
    OUTCOMES,
    PREFIX,
    UNKNOWN,
    Family,
    Scope,
    in_scope,
)
from exporter.metrics.values import MICRO, SEP, Exemplar, LabelSetValues, histogram_keys, series
from exporter.relay import NONE, STATES, FoldSettings, Task, state_of
from exporter.store.protocol import decode_label_set, decode_task

# A cast, since prometheus_client has no annotations for it.
_go_number = cast("Callable[[float], str]", floatToGoString)

#: Longest task ID in an exemplar: OpenMetrics allows 128 characters for the names and values of its labels.
MAX_EXEMPLAR_CHARACTERS = 128 - len("task_id")

#: The lines of one record: an item for each family.
RecordLines = tuple[bytes, ...]

#: Labels in the form name="value", escaped.
Pairs = Sequence[str]

_TASK_LABELS = ("appid", "task_id", "to_host")

#: `css_relay_tasks`. Its values are counted from the tasks, but its series have the labels of a label set.
TASKS = CATALOGUE["tasks"]

#: The families in the lines of the store, of a label set, of the fleet and of a task, in their order.
STORE_FAMILIES = tuple(family for family in in_scope(Scope.STORE) if family is not TASKS)
LABEL_SET_FAMILIES = (TASKS, *in_scope(Scope.LABELLED))
FLEET_FAMILIES = in_scope(Scope.FLEET)
TASK_FAMILIES = in_scope(Scope.TASK)


class LineWriter:
    """Writes the lines of records in one format.

    Args:
        openmetrics: write OpenMetrics, with units, creation times and exemplars; else the text format.
        labels: label names of the families that are counted by label set, `--metrics.labels`.
        fold_settings: decides whether a task is failed or stopped.
    """

    def __init__(self, *, openmetrics: bool, labels: tuple[str, ...], fold_settings: FoldSettings) -> None:
        self._openmetrics = openmetrics
        self._labels = labels
        self._fold_settings = fold_settings

    def _family_name(self, family: Family) -> str:
        # OpenMetrics names a counter's family without the suffix _total of its samples.
        return family.full_name.removesuffix("_total") if self._openmetrics else family.full_name

    def header(self, family: Family) -> bytes:
        """Return the HELP, TYPE and UNIT lines of a family."""
        name = self._family_name(family)
        unit = f"# UNIT {name} {family.unit}\n" if self._openmetrics and family.unit else ""
        return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n{unit}".encode()

    def store(self, created: float, quarantined: int) -> RecordLines:
        """Return the lines of the store itself; `created` is when its counters started, UNIX seconds."""
        values = {"store_created_timestamp_seconds": created, "quarantined_callbacks": quarantined}
        return tuple(_line(family.full_name, [], values[family.name]).encode() for family in STORE_FAMILIES)

    def label_set(self, record: str, counts: Sequence[int]) -> RecordLines:
        """Return the lines of a label set; `counts` has its tasks in each state, in the order of STATES."""
        label_set = decode_label_set(record)
        labels = _pairs(self._labels, label_set.labels)
        tasks = zip(STATES, counts, strict=True)
        return (
            "".join(_line(TASKS.full_name, [*labels, _pair("state", s)], n) for s, n in tasks).encode(),
            *("".join(self._series(family, label_set, labels)).encode() for family in LABEL_SET_FAMILIES[1:]),
        )

    def fleet(self, record: str) -> RecordLines:
        """Return the lines of the families without `--metrics.labels`, from their encoded record."""
        label_set = decode_label_set(record)
        return tuple("".join(self._series(family, label_set, [])).encode() for family in FLEET_FAMILIES)

    def task(self, record: str) -> RecordLines:
        """Return the lines of a task, from its encoded record."""
        task = decode_task(record)
        labels = _pairs(_TASK_LABELS, (str(task.appid), task.task_id, task.to_host or UNKNOWN))
        lines = dict.fromkeys((family.name for family in TASK_FAMILIES), "")
        for name, more, value in _task_samples(task, state_of(task, self._fold_settings)):
            lines[name] += _line(PREFIX + name, [*labels, *more], value)
        if self._openmetrics:
            lines["task_runs_total"] += _line("css_relay_task_runs_created", labels, task.first_seen)
        return tuple(text.encode() for text in lines.values())

    def _series(self, family: Family, label_set: LabelSetValues, labels: Pairs) -> Iterator[str]:
        """Yield a family's lines for one label set, also of series known in advance that are still 0."""
        for values in _label_values(family, label_set):
            own = [*labels, *_pairs(family.labels, values)]
            key = series(family.name, *values)
            if family.kind == "gauge":
                yield _line(family.full_name, own, label_set.times[key] / MICRO)
                continue
            if family.kind == "histogram":
                yield from self._histogram(family, label_set, histogram_keys(family.name, *values), own)
            else:
                yield _line(family.full_name, own, label_set.values.get(key, 0))
            if self._openmetrics:
                yield _line(f"{self._family_name(family)}_created", own, label_set.created)

    def _histogram(
        self, family: Family, label_set: LabelSetValues, keys: Sequence[str], labels: Pairs
    ) -> Iterator[str]:
        # The store counts each bucket by itself; the exposition format wants cumulative counts.
        name, total = family.full_name, 0
        *buckets, sum_key = keys
        for bucket, edge in zip(buckets, (*family.buckets, float("inf")), strict=True):
            total += label_set.values.get(bucket, 0)
            bounded = [*labels, _pair("le", _go_number(edge))]
            yield _line(f"{name}_bucket", bounded, total, self._exemplar(label_set, bucket))
        yield _line(f"{name}_count", labels, total)
        yield _line(f"{name}_sum", labels, label_set.values.get(sum_key, 0) / MICRO)

    def _exemplar(self, label_set: LabelSetValues, bucket: str) -> str:
        exemplar: Exemplar | None = label_set.exemplars.get(bucket) if self._openmetrics else None
        if exemplar is None or len(exemplar[0]) > MAX_EXEMPLAR_CHARACTERS:
            return ""
        task_id, value, arrival = exemplar
        return f' # {{task_id="{_escape(task_id)}"}} {_go_number(value)} {arrival}'


def _task_samples(task: Task, state: str) -> Iterator[tuple[str, Pairs, float]]:
    """Yield the samples of a task: the family's name, further labels, and the value."""
    run = task.current
    for name in STATES:
        yield "task_state", [_pair("state", name)], int(name == state)
    info = [task.source_host or UNKNOWN, task.stream_id or UNKNOWN, task.to_url or UNKNOWN]
    yield "task_info", _pairs(("source_host", "stream_id", "to_url"), info), 1
    yield "task_runs_total", (), task.runs
    if run.start is not None:
        yield "task_start_timestamp_seconds", (), run.start.ms / 1000
    if not run.active and run.exit is not None and state != NONE:
        yield "task_exit_timestamp_seconds", [_pair("code", run.exit.subject or UNKNOWN)], run.exit.ms / 1000
    if run.active and run.file is not None:
        yield "task_file_start_timestamp_seconds", (), run.file.ms / 1000
        yield "task_file_duration_seconds", (), run.file.duration
    elif run.active and run.played and run.finish is not None:
        yield "task_file_finish_timestamp_seconds", (), run.finish.ms / 1000


def _label_values(family: Family, label_set: LabelSetValues) -> Sequence[tuple[str, ...]]:
    """Return the values of a family's own labels for one label set, those known in advance first."""
    if not family.labels:
        return [()]
    if family.name == "callbacks_total":
        return [(event, outcome) for event in EVENT_NAMES for outcome in OUTCOMES]
    known = dict.fromkeys((value,) for value in family.values)
    if family.kind == "histogram":
        return list(known)
    found = label_set.times if family.kind == "gauge" else label_set.values
    dynamic = {
        tuple(key.split(SEP, len(family.labels))[1:]) for key in found if key.startswith(family.name + SEP)
    }
    return [*known, *sorted(dynamic - known.keys())]


def _line(name: str, labels: Pairs, value: float, exemplar: str = "") -> str:
    # Sorting the pairs sorts them by name, as prometheus_client does: "=" comes before letters and "_".
    inside = f"{{{','.join(sorted(labels))}}}" if labels else ""
    # Most values are small whole numbers; for these the general formatting is slow and its result the same.
    number = f"{value}.0" if type(value) is int and value < 1_000_000 else _go_number(value)
    return f"{name}{inside} {number}{exemplar}\n"


def _pairs(names: Iterable[str], values: Iterable[str]) -> Pairs:
    return [_pair(name, value) for name, value in zip(names, values, strict=True)]


def _pair(name: str, value: str) -> str:
    return f'{name}="{_escape(value)}"'


def _escape(text: str) -> str:
    if "\\" in text or "\n" in text or '"' in text:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return text
