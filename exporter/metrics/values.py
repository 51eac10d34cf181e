"""The stored values of metrics: the values of a label set, and the increments of a batch.

All values are integers (durations in microseconds), so that a sum is exact in whatever order it is added up.
Pure: no clock, no I/O.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial

from msgspec import Struct, field
from msgspec.structs import replace

from exporter.metrics.catalogue import CATALOGUE, OTHER, OVERFLOW, UNKNOWN, Family, Scope
from exporter.protocol.events import EventKind, EventRow
from exporter.relay import Counted, Measurement, Observed, Task

MICRO = 1_000_000
#: Separates the parts of a key. No part but the last may contain it.
SEP = " "
SUM = "sum"
#: First part of the keys that record which label values a limited family already has.
SEEN_VALUE = "seen"

#: Families that are counted outside of the fold: by `ingest.batch`, and for the quarantine by the stores.
COUNTED_OUTSIDE = frozenset(
    {
        "callbacks_total",
        "unknown_fields_total",
        "last_callback_timestamp_seconds",
        "quarantined_bodies_total",
        "quarantine_evicted_total",
    }
)

#: The label set of the families without `--metrics.labels`.
FLEET: tuple[str, ...] = ("",)

#: The families of which senders choose the label values, with the maximum number of these.
_LIMITS = {family.name: family.limit for family in CATALOGUE.values() if family.limit}

#: The task, the value and the arrival (seconds) of an observation.
Exemplar = tuple[str, float, float]


class LabelSetValues(Struct, frozen=True, array_like=True):
    """The values of one label set.

    Args:
        labels: the values of `--metrics.labels`, or FLEET.
        created: when its counters started at 0, seconds.
        values: counters by family and label value, histograms by family and bucket.
        times: the newest time of each family and label value, microseconds.
        exemplars: the newest observation in a bucket.
    """

    labels: tuple[str, ...]
    created: float
    values: dict[str, int] = {}
    times: dict[str, int] = {}
    exemplars: dict[str, Exemplar] = {}

    def plus(self, increments: "Increments") -> "LabelSetValues":
        """Return these values with `increments` added."""
        values, times = self.values.copy(), self.times.copy()
        for key, amount in increments.values.items():
            values[key] = values.get(key, 0) + amount
        for key, time in increments.times.items():
            times[key] = max(time, times.get(key, 0))
        return replace(self, values=values, times=times, exemplars=self.exemplars | increments.exemplars)


class Increments(Struct):
    """The increments of one label set."""

    values: Counter[str] = field(default_factory=Counter)
    times: dict[str, int] = {}
    exemplars: dict[str, Exemplar] = {}


def labels_of(task: Task, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of the labels `names` of a task; a missing value is `_unknown`."""
    return _as_labels(*map(partial(getattr, task), names))


# Many tasks share few label sets: the cache lets their records share one tuple, too.
@lru_cache(maxsize=4096)
def _as_labels(*values: object) -> tuple[str, ...]:
    return tuple(str(value) or UNKNOWN for value in values)


def series(*parts: str) -> str:
    """Return the key of a value within its label set: the family, then its label value or bucket."""
    return SEP.join(parts)


# Cached, because every observation and every scrape needs these keys.
@lru_cache(maxsize=1024)
def histogram_keys(name: str, *label: str) -> tuple[str, ...]:
    """Return the keys of a histogram's buckets, +Inf included, and of its sum, for its label value if any."""
    buckets = range(len(CATALOGUE[name].buckets) + 1)
    return (*(series(name, *label, str(index)) for index in buckets), series(name, *label, SUM))


