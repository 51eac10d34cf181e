"""What this process measures of itself: metrics of prometheus_client, and recently rejected callbacks.

Names, help texts and buckets come from the catalogue. The counters start at 0 with each process.
"""

import platform
import time
from collections.abc import Callable, Iterator

from msgspec import Struct
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

from exporter.errors import CallbackError, Fault
from exporter.metrics.catalogue import CATALOGUE

MAX_KINDS = 50
#: Longer texts are cut: errors quote field names from the body, which may be as long as the body.
MAX_CHARACTERS = 200


class Telemetry:
    """The metric families of this process, and its recent rejections.

    Args:
        version, revision: version and source revision of this program.
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
        #: Whether the last read and the last write of the store succeeded.
        self.is_readable = self.is_writable = True
        # Up only while both work: a full disk, for example, stops writes but not reads.
        self._gauge("exporter_store_up").set_function(lambda: self.is_readable and self.is_writable)
        self.callback_open = self._gauge("exporter_callback_open")
        self.overflowed = self._counter("exporter_overflowed_total")
        self.rejections = RecentRejections()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

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
        family = CATALOGUE[name]
        return Histogram(
            family.full_name, family.help, family.labels, buckets=family.buckets, registry=self.registry
        )


class WithoutCreated(Collector):
    """A registry without its `_created` samples: in the text format each would be a family of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield every family without its `_created` samples."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Rejection(Struct, frozen=True):
    """A kind of rejection. Equal rejections are counted together.

    Args:
        status, reason: the HTTP status and the reason of the answer.
        source: the client address.
        pointer, message: the first fault; empty without one.
    """

    status: int
    reason: str
    source: str
    pointer: str
    message: str


class RecentRejections:
    """Remembers recent rejections, without bodies and paths, since these may hold secrets.

    Equal rejections are one kind with a count, so that one client that keeps failing does not replace the
    rejections of all others.

    Args:
        clock: returns UNIX time, seconds.
        max_kinds: maximum number of kinds.
    """

    def __init__(self, clock: Callable[[], float] = time.time, max_kinds: int = MAX_KINDS) -> None:
        self._clock = clock
        self._max_kinds = max_kinds
        #: The time of the last rejection and the count, by kind, in the order of the last rejections.
        self._kinds: dict[Rejection, tuple[float, int]] = {}
        #: When this object was made, UNIX seconds, and the number of rejections since.
        self.since = clock()
        self.total = 0

    def add(self, error: CallbackError, source: str) -> None:
        """Remember the rejection of a callback from `source`, the client address.

        Above the limit, delete the kind that has not occurred for the longest time.
        """
        fault = error.faults[0] if error.faults else Fault("", "")
        texts = (text[:MAX_CHARACTERS] for text in (source, fault.pointer, fault.message))
        kind = Rejection(error.status, error.reason, *texts)
        # Removed and inserted again, so that the order of the dict is that of the last occurrences.
        _, count = self._kinds.pop(kind, (0.0, 0))
        self._kinds[kind] = self._clock(), count + 1
        self.total += 1
        if len(self._kinds) > self._max_kinds:
            del self._kinds[next(iter(self._kinds))]

    def newest_first(self) -> list[tuple[Rejection, tuple[float, int]]]:
        """Return each kind with the time of its last rejection, UNIX seconds, and the count."""
        return list(reversed(self._kinds.items()))
