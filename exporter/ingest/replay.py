"""Bodies that were refused, taken again: held against today's schemas, and folded as of when they came.

A body leaves the quarantine in the same step of the store that counts it, so that it is counted once, however
often, and by however many processes, it is replayed.
"""

from collections.abc import Callable
from functools import partial

from msgspec import Struct

from exporter.errors import CallbackError
from exporter.ingest.batch import BatchFolder, BatchItem
from exporter.protocol.callback import Callback, Ignored
from exporter.protocol.parser import Parser
from exporter.store.protocol import QuarantinedBody, Store

STAYS, GONE = "stays", "gone"


class Replayed(Struct, frozen=True):
    """What became of a body.

    Args:
        outcome: one of `catalogue.OUTCOMES`, STAYS, or GONE if another process has taken it.
        why: why it stays.
    """

    outcome: str
    why: str = ""


class Replay:
    """Takes bodies out of the quarantine, as far as they are valid today.

    Args:
        store: keeps them, and what is counted.
        parser: says what is valid today.
        folder: what it means.
        clock: gives the time, seconds.
    """

    def __init__(
        self, *, store: Store, parser: Parser, folder: BatchFolder, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._parser = parser
        self._folder = folder
        self._clock = clock

    def take(self, held: QuarantinedBody) -> Replayed:
        """Count a body as of its first arrival, if it is valid today."""
        callback, why = self.look(held)
        if callback is None:
            return Replayed(STAYS, why)
        arrived = BatchItem(held.first, callback, replayed=self._clock())
        outcome, _ = self._store.transact(partial(self._folder.replay, held.digest, arrived))
        return Replayed(outcome or GONE)

    def look(self, held: QuarantinedBody) -> tuple[Callback | Ignored | None, str]:
        """Return what a body says by today's schemas; if it is still of no use, None and why."""
        try:
            callback = self._parser.parse(held.body)
        except CallbackError as rejected:
            return None, "; ".join(f"{fault.pointer} {fault.message}".strip() for fault in rejected.faults)
        if isinstance(callback, Ignored) and callback.is_quarantined:
            return None, "its event is not known"
        return callback, ""
