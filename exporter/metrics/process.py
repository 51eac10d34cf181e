"""The metrics of this process, as prometheus_client metrics.

Names, help texts and buckets come from the catalogue. The counters start at 0 with each process.
"""

import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from exporter.metrics.catalogue import CATALOGUE, Family

# prometheus_client has no type annotation for it.
_go_number = cast("Callable[[float], str]", floatToGoString)


class Telemetry:
    """The metric families of this process.

    Args:
        version, revision: version and source revision of this program.
    """

    def __init__(self, *, version: str, revision: str) -> None:
        self.registry = CollectorRegistry()
        self.rejected = self._counter("callbacks_rejected_total")
        build = self._gauge("exporter_build_info")
        build.labels(platform.python_version(), revision, version).set(1)
        self.request = SingleThreadHistogram(CATALOGUE["exporter_request_seconds"], self.registry)
        self.commit = self._histogram("exporter_commit_seconds")
        self.render = self._histogram("exporter_render_seconds")
        self.batch = self._histogram("exporter_batch_callbacks")
        self.queued = self._gauge("exporter_queued_callbacks")
        self._store_up = self._gauge("exporter_store_up")
        # Up only while both work: a full disk, for example, stops writes but not reads.
        self._last_succeeded = {"read": True, "write": True}
        self.callback_open = self._gauge("exporter_callback_open")
        self.overflowed = self._counter("exporter_overflowed_total")
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def record_store_access(self, kind: str, *, succeeded: bool) -> None:
        """Record the last result of a "read" or a "write"; the store is up if both succeeded."""
        self._last_succeeded[kind] = succeeded
        self._store_up.set(all(self._last_succeeded.values()))

    @property
    def is_writable(self) -> bool:
        """Whether the last write succeeded."""
        return self._last_succeeded["write"]

    def _counter(self, name: str) -> Counter:
        family = CATALOGUE[name]
        counter = Counter(family.full_name, family.help, family.labels, registry=self.registry)
        for value in family.values:  # so that their samples exist, at 0, before the first increment
            counter.labels(value)
        return counter

    def _gauge(self, name: str) -> Gauge:
        family = CATALOGUE[name]
        return Gauge(family.full_name, family.help, family.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        family: Family = CATALOGUE[name]
        return Histogram(
            family.full_name, family.help, family.labels, buckets=family.buckets, registry=self.registry
        )


class SingleThreadHistogram(Collector):
    """A histogram with one label, observed by one thread only.

    It has no lock and finds the bucket by bisection. It observes every answer, and prometheus_client's own
    histogram would take a noticeable part of the time of an answer.
    """

    def __init__(self, family: Family, registry: CollectorRegistry) -> None:
        self._family = family
        self._numbers: dict[str, tuple[list[int], list[float]]] = {}
        self._created = time.time()
        registry.register(self)

    def observe(self, label: str, value: float) -> None:
        """Add a value to the bucket, the count and the sum of `label`."""
        numbers = self._numbers.get(label)  # the count of each bucket, and the sum
        if numbers is None:
            numbers = self._numbers[label] = [0] * (len(self._family.buckets) + 1), [0.0]
        numbers[0][bisect_left(self._family.buckets, value)] += 1
        numbers[1][0] += value

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        name = self._family.full_name
        metric = Metric(name, self._family.help, "histogram")
        edges = [_go_number(edge) for edge in (*self._family.buckets, float("inf"))]
        # Buckets are counted separately, and added up here: a scrape is rarer than an answer.
        for label, (counts, total) in sorted(self._numbers.items()):
            labels = {self._family.labels[0]: label}
            for edge, count in zip(edges, accumulate(counts), strict=True):
                metric.add_sample(f"{name}_bucket", {**labels, "le": edge}, count)
            metric.add_sample(f"{name}_count", labels, sum(counts))
            metric.add_sample(f"{name}_sum", labels, total[0])
            metric.add_sample(f"{name}_created", labels, self._created)
        yield metric


class WithoutCreated(Collector):
    """A registry without its `_created` samples: in the text format each would be a family of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield every family without its `_created` samples."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
