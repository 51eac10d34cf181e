"""What this process tells of its own work, in prometheus_client's own types.

Names, help texts and buckets come from the catalogue; these numbers begin again at 0 with the process.
"""

import platform
from collections.abc import Iterator

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

from exporter.catalogue import CATALOGUE, Family


class Telemetry:
    """The families of this process.

    Args:
        version, revision: of this program.
    """

    def __init__(self, *, version: str, revision: str) -> None:
        self.registry = CollectorRegistry()
        self.rejected = self._counter("callbacks_rejected_total")
        build = self._gauge("exporter_build_info")
        build.labels(platform.python_version(), revision, version).set(1)
        self.request = self._histogram("exporter_request_seconds")
        self.commit = self._histogram("exporter_commit_seconds")
        self.render = self._histogram("exporter_render_seconds")
        self.batch = self._histogram("exporter_batch_callbacks")
        self.queued = self._gauge("exporter_queued_callbacks")
        self.store_up = self._gauge("exporter_store_up")
        self.callback_open = self._gauge("exporter_callback_open")
        self.overflowed = self._counter("exporter_overflowed_total")
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _counter(self, name: str) -> Counter:
        family = CATALOGUE[name]
        counter = Counter(family.full_name, family.help, family.labels, registry=self.registry)
        for value in family.values:
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


class WithoutCreated(Collector):
    """A registry without its `_created` samples: in the text format they would be families of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield every family, its `_created` samples left out."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
