"""The lines of a scrape: those that prometheus_client would write, of one record at a time."""

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
from exporter.store.records import decode_label_set, decode_task

# prometheus_client types it only in part.
_go_number = cast("Callable[[float], str]", floatToGoString)

MAX_EXEMPLAR_CHARACTERS = 128 - len("task_id")

#: The lines of one record, a column each family.
Row = tuple[bytes, ...]

#: Labels as they are written, each with its value.
Pairs = Sequence[str]

_TASK_LABELS = ("appid", "task_id", "to_host")

#: Its series are counted from the tasks, and stand with the ledgers.
COUNTED = CATALOGUE["tasks"]

#: The families that a row has lines of, in the order of its columns.
STORE = tuple(family for family in in_scope(Scope.STORE) if family is not COUNTED)
LEDGER = (COUNTED, *in_scope(Scope.LABELLED))
FLEET = in_scope(Scope.FLEET)
TASK = in_scope(Scope.TASK)


class Lines:
    """Writes rows in one format.

    Args:
        openmetrics: OpenMetrics, with units, creation times and exemplars; else the text format.
        labels: names of the labels of the fleet's families.
        windows: what makes a task failed or stopped.
    """

    def __init__(self, *, openmetrics: bool, labels: tuple[str, ...], fold_settings: FoldSettings) -> None:
        self._openmetrics = openmetrics
        self._labels = labels
        self._windows = fold_settings

    def _family_name(self, family: Family) -> str:
        return family.full_name.removesuffix("_total") if self._openmetrics else family.full_name

    def header(self, family: Family) -> bytes:
        """Return the lines that stand before a family's series."""
        name = self._family_name(family)
        unit = f"# UNIT {name} {family.unit}\n" if self._openmetrics and family.unit else ""
        return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n{unit}".encode()

    def store(self, created: float, quarantined: int) -> Row:
        """Return the lines of the store itself."""
        values = {"store_created_timestamp_seconds": created, "quarantined_callbacks": quarantined}
        return tuple(_line(family.full_name, [], values[family.name]).encode() for family in STORE)

    def label_set(self, record: str, counts: Sequence[int]) -> Row:
        """Return the lines of a label set, of which there are so many tasks in each state."""
        label_set = decode_label_set(record)
        labels = _pairs(self._labels, label_set.labels)
        tasks = zip(STATES, counts, strict=True)
        return (
            "".join(_line(COUNTED.full_name, [*labels, _pair("state", s)], n) for s, n in tasks).encode(),
            *("".join(self._series(family, label_set, labels)).encode() for family in LEDGER[1:]),
        )

    def fleet(self, record: str) -> Row:
        """Return the lines of the fleet as a whole."""
        label_set = decode_label_set(record)
        return tuple("".join(self._series(family, label_set, [])).encode() for family in FLEET)

    def task(self, record: str) -> Row:
        """Return the lines of a task."""
        task = decode_task(record)
        labels = _pairs(_TASK_LABELS, (str(task.appid), task.task_id, task.to_host or UNKNOWN))
        lines = dict.fromkeys((family.name for family in TASK), "")
        for name, more, value in _task_samples(task, state_of(task, self._windows)):
            lines[name] += _line(PREFIX + name, [*labels, *more], value)
        if self._openmetrics:
            lines["task_runs_total"] += _line("css_relay_task_runs_created", labels, task.first_seen)
        return tuple(text.encode() for text in lines.values())

    def _series(self, family: Family, label_set: LabelSetValues, labels: Pairs) -> Iterator[str]:
        """Yield the lines of a family in one ledger: every series known in advance, and those it has."""
        for values in _label_values(family, label_set):
            own = [*labels, *_pairs(family.labels, values)]
            key = series(family.name, *values)
            if family.kind == "histogram":
                yield from self._histogram(family, label_set, histogram_keys(family.name, *values), own)
            elif family.kind == "gauge":
                yield _line(family.full_name, own, label_set.times[key] / MICRO)
            else:
                yield from self._counter(family, own, label_set.values.get(key, 0), label_set.created)

    def _counter(self, family: Family, labels: Pairs, value: float, created: float) -> Iterator[str]:
        yield _line(family.full_name, labels, value)
        if self._openmetrics:
            yield _line(f"{self._family_name(family)}_created", labels, created)

    def _histogram(
        self, family: Family, label_set: LabelSetValues, keys: Sequence[str], labels: Pairs
    ) -> Iterator[str]:
        name, total = family.full_name, 0
        *buckets, sum_key = keys
        for bucket, edge in zip(buckets, (*family.buckets, float("inf")), strict=True):
            total += label_set.values.get(bucket, 0)
            yield _line(
                f"{name}_bucket",
                [*labels, _pair("le", _go_number(edge))],
                total,
                self._exemplar(label_set, bucket),
            )
        yield _line(f"{name}_count", labels, total)
        yield _line(f"{name}_sum", labels, label_set.values.get(sum_key, 0) / MICRO)
        if self._openmetrics:
            yield _line(f"{name}_created", labels, label_set.created)

    def _exemplar(self, label_set: LabelSetValues, bucket: str) -> str:
        exemplar: Exemplar | None = label_set.exemplars.get(bucket) if self._openmetrics else None
        if exemplar is None or len(exemplar[0]) > MAX_EXEMPLAR_CHARACTERS:
            return ""
        task_id, value, arrival = exemplar
        return f' # {{task_id="{_escape(task_id)}"}} {_go_number(value)} {arrival}'


