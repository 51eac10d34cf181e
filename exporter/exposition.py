"""A scrape: the store's snapshot, written as Prometheus text or OpenMetrics.

The lines are those prometheus_client would write (a test compares them byte for byte), but the part of
each ledger and each task is kept as long as its record is the same, so that a scrape costs what has
changed since the last one, and some joining.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from exporter.catalogue import EVENT_NAMES, OUTCOMES, STATE_NAMES, UNKNOWN, Family, Scope, in_scope
from exporter.ledger import MICRO, SEP, Exemplar, Ledger, histogram_keys, series
from exporter.relay import NONE, Task, Windows, state_of
from exporter.store import Snapshot
from exporter.store.records import decode_ledger, decode_task
from exporter.telemetry import Telemetry, WithoutCreated

# prometheus_client types these only in part.
_openmetrics_text = cast("Callable[[Collector], bytes]", openmetrics_exposition.generate_latest)
_go_number = cast("Callable[[float], str]", floatToGoString)

MAX_EXEMPLAR_CHARACTERS = 128 - len("task_id")

#: The lines of one record, by family, in the order of the families of its scope.
Fragment = tuple[str, ...]

_LABELLED = in_scope(Scope.LABELLED)
_FLEET = in_scope(Scope.FLEET)
_TASK = in_scope(Scope.TASK)
_BEFORE_TASKS = tuple(f for scope in (Scope.STORE, Scope.LABELLED, Scope.FLEET) for f in in_scope(scope))


class Exposition:
    """Writes scrapes in one format.

    Args:
        openmetrics: OpenMetrics, with units, creation times and exemplars; else the text format.
        labels: names of the labels of the fleet's families.
        windows: what makes a task failed or stopped.
        telemetry: the families of this process.
    """

    def __init__(
        self, *, openmetrics: bool, labels: tuple[str, ...], windows: Windows, telemetry: Telemetry
    ) -> None:
        self._openmetrics = openmetrics
        self._labels = labels
        self._windows = windows
        self._telemetry = telemetry
        self._fragments: dict[str, Fragment] = {}

    def write(self, snapshot: Snapshot | None) -> bytes:
        """Return a scrape; without a snapshot, of this process's own families alone."""
        if snapshot is None:
            return self._own()
        fragments: dict[str, Fragment] = {}
        fleet = [self._fragment(snapshot.fleet, self._fleet, fragments)]
        ledgers = [self._fragment(record, self._ledger, fragments) for _, record in snapshot.ledgers]
        tasks = [self._fragment(record, self._task, fragments) for record in snapshot.tasks]
        self._fragments = fragments
        lines = dict(self._store_lines(snapshot))
        lines |= _columns(_LABELLED, ledgers)
        lines |= _columns(_FLEET, fleet)
        lines |= _columns(_TASK, tasks)
        families = (*_BEFORE_TASKS, *_TASK)
        text = "".join(self._header(family) + lines.get(family.name, "") for family in families)
        return text.encode() + self._own()

    def _fragment(
        self, record: str, render: Callable[[str], Fragment], fragments: dict[str, Fragment]
    ) -> Fragment:
        fragment = self._fragments.get(record)
        if fragment is None:
            fragment = render(record)
        fragments[record] = fragment
        return fragment

    def _own(self) -> bytes:
        registry = self._telemetry.registry
        return _openmetrics_text(registry) if self._openmetrics else generate_latest(WithoutCreated(registry))

    def _header(self, family: Family) -> str:
        name = self._family_name(family)
        unit = f"# UNIT {name} {family.unit}\n" if self._openmetrics and family.unit else ""
        return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n{unit}"

    def _family_name(self, family: Family) -> str:
        return family.full_name.removesuffix("_total") if self._openmetrics else family.full_name

    def _store_lines(self, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        known = {(labels, state): number for labels, state, number in snapshot.counts}
        yield (
            "tasks",
            "".join(
                _line(
                    "css_relay_tasks",
                    {**dict(zip(self._labels, labels, strict=True)), "state": state},
                    known.get((labels, state), 0),
                )
                for labels, _ in snapshot.ledgers
                for state in STATE_NAMES
            ),
        )
        yield "quarantined_callbacks", _line("css_relay_quarantined_callbacks", {}, snapshot.quarantined)
        yield (
            "store_created_timestamp_seconds",
            _line("css_relay_store_created_timestamp_seconds", {}, snapshot.created),
        )

    def _ledger(self, record: str) -> Fragment:
        ledger = decode_ledger(record)
        labels = dict(zip(self._labels, ledger.labels, strict=True))
        return tuple("".join(self._series(family, ledger, labels)) for family in _LABELLED)

    def _fleet(self, record: str) -> Fragment:
        ledger = decode_ledger(record)
        return tuple("".join(self._series(family, ledger, {})) for family in _FLEET)

    def _series(self, family: Family, ledger: Ledger, labels: Mapping[str, str]) -> Iterator[str]:
        """Yield the lines of a family in one ledger: every series known in advance, and those it has."""
        for values in _label_values(family, ledger):
            own = {**labels, **dict(zip(family.labels, values, strict=True))}
            key = series(family.name, *values)
            if family.kind == "histogram":
                yield from self._histogram(family, ledger, histogram_keys(family.name, *values), own)
            elif family.kind == "gauge":
                yield _line(family.full_name, own, ledger.marks[key] / MICRO)
            else:
                yield from self._counter(family, own, ledger.values.get(key, 0), ledger.created)

    def _counter(
        self, family: Family, labels: Mapping[str, str], value: float, created: float
    ) -> Iterator[str]:
        yield _line(family.full_name, labels, value)
        if self._openmetrics:
            yield _line(f"{self._family_name(family)}_created", labels, created)

    def _histogram(
        self, family: Family, ledger: Ledger, keys: Sequence[str], labels: Mapping[str, str]
    ) -> Iterator[str]:
        name, total = family.full_name, 0
        *buckets, sum_key = keys
        for bucket, edge in zip(buckets, (*family.buckets, float("inf")), strict=True):
            total += ledger.values.get(bucket, 0)
            yield _line(
                f"{name}_bucket",
                {**labels, "le": _go_number(edge)},
                total,
                self._exemplar(ledger, bucket),
            )
        yield _line(f"{name}_count", labels, total)
        yield _line(f"{name}_sum", labels, ledger.values.get(sum_key, 0) / MICRO)
        if self._openmetrics:
            yield _line(f"{name}_created", labels, ledger.created)

    def _exemplar(self, ledger: Ledger, bucket: str) -> str:
        exemplar: Exemplar | None = ledger.exemplars.get(bucket) if self._openmetrics else None
        if exemplar is None or len(exemplar[0]) > MAX_EXEMPLAR_CHARACTERS:
            return ""
        task_id, value, arrival = exemplar
        return f' # {{task_id="{_escape(task_id)}"}} {_go_number(value)} {arrival}'

    def _task(self, record: str) -> Fragment:
        task = decode_task(record)
        labels = {"appid": str(task.appid), "task_id": task.task_id, "to_host": task.to_host or UNKNOWN}
        lines = dict.fromkeys((family.name for family in _TASK), "")
        for name, more, value in _task_samples(task, state_of(task, self._windows)):
            lines[name] += _line(f"css_relay_{name}", {**labels, **more}, value)
        if self._openmetrics:
            lines["task_runs_total"] += _line("css_relay_task_runs_created", labels, task.first_seen)
        return tuple(lines.values())


def _task_samples(task: Task, state: str) -> Iterator[tuple[str, dict[str, str], float]]:
    now = task.now
    for name in STATE_NAMES:
        yield "task_state", {"state": name}, int(name == state)
    info = {name: getattr(task, name) or UNKNOWN for name in ("source_host", "stream_id", "to_url")}
    yield "task_info", info, 1
    yield "task_runs_total", {}, task.runs
    if now.start is not None:
        yield "task_start_timestamp_seconds", {}, now.start.ms / 1000
    if not now.running and now.exit is not None and state != NONE:
        yield "task_exit_timestamp_seconds", {"code": now.exit.subject or UNKNOWN}, now.exit.ms / 1000
    if now.running and now.file is not None:
        yield "task_file_start_timestamp_seconds", {}, now.file.ms / 1000
        yield "task_file_duration_seconds", {}, now.file.duration
    elif now.running and now.played and now.finish is not None:
        yield "task_file_finish_timestamp_seconds", {}, now.finish.ms / 1000


def _label_values(family: Family, ledger: Ledger) -> Sequence[tuple[str, ...]]:
    """Return the values of a family's own labels in one ledger, those known in advance first."""
    if not family.labels:
        return [()]
    if family.name == "callbacks_total":
        return [(event, outcome) for event in EVENT_NAMES for outcome in OUTCOMES]
    known = dict.fromkeys((value,) for value in family.values)
    found = ledger.marks if family.kind == "gauge" else ledger.values
    dynamic = {
        tuple(key.split(SEP, len(family.labels))[1:]) for key in found if key.startswith(family.name + SEP)
    }
    if family.kind == "histogram":
        return list(known)
    return [*known, *sorted(dynamic - known.keys())]


def _columns(families: Sequence[Family], fragments: Sequence[Fragment]) -> dict[str, str]:
    return {family.name: "".join([f[index] for f in fragments]) for index, family in enumerate(families)}


def _line(name: str, labels: Mapping[str, str], value: float, exemplar: str = "") -> str:
    if not labels:
        return f"{name} {_number(value)}{exemplar}\n"
    inside = ",".join([f'{key}="{_escape(labels[key])}"' for key in sorted(labels)])
    return f"{name}{{{inside}}} {_number(value)}{exemplar}\n"


def _number(value: float) -> str:
    return f"{value}.0" if type(value) is int and value < 1_000_000 else _go_number(value)


def _escape(text: str) -> str:
    if "\\" in text or "\n" in text or '"' in text:
        return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return text
