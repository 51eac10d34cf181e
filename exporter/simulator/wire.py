"""The callbacks on the wire: their bodies, and the faults. Some are repeated, reordered, incomplete or lost.

The tasks that pull from one source form a channel. A channel is sent in the order given here. The faults stay
within the limits in which the exporter promises exact counts: callbacks without event times keep their order.
"""

import hashlib
import heapq
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from msgspec import Struct

from exporter.protocol.events import EventKind, Subject
from exporter.simulator.fleet import FAILURES, Event, RelayTask, fleet, true_history
from exporter.simulator.options import SimulatorSettings
from exporter.simulator.totals import TaskProgress, Totals

EVENT_TYPE = 314
SIGNED_SECONDS = 600
UNKNOWN_EVENT = "TaskRebalanced"
#: Maximum number of callbacks that change their order together.
MAX_OVERTAKEN = 5
#: The service repeats a callback after a minute: as documented for its other callbacks.
MAX_REDELIVERY_SECONDS = 60.0


class CallbackWriter(Struct, frozen=True):
    """Writes the bodies of callbacks in the format of the service.

    Args:
        base: start of the simulation, UNIX time in seconds.
        key: the sign key, empty for callbacks without signature.
    """

    base: float
    key: str = ""

    def body(self, task: RelayTask, event: Event, *, has_ids: bool = True, is_signed: bool = True) -> bytes:
        """Return the callback of an event, if need be without its task, stream and destination."""
        kind = event.kind
        event_ms = int((self.base + event.at) * 1000) if task.has_times else 0
        msg = ({kind.time_field: event_ms} if kind.time_field else {}) | _subject(task, event)
        fields = {"msg": json.dumps(msg)}
        if has_ids:
            fields |= {"task_id": task.task_id, "stream_id": task.stream_id, "to_url": task.to_url}
        return self._encoded(task, kind.callback_event, event.at, fields, is_signed=is_signed)

    def unknown(self, task: RelayTask, at: float, number: int) -> bytes:
        """Return a callback of an unknown event; `number` makes its body unique."""
        return self._encoded(task, UNKNOWN_EVENT, at, {"msg": json.dumps({"number": number})})

    def malformed(self, task: RelayTask, at: float, number: int) -> bytes:
        """Return a callback that is invalid under its schema; `number` makes its body unique."""
        fields = {"msg": json.dumps({"task_start_time": f"never-{number}"}), "task_id": task.task_id}
        return self._encoded(task, EventKind.START.callback_event, at, fields)

    def _encoded(
        self, task: RelayTask, name: str, at: float, own_fields: dict[str, str], *, is_signed: bool = True
    ) -> bytes:
        time = int(self.base + at)
        fields: dict[str, Any] = {
            "appid": task.appid,
            "callback_event": name,
            "event_type": EVENT_TYPE,
            "interface": "general_callback",
            "product_name": "pullpush",
            "source_urls": json.dumps(task.sources) + "\n",
        }
        if task.has_times:
            fields["event_time"] = str(time)
        fields |= own_fields
        if self.key and is_signed:
            expires = time + SIGNED_SECONDS
            # MD5 is what the service uses.
            sign = hashlib.md5(f"{self.key}{expires}".encode(), usedforsecurity=False).hexdigest()
            fields |= {"t": expires, "sign": sign}
        return json.dumps(fields).encode()


def _subject(task: RelayTask, event: Event) -> dict[str, Any]:
    number = str if task.has_text_numbers else int
    match event.kind.subject:
        case Subject.NOTHING:
            return {}
        case Subject.FILE:
            url = f"https://cdn.example.com/{task.task_id}/{event.file}.mp4?token=0123456789abcdef"
            return {"url": url, "index": number(event.file), "duration": task.files[event.file]}
        case Subject.EXIT_CODE:
            return {"code": number(event.code), "message": FAILURES.get(event.code, "task stopped.")}
        case Subject.TEXT:
            fields = event.kind.text_fields
            return {fields[-1] if task.has_text_numbers else fields[0]: event.text}


class Delivery(Struct, frozen=True, order=True):
    """A request to send.

    Args:
        at: when to send it, seconds since the start of the simulation.
        channel: number of its channel; the deliveries of a channel are sent in order.
        status: the expected status of the answer.
    """

    at: float
    channel: int
    body: bytes
    status: int = 200


