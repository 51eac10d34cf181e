"""What has been counted: the numbers of one label set, and what a batch adds to them.

Every number is a whole one (durations are kept in microseconds), so that adding is exact in any order.
Pure: no clock, no I/O.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from exporter.metrics.catalogue import BEYOND, CATALOGUE, OTHER, UNKNOWN, Family, Scope
from exporter.protocol.events import EventKind, EventRow
from exporter.relay import Counted, Measurement, Observed

MICRO = 1_000_000
SEP = " "
SUM = "sum"
SEEN = "seen"

#: The label set of families that have no labels of `--metrics.labels`.
FLEET: tuple[str, ...] = ("",)

Exemplar = tuple[str, float, float]


class LabelSetValues(Struct, frozen=True, array_like=True):
    """The numbers of one label set.

    Args:
        labels: the values of `--metrics.labels`, or FLEET.
        created: when the label set was first seen, seconds.
        values: counters by family and label value, histograms by family and bucket.
        marks: times, microseconds; only the newest counts.
        exemplars: task, value and arrival of a bucket's newest observation.
    """

    labels: tuple[str, ...]
    created: float
    values: dict[str, int] = {}
    marks: dict[str, int] = {}
    exemplars: dict[str, Exemplar] = {}

    def plus(self, entry: "Increments") -> "LabelSetValues":
        """Return this ledger with `entry` added."""
        values = dict(self.values)
        for key, amount in entry.values.items():
            values[key] = values.get(key, 0) + amount
        marks = self.marks | {k: max(v, self.marks.get(k, 0)) for k, v in entry.marks.items()}
        return replace(self, values=values, marks=marks, exemplars=self.exemplars | entry.exemplars)


class Increments(Struct):
    """What is to be added to a ledger."""

    values: Counter[str]
    marks: dict[str, int]
    exemplars: dict[str, Exemplar]


def series(*parts: str) -> str:
    """Return the key of a number within its ledger: a family, and what tells its numbers apart."""
    return SEP.join(parts)


@lru_cache(maxsize=1024)
def histogram_keys(name: str, *label: str) -> tuple[str, ...]:
    """Return the keys of a histogram's buckets, +Inf included, and of its sum; `label` as its family has."""
    buckets = range(len(CATALOGUE[name].buckets) + 1)
    return (*(series(name, *label, str(index)) for index in buckets), series(name, *label, SUM))


class BatchIncrements:
    """Collects what a batch tells, by label set."""

    def __init__(self) -> None:
        self.by_labels: dict[tuple[str, ...], Increments] = {}

    def record(
        self, measurements: Iterable[Measurement], labels: tuple[str, ...], task_id: str, arrival: float
    ) -> None:
        """Add `tales` of a task with `labels`, told at `arrival` (seconds).

        Raises:
            KeyError: a tale is of a family that is not in the catalogue.
        """
        for name, label, amount in measurements:
            family = CATALOGUE[name]
            increments = self._of(labels if family.scope is Scope.LABELLED else FLEET)
            if family.kind == "histogram":
                _observe(increments, family, label, amount, (task_id, amount, arrival))
            elif family.labels:
                increments.values[series(name, _label(family, label))] += int(amount)
            else:
                increments.values[name] += int(amount)

    def count(self, name: str, *labels: str, amount: int = 1) -> None:
        """Add to a counter of the fleet."""
        self._of(FLEET).values[series(name, *labels)] += amount

    def mark(self, name: str, label: str, time: float) -> None:
        """Set a time of the fleet (seconds), unless a newer one is known."""
        marks = self._of(FLEET).marks
        key = series(name, label)
        marks[key] = max(marks.get(key, 0), round(time * MICRO))

    def bound(self, seen: Mapping[str, int]) -> Counter[str]:
        """Fold label values past a family's limit into one; return how many were, by family.

        Args:
            seen: the values of FLEET's ledger so far, which remember what has been told apart.
        """
        beyond: Counter[str] = Counter()
        for increments in list(self.by_labels.values()):
            for key in [k for k in increments.values if _limit(k)]:
                if not self._is_told_apart(key, seen):
                    name = key.split(SEP, 1)[0]
                    amount = increments.values.pop(key)
                    increments.values[series(name, BEYOND)] += amount
                    beyond[name] += amount
        return beyond

    def _is_told_apart(self, key: str, seen: Mapping[str, int]) -> bool:
        name, label = key.split(SEP, 1)
        mark = series(SEEN, key)
        known = self._of(FLEET).values
        if label == UNKNOWN or mark in seen or mark in known:
            return True
        prefix = series(SEEN, name, "")
        if sum(k.startswith(prefix) for k in (*seen, *known)) >= CATALOGUE[name].limit:
            return False
        known[mark] = 1
        return True

    def _of(self, labels: tuple[str, ...]) -> Increments:
        increments = self.by_labels.get(labels)
        if increments is None:
            increments = self.by_labels[labels] = Increments(Counter(), {}, {})
        return increments


def _limit(key: str) -> int:
    family = CATALOGUE.get(key.split(SEP, 1)[0])
    return family.limit if family else 0


def _observe(increments: Increments, family: Family, label: str, value: float, exemplar: Exemplar) -> None:
    keys = histogram_keys(family.name, label) if family.labels else histogram_keys(family.name)
    bucket = keys[bisect_left(family.buckets, value)]
    increments.values[bucket] += 1
    increments.values[keys[-1]] += round(value * MICRO)
    if exemplar[0]:
        increments.exemplars[bucket] = exemplar


def _label(family: Family, label: str) -> str:
    if OTHER in family.values:
        return label if label in family.values else OTHER
    return label or UNKNOWN


def check_names(
    kinds: Iterable[EventKind | EventRow], counted: Iterable[Measurement], observed: Iterable[str]
) -> None:
    """Hold the names that the event table and the fold count by to the catalogue.

    Args:
        kinds: the events.
        counted: what the fold counts beside them.
        observed: the histograms it observes in.

    Raises:
        ValueError: there is no such family, or it does not have that label; the text says which.
    """
    for kind in kinds:
        event = f"the event {kind.callback_event}"
        family = _family("counter", kind.counts, event)
        if family.labels != ((kind.label,) if kind.label else ()):
            raise ValueError(f"{event}: {family.name} has the labels {family.labels}, not {kind.label!r}")
        if family.labels and not family.values and not family.limit:
            raise ValueError(f"{family.name} needs values or a limit: its label comes from outside")
    for name, value, _ in counted:
        if value not in (_family("counter", name, "the fold").values or ("",)):
            raise ValueError(f"the fold: the family {name} has no value {value!r}")
    for name in observed:
        _family("histogram", name, "the fold")


def _family(kind: str, name: str, who: str) -> Family:
    family = CATALOGUE.get(name)
    if family is None or family.kind != kind or family.scope not in (Scope.LABELLED, Scope.FLEET):
        raise ValueError(f"{who}: the catalogue has no {kind} {name} of the fleet")
    return family


check_names(EventKind, [counted.increment for counted in Counted], Observed)
