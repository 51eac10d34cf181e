"""Replay of quarantined bodies: validated with the current schemas, and applied as of their first arrival.

The transaction that counts a body also deletes it from the quarantine. It is therefore counted once, however
often and by however many processes it is replayed.
"""

from collections.abc import Callable
from functools import partial

from msgspec import Struct

from exporter.errors import CallbackError
from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.protocol.callback import Callback, Ignored
from exporter.protocol.parser import Parser
from exporter.store.protocol import QuarantinedBody, Store

#: Outcomes of a replay in addition to those of a callback.
STILL_INVALID, NOT_FOUND = "still_invalid", "not_found"


class ReplayResult(Struct, frozen=True):
    """The result of replaying a body.

    Args:
        outcome: one of `catalogue.OUTCOMES` if the body was counted; STILL_INVALID; or NOT_FOUND if another
            process replayed or deleted it first.
        problem: what is still invalid, else empty.
    """

    outcome: str
    problem: str = ""


class Replayer:
    """Replays quarantined bodies that are valid by the current schemas.

    Args:
        parser: validates bodies with the current schemas.
        applier: applies callbacks to the store.
        clock: returns UNIX time, seconds.
    """

    def __init__(
        self, *, store: Store, parser: Parser, applier: BatchApplier, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._parser = parser
        self._applier = applier
        self._clock = clock

    def replay(self, quarantined: QuarantinedBody) -> ReplayResult:
        """Count a body as of its first arrival and delete it from the quarantine, if it is valid now.

        Raises:
            StoreUnavailable: the store does not answer; the body stays in the quarantine.
        """
        callback, problem = self.validate(quarantined)
        if callback is None:
            return ReplayResult(STILL_INVALID, problem)
        # With its first arrival: later arrivals of the same body are redeliveries.
        item = BatchItem(quarantined.first, callback, replayed_at=self._clock())
        outcome, _ = self._store.transact(partial(self._applier.replay, quarantined.digest, item))
        return ReplayResult(outcome or NOT_FOUND)

    def validate(self, quarantined: QuarantinedBody) -> tuple[Callback | Ignored | None, str]:
        """Validate a body with the current schemas, without changing anything.

        Returns:
            The callback and an empty text; or None and what is still invalid.
        """
        try:
            callback = self._parser.parse(quarantined.body)
        except CallbackError as error:
            return None, "; ".join(f"{fault.pointer} {fault.message}".strip() for fault in error.faults)
        # Replaying an event that is still unknown would delete its body for nothing.
        if isinstance(callback, Ignored) and callback.is_quarantined:
            return None, "its event is still unknown"
        return callback, ""
