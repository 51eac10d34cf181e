"""Delivers the callbacks of a fleet with faults: some are repeated, reordered, incomplete or lost.

The tasks that pull from one source form a channel. A channel is sent in the order given here. The faults stay
within the limits in which the exporter promises exact counts: callbacks without event times keep their order.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from random import Random

from msgspec import Struct

from exporter.protocol.events import EventKind
from exporter.simulator.body import UNKNOWN_EVENT, CallbackWriter
from exporter.simulator.fleet import Event, FleetSettings, RelayTask, fleet, true_history
from exporter.simulator.totals import Totals

#: Maximum number of callbacks that change their order together.
MAX_OVERTAKEN = 5


class Faults(Struct, frozen=True, kw_only=True):
    """How often each fault occurs, as shares of callbacks from 0 to 1.

    Args:
        max_group_size: maximum number of callbacks that change their order together.
        max_group_seconds: maximum time between the first and the last of them.
        redelivery_seconds: maximum time between a callback and its redelivery.
    """

    duplicate: float = 0.0
    reorder: float = 0.0
    lose: float = 0.0
    nameless: float = 0.0
    unsigned: float = 0.0
    malformed: float = 0.0
    unknown: float = 0.0
    max_group_size: int = 2
    max_group_seconds: float = 60.0
    redelivery_seconds: float = 60.0


class Delivery(Struct, frozen=True):
    """A request to send.

    Args:
        at: when to send it, seconds since the start of the simulation.
        channel: number of its channel; the deliveries of a channel are sent in order.
        body: body of the request.
        status: the expected status of the answer.
    """

    at: float
    channel: int
    body: bytes
    status: int = 200


class OutgoingCallback(Struct, frozen=True):
    """A callback to send.

    Args:
        task, event: the event that it reports, and its task.
        has_ids: it has a task ID, a stream and a destination.
    """

    task: RelayTask
    event: Event
    has_ids: bool = True

    @property
    def is_attributable(self) -> bool:
        """Whether the exporter can find its task: by its ID, or as the only task with that source."""
        return self.has_ids or not self.task.shares_source

    @property
    def keeps_order(self) -> bool:
        """Whether it must not change its order, because the exporter depends on it."""
        # The exporter must know all tasks of the source as active before an exit without task ID arrives.
        is_needed_first = self.task.never_exits and self.event.kind is EventKind.START
        return not self.task.has_times or not self.has_ids or is_needed_first


class Channel:
    """The callbacks of the tasks that pull from one source.

    Args:
        number: number of the channel; together with `seed` it determines everything random.
        tasks, settings: the tasks, and the settings that their histories are drawn with.
        writer: writes the bodies.
        totals: receives the totals to expect.
        seed: seed of the simulation.
    """

    def __init__(
        self,
        number: int,
        tasks: tuple[RelayTask, ...],
        *,
        settings: FleetSettings,
        faults: Faults,
        writer: CallbackWriter,
        totals: Totals,
        seed: int,
    ) -> None:
        self._number = number
        self._tasks = tasks
        self._settings = settings
        self._faults = faults
        self._writer = writer
        self._totals = totals
        # One random number generator for each history, so that the faults do not change the histories.
        self._rng, *self._task_rngs = (
            Random(f"{seed}/{number}/{part}")  # noqa: S311 - histories, no keys
            for part in ("wire", *range(len(tasks)))
        )
        self._redeliveries: list[tuple[float, int, OutgoingCallback, bytes]] = []
        self._sequence = count()

    def deliveries(self) -> Iterator[Delivery]:
        """Yield the requests of this channel in the order of sending."""
        for group in self._groups():
            at = group[-1].event.at
            yield from self._due(at)
            if len(group) > 1:
                self._rng.shuffle(group)
            for callback in group:
                yield from self._deliver(callback, at)
        yield from self._due(float("inf"))

    def _callbacks(self) -> Iterator[OutgoingCallback]:
        """Yield the callbacks of all tasks in the order of their events."""
        histories = map(self._callbacks_of, self._tasks, self._task_rngs)
        yield from heapq.merge(*histories, key=lambda callback: callback.event.at)

    def _callbacks_of(self, task: RelayTask, rng: Random) -> Iterator[OutgoingCallback]:
        for event in true_history(task, self._settings, rng):
            is_nameless = event.kind is EventKind.EXIT and self._rng.random() < self._faults.nameless
            callback = OutgoingCallback(task, event, not is_nameless)
            yield callback
            # The exporter can't see this exit: a further start would be a missed exit, not a restart.
            if not callback.is_attributable:
                return

    def _groups(self) -> Iterator[list[OutgoingCallback]]:
        """Yield the callbacks in groups, most of one callback; the order within a group is then shuffled."""
        group: list[OutgoingCallback] = []
        size = 1
        for callback in self._callbacks():
            if callback.is_attributable:
                self._totals.record_event(callback.task, callback.event)
            if group and not self._may_join(callback, group):
                yield group
                group = []
            if not group:
                size = self._group_size(callback)
            group.append(callback)
            if len(group) >= size:
                yield group
                group = []
        if group:
            yield group

    def _group_size(self, callback: OutgoingCallback) -> int:
        if callback.keeps_order or self._rng.random() >= self._faults.reorder:
            return 1
        return self._rng.randint(2, self._faults.max_group_size)

    def _may_join(self, callback: OutgoingCallback, group: list[OutgoingCallback]) -> bool:
        seconds = callback.event.at - group[0].event.at
        return not callback.keeps_order and seconds <= self._faults.max_group_seconds

    def _deliver(self, callback: OutgoingCallback, at: float) -> Iterator[Delivery]:
        yield from self._unusable(callback.task, at)
        if self._rng.random() < self._faults.lose:
            return
        is_signed = self._rng.random() >= self._faults.unsigned
        task, event = callback.task, callback.event
        body = self._writer.body(task, event, has_ids=callback.has_ids, is_signed=is_signed)
        self._totals.record_delivery(task, event, is_attributable=callback.is_attributable)
        yield Delivery(at, self._number, body)
        while self._rng.random() < self._faults.duplicate:
            if task.has_times:
                later = at + self._rng.uniform(0, self._faults.redelivery_seconds)
                heapq.heappush(self._redeliveries, (later, next(self._sequence), callback, body))
            else:  # without an event time, a later redelivery could not be detected
                yield self._redelivery(at, callback, body)

    def _due(self, at: float) -> Iterator[Delivery]:
        """Yield the redeliveries due by `at`."""
        while self._redeliveries and self._redeliveries[0][0] <= at:
            later, _, callback, body = heapq.heappop(self._redeliveries)
            yield self._redelivery(later, callback, body)

    def _redelivery(self, at: float, callback: OutgoingCallback, body: bytes) -> Delivery:
        self._totals.record_outcome(callback.event.kind.callback_event, "duplicate")
        return Delivery(at, self._number, body)

    def _unusable(self, task: RelayTask, at: float) -> Iterator[Delivery]:
        """Yield bodies for the quarantine: an unknown event, a callback that is invalid under its schema."""
        if self._rng.random() < self._faults.unknown:
            self._totals.record_outcome(UNKNOWN_EVENT, "ignored")
            self._totals.add("quarantined_bodies_total", {"reason": "unknown_event"})
            yield Delivery(at, self._number, self._writer.unknown(task, at, self._rng.getrandbits(48)))
        if self._rng.random() < self._faults.malformed:
            self._totals.add("quarantined_bodies_total", {"reason": "schema"})
            body = self._writer.malformed(task, at, self._rng.getrandbits(48))
            yield Delivery(at, self._number, body, 400)


def fleet_deliveries(
    settings: FleetSettings, faults: Faults, writer: CallbackWriter, totals: Totals, seed: int
) -> Iterator[Delivery]:
    """Return the requests of a random fleet in the order of sending; the arguments are those of `Channel`."""
    channels = [
        Channel(number, tasks, settings=settings, faults=faults, writer=writer, totals=totals, seed=seed)
        for number, tasks in enumerate(fleet(settings, Random(seed)))  # noqa: S311 - histories, no keys
    ]
    return heapq.merge(*(channel.deliveries() for channel in channels), key=lambda delivery: delivery.at)
