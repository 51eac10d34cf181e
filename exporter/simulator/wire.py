"""What the way from the service does to callbacks: some come twice, late, without a name, or never.

Each lane (the tasks that pull from one source) is delivered in the order given here. Where the exporter's
promise of exactness has conditions, the faults keep to them: what states no time keeps its order.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from random import Random

from msgspec import Struct

from exporter.protocol.events import EventKind
from exporter.simulator.body import UNKNOWN_EVENT, Writer
from exporter.simulator.fleet import Event, Plan, Relay, history
from exporter.simulator.totals import Totals

MAX_OVERTAKEN = 5


class Faults(Struct, frozen=True, kw_only=True):
    """How often what goes wrong: shares of callbacks, 0 to 1.

    Args:
        crowd: how many callbacks may change places with each other.
        patience: how far apart those may be, seconds.
        again: within how long a callback is delivered again, seconds.
    """

    duplicate: float = 0.0
    reorder: float = 0.0
    lose: float = 0.0
    nameless: float = 0.0
    unsigned: float = 0.0
    malformed: float = 0.0
    unknown: float = 0.0
    crowd: int = 2
    patience: float = 60.0
    again: float = 60.0


class Delivery(Struct, frozen=True):
    """A request to send.

    Args:
        at: when, seconds since the simulation began.
        lane: what must be sent in order has the same.
        body: its bytes.
        status: the status of its answer, when all is well.
    """

    at: float
    lane: int
    body: bytes
    status: int = 200


class Sent(Struct, frozen=True):
    """A callback on its way.

    Args:
        relay, event: what it tells of.
        named: it says which task it is of.
    """

    relay: Relay
    event: Event
    named: bool = True

    @property
    def is_owned(self) -> bool:
        """Whether its task can be told from it: by name, or because no other pulls from that source."""
        return self.named or not self.relay.shares

    @property
    def keeps_its_place(self) -> bool:
        """Whether the exporter may go by the order in which it comes."""
        anchors = self.relay.stays and self.event.kind is EventKind.START
        return not self.relay.timed or not self.named or anchors


class Lane:
    """The callbacks of tasks that pull from one source.

    Args:
        number: which lane it is; with `seed` it decides everything drawn by chance.
        relays, plan, faults, writer: what happens, what goes wrong, and how it is written.
        totals: told what must be counted.
    """

    def __init__(
        self,
        number: int,
        relays: tuple[Relay, ...],
        *,
        plan: Plan,
        faults: Faults,
        writer: Writer,
        totals: Totals,
        seed: int,
    ) -> None:
        self._number = number
        self._relays = relays
        self._plan = plan
        self._faults = faults
        self._writer = writer
        self._totals = totals
        self._chance, *self._pasts = (
            Random(f"{seed}/{number}/{part}")  # noqa: S311 - histories, no keys
            for part in ("wire", *range(len(relays)))
        )
        self._again: list[tuple[float, int, Sent, bytes]] = []
        self._order = count()

    def deliveries(self) -> Iterator[Delivery]:
        """Yield the requests of this lane in the order in which they are to be sent."""
        for group in self._groups():
            at = group[-1].event.at
            yield from self._due(at)
            if len(group) > 1:
                self._chance.shuffle(group)
            for sent in group:
                yield from self._deliver(sent, at)
        yield from self._due(float("inf"))

    def _happenings(self) -> Iterator[Sent]:
        """Yield what happens, in order; where nobody can tell that a task exited, it is over."""
        pasts = (self._past(relay, chance) for relay, chance in zip(self._relays, self._pasts, strict=True))
        yield from heapq.merge(*pasts, key=lambda sent: sent.event.at)

    def _past(self, relay: Relay, chance: Random) -> Iterator[Sent]:
        for event in history(relay, self._plan, chance):
            is_nameless = event.kind is EventKind.EXIT and self._chance.random() < self._faults.nameless
            sent = Sent(relay, event, not is_nameless)
            yield sent
            if not sent.is_owned:
                return

    def _groups(self) -> Iterator[list[Sent]]:
        """Yield callbacks in groups whose order is lost, most of them alone."""
        group: list[Sent] = []
        size = 1
        for sent in self._happenings():
            if sent.is_owned:
                self._totals.happened(sent.relay, sent.event)
            if group and not self._may_join(sent, group):
                yield group
                group = []
            if not group:
                size = self._crowd(sent)
            group.append(sent)
            if len(group) >= size:
                yield group
                group = []
        if group:
            yield group

    def _crowd(self, sent: Sent) -> int:
        if sent.keeps_its_place or self._chance.random() >= self._faults.reorder:
            return 1
        return self._chance.randint(2, self._faults.crowd)

    def _may_join(self, sent: Sent, group: list[Sent]) -> bool:
        return not sent.keeps_its_place and sent.event.at - group[0].event.at <= self._faults.patience

    def _deliver(self, sent: Sent, at: float) -> Iterator[Delivery]:
        yield from self._rubbish(sent.relay, at)
        if self._chance.random() < self._faults.lose:
            return
        signed = self._chance.random() >= self._faults.unsigned
        body = self._writer.body(sent.relay, sent.event, named=sent.named, signed=signed)
        self._totals.delivered(sent.relay, sent.event, owner=sent.is_owned)
        yield Delivery(at, self._number, body)
        while self._chance.random() < self._faults.duplicate:
            if sent.relay.timed:
                later = at + self._chance.uniform(0, self._faults.again)
                heapq.heappush(self._again, (later, next(self._order), sent, body))
            else:
                yield self._repeat(at, sent, body)

    def _due(self, at: float) -> Iterator[Delivery]:
        """Yield the redeliveries that come before `at`."""
        while self._again and self._again[0][0] <= at:
            later, _, sent, body = heapq.heappop(self._again)
            yield self._repeat(later, sent, body)

    def _repeat(self, at: float, sent: Sent, body: bytes) -> Delivery:
        self._totals.outcome(sent.event.kind.callback_event, "duplicate")
        return Delivery(at, self._number, body)

    def _rubbish(self, relay: Relay, at: float) -> Iterator[Delivery]:
        """Yield what nobody can use, to be answered, kept and counted."""
        if self._chance.random() < self._faults.unknown:
            self._totals.outcome(UNKNOWN_EVENT, "ignored")
            self._totals.add("quarantined_bodies_total", {"reason": "unknown_event"})
            yield Delivery(at, self._number, self._writer.unknown(relay, at, self._chance.getrandbits(48)))
        if self._chance.random() < self._faults.malformed:
            self._totals.add("quarantined_bodies_total", {"reason": "schema"})
            body = self._writer.malformed(relay, at, self._chance.getrandbits(48))
            yield Delivery(at, self._number, body, 400)