class BatchIncrements(Struct):
    """Collects the increments of a batch by label set."""

    by_labels: defaultdict[tuple[str, ...], Increments] = field(
        default_factory=partial(defaultdict, Increments)
    )

    def record(
        self, measurements: Iterable[Measurement], labels: tuple[str, ...], task_id: str, arrival: float
    ) -> None:
        """Add the measurements of one callback.

        Args:
            measurements: a family, a label value and an amount each.
            labels: the label set of its task.
            task_id: its task, for the exemplars.
            arrival: its arrival, seconds, for the exemplars.

        Raises:
            KeyError: the catalogue does not have the family.
        """
        for name, label, amount in measurements:
            family = CATALOGUE[name]
            increments = self.by_labels[labels if family.scope is Scope.LABELLED else FLEET]
            if family.kind == "histogram":
                keys = histogram_keys(name, label) if family.labels else histogram_keys(name)
                bucket = keys[bisect_left(family.buckets, amount)]
                increments.values[bucket] += 1
                increments.values[keys[-1]] += round(amount * MICRO)
                if task_id:  # an exit without a task has none to show
                    increments.exemplars[bucket] = task_id, amount, arrival
            elif family.labels:
                # A family with OTHER has a fixed list of values: a new alarm type makes no new series.
                if OTHER in family.values and label not in family.values:
                    label = OTHER
                increments.values[SEP.join((name, label or UNKNOWN))] += int(amount)
            else:
                increments.values[name] += int(amount)

    def count(self, name: str, *labels: str, amount: int = 1) -> None:
        """Increment a counter of the fleet."""
        self.by_labels[FLEET].values[SEP.join((name, *labels))] += amount

    def set_time(self, name: str, label: str, time: float) -> None:
        """Set a time of the fleet (seconds), unless the batch already has a newer one."""
        times, key = self.by_labels[FLEET].times, SEP.join((name, label))
        times[key] = max(times.get(key, 0), round(time * MICRO))

    def apply_limits(self, seen: Mapping[str, int]) -> Counter[str]:
        """Merge label values over the limit of their family into OVERFLOW; return the amounts by limit.

        Args:
            seen: the stored values of FLEET; they record which label values have series of their own.
        """
        merged: Counter[str] = Counter()
        # Copies, because the loop changes both mappings.
        for increments in list(self.by_labels.values()):
            for key in list(increments.values):
                name = key.partition(SEP)[0]
                if name in _LIMITS and not self._claim_series(key, seen):
                    amount = increments.values.pop(key)
                    increments.values[series(name, OVERFLOW)] += amount
                    merged[CATALOGUE[name].bound] += amount
        return merged

    def _claim_series(self, key: str, seen: Mapping[str, int]) -> bool:
        """Give a label value a series of its own if the limit allows; return whether it has one."""
        name, label = key.split(SEP, 1)
        record = series(SEEN_VALUE, key)
        added = self.by_labels[FLEET].values
        # UNKNOWN is a value of our own, so it does not use up the limit.
        if label == UNKNOWN or record in seen or record in added:
            return True
        prefix = series(SEEN_VALUE, name, "")
        if sum(k.startswith(prefix) for k in (*seen, *added)) >= _LIMITS[name]:
            return False
        # Recorded for the fleet, so that every label set has the same values.
        added[record] = 1
        return True


def check_names(
    kinds: Iterable[EventKind | EventRow], counted: Iterable[Measurement], observed: Iterable[str]
) -> None:
    """Check that the catalogue has the families that the event table and the fold use.

    Args:
        counted: the increments of the fold, other than the counters of `kinds`.
        observed: the histograms of the fold.

    Raises:
        ValueError: a family is missing or has another label; the text names it.
    """
    for kind in kinds:
        event = f"the event {kind.callback_event}"
        family = _family("counter", kind.counter, event)
        labels = (kind.label,) if kind.label else ()
        if family.labels != labels:
            raise ValueError(f"{event}: {family.name} has the labels {family.labels}, not {kind.label!r}")
        # Without either, a sender could create any number of series.
        if family.labels and not family.values and not family.limit:
            raise ValueError(f"{family.name} needs values or a limit: senders choose its label values")
    for name, value, _ in counted:
        if value not in (_family("counter", name, "the fold").values or ("",)):
            raise ValueError(f"the fold: the family {name} has no value {value!r}")
    for name in observed:
        _family("histogram", name, "the fold")


def _family(kind: str, name: str, user: str) -> Family:
    family = CATALOGUE.get(name)
    if family is None or family.kind != kind or family.scope not in (Scope.LABELLED, Scope.FLEET):
        raise ValueError(f"{user}: the catalogue has no {kind} {name} of the fleet")
    return family


def check_all_counted(families: Iterable[Family], names: Iterable[str]) -> None:
    """Check that something counts each family of the fleet; `names` are those that are counted.

    Raises:
        ValueError: nothing counts a family; the text names it.
    """
    counted = set(names)
    for family in families:
        if family.scope in (Scope.LABELLED, Scope.FLEET) and family.name not in counted:
            where = "the event table, relay.counted, or metrics.values.COUNTED_OUTSIDE"
            raise ValueError(f"nothing counts the family {family.name}: expected its name in {where}")


# At import, so that a wrong table stops the start instead of failing at the first callback.
check_names(EventKind, [counted.increment for counted in Counted], Observed)
check_all_counted(
    CATALOGUE.values(),
    (
        *(kind.counter for kind in EventKind),
        *(counted.increment[0] for counted in Counted),
        *Observed,
        *COUNTED_OUTSIDE,
    ),
)