def _task_samples(task: Task, state: str) -> Iterator[tuple[str, Pairs, float]]:
    now = task.current
    for name in STATES:
        yield "task_state", [_pair("state", name)], int(name == state)
    info = [task.source_host or UNKNOWN, task.stream_id or UNKNOWN, task.to_url or UNKNOWN]
    yield "task_info", _pairs(("source_host", "stream_id", "to_url"), info), 1
    yield "task_runs_total", (), task.runs
    if now.start is not None:
        yield "task_start_timestamp_seconds", (), now.start.ms / 1000
    if not now.running and now.exit is not None and state != NONE:
        yield "task_exit_timestamp_seconds", [_pair("code", now.exit.subject or UNKNOWN)], now.exit.ms / 1000
    if now.running and now.file is not None:
        yield "task_file_start_timestamp_seconds", (), now.file.ms / 1000
        yield "task_file_duration_seconds", (), now.file.duration
    elif now.running and now.played and now.finish is not None:
        yield "task_file_finish_timestamp_seconds", (), now.finish.ms / 1000


def _label_values(family: Family, label_set: LabelSetValues) -> Sequence[tuple[str, ...]]:
    """Return the values of a family's own labels in one ledger, those known in advance first."""
    if not family.labels:
        return [()]
    if family.name == "callbacks_total":
        return [(event, outcome) for event in EVENT_NAMES for outcome in OUTCOMES]
    known = dict.fromkeys((value,) for value in family.values)
    found = label_set.times if family.kind == "gauge" else label_set.values
    dynamic = {
        tuple(key.split(SEP, len(family.labels))[1:]) for key in found if key.startswith(family.name + SEP)
    }
    if family.kind == "histogram":
        return list(known)
    return [*known, *sorted(dynamic - known.keys())]


def _line(name: str, labels: Pairs, value: float, exemplar: str = "") -> str:
    # By name: it is followed by a sign that comes before all that names have in them.
    inside = f"{{{','.join(sorted(labels))}}}" if labels else ""
    return f"{name}{inside} {_number(value)}{exemplar}\n"


def _pairs(names: Iterable[str], values: Iterable[str]) -> Pairs:
    return [_pair(name, value) for name, value in zip(names, values, strict=True)]


def _pair(name: str, value: str) -> str:
    return f'{name}="{_escape(value)}"'


def _number(value: float) -> str:
    return f"{value}.0" if type(value) is int and value < 1_000_000 else _go_number(value)


def _escape(text: str) -> str:
    if "\\" in text or "\n" in text or '"' in text:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return text