class OutgoingCallback(Struct, frozen=True):
    """A callback to send; one without IDs lacks its task ID, stream and destination."""

    task: RelayTask
    event: Event
    has_ids: bool

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
        number: number of the channel; together with the seed it determines everything random.
        totals: receives the totals to expect.
    """

    def __init__(
        self,
        number: int,
        tasks: tuple[RelayTask, ...],
        settings: SimulatorSettings,
        writer: CallbackWriter,
        totals: Totals,
    ) -> None:
        self._number = number
        self._tasks = tasks
        self._settings = settings
        self._writer = writer
        self._totals = totals
        # One random number generator for each history, so that the faults do not change the histories.
        self._rng, *self._task_rngs = (
            Random(f"{settings.seed}/{number}/{part}")  # noqa: S311 - histories, no keys
            for part in ("wire", *range(len(tasks)))
        )
        self._redeliveries: list[Delivery] = []  # a heap

    def deliveries(self) -> Iterator[Delivery]:
        """Yield the requests of this channel in the order of sending."""
        for group in self._groups():
            at = group[-1].event.at
            yield from self._due(at)
            self._rng.shuffle(group)
            for callback in group:
                yield from self._unusable(callback.task, at)
                yield from self._deliver(callback, at)
        yield from self._due(float("inf"))

    def _groups(self) -> Iterator[list[OutgoingCallback]]:
        """Yield the callbacks of all tasks in groups, most of one; within a group their order changes."""
        settings = self._settings
        # In real time only pairs change their order.
        max_size = MAX_OVERTAKEN if settings.fast else 2
        max_seconds = settings.duration if settings.fast else settings.reorder_window / 2
        group: list[OutgoingCallback] = []
        size = 1
        callbacks = map(self._callbacks_of, self._tasks, self._task_rngs)
        for callback in heapq.merge(*callbacks, key=lambda callback: callback.event.at):
            if group and (callback.keeps_order or callback.event.at - group[0].event.at > max_seconds):
                yield group
                group = []
            if not group:
                is_reordered = not callback.keeps_order and self._rng.random() < settings.reorder
                size = self._rng.randint(2, max_size) if is_reordered else 1
            group.append(callback)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group

    def _callbacks_of(self, task: RelayTask, rng: Random) -> Iterator[OutgoingCallback]:
        progress = TaskProgress(task, self._totals)
        for event in true_history(task, self._settings, rng):
            is_nameless = event.kind is EventKind.EXIT and self._rng.random() < self._settings.nameless
            callback = OutgoingCallback(task, event, not is_nameless)
            if not callback.is_attributable:
                # The exporter can't see this exit: a further start would be a missed exit, not a restart.
                yield callback
                return
            progress.record_event(event)
            yield callback

    def _unusable(self, task: RelayTask, at: float) -> Iterator[Delivery]:
        """Yield bodies for the quarantine: an unknown event, a callback that is invalid under its schema."""
        if self._rng.random() < self._settings.unknown:
            self._totals.record_outcome(UNKNOWN_EVENT, "ignored")
            self._totals.add("quarantined_bodies_total", {"reason": "unknown_event"})
            yield Delivery(at, self._number, self._writer.unknown(task, at, self._rng.getrandbits(48)))
        if self._rng.random() < self._settings.malformed:
            self._totals.add("quarantined_bodies_total", {"reason": "schema"})
            body = self._writer.malformed(task, at, self._rng.getrandbits(48))
            yield Delivery(at, self._number, body, 400)

    def _deliver(self, callback: OutgoingCallback, at: float) -> Iterator[Delivery]:
        """Yield a callback unless it is lost, and draw its redeliveries."""
        if self._rng.random() < self._settings.lose:
            return
        task, event = callback.task, callback.event
        is_signed = self._rng.random() >= self._settings.unsigned
        body = self._writer.body(task, event, has_ids=callback.has_ids, is_signed=is_signed)
        self._totals.record_delivery(task, event, is_attributable=callback.is_attributable)
        yield Delivery(at, self._number, body)
        max_seconds = min(MAX_REDELIVERY_SECONDS, self._settings.duration / 10)
        while self._rng.random() < self._settings.duplicate:
            self._totals.record_outcome(event.kind.callback_event, "duplicate")
            # Without an event time, a later redelivery could not be detected.
            later = at + (self._rng.uniform(0, max_seconds) if task.has_times else 0)
            heapq.heappush(self._redeliveries, Delivery(later, self._number, body))

    def _due(self, at: float) -> Iterator[Delivery]:
        """Yield the redeliveries due by `at`."""
        while self._redeliveries and self._redeliveries[0].at <= at:
            yield heapq.heappop(self._redeliveries)


def fleet_deliveries(
    settings: SimulatorSettings, writer: CallbackWriter, totals: Totals
) -> Iterator[Delivery]:
    """Return the requests of a random fleet in the order of sending; `totals` counts what to expect."""
    batch = int(writer.base) % 100_000  # the time, so that every simulation has new task IDs
    groups = fleet(settings, batch, Random(settings.seed))  # noqa: S311 - histories, no keys
    channels = (Channel(number, tasks, settings, writer, totals) for number, tasks in enumerate(groups))
    return heapq.merge(*(channel.deliveries() for channel in channels), key=lambda delivery: delivery.at)
