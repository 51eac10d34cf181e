"""What becomes of a callback, whichever way it came in: it is parsed and committed, or refused with a reason.

Nothing here knows a framework. What takes a request apart asks this, and sends what it is told.
"""

import logging
import time
from collections.abc import Callable

import orjson
from msgspec import Struct

from exporter.batch import Arrived
from exporter.callback import Ignored, Parser
from exporter.errors import Fault, Rejected, StoreUnavailable
from exporter.ingest import Ingest
from exporter.store import Refused
from exporter.telemetry import Telemetry
from exporter.web.rejections import Rejections

log = logging.getLogger(__name__)

#: The answer to what was taken.
TAKEN = orjson.dumps({"code": 0})
RETRY_AFTER_SECONDS = 5


class Refusal(Struct, frozen=True):
    """What a sender is told of a callback that is refused.

    Args:
        status: of the answer.
        body: of the answer, JSON.
        headers: further ones of the answer.
    """

    status: int
    body: bytes
    headers: dict[str, str]


class Intake:
    """Takes callbacks in, and tells of those it refuses.

    Args:
        parser: turns bytes into callbacks.
        ingest: makes them durable.
        telemetry: counts refusals and times answers.
        rejections: remembers refusals for the status page.
        keeps: reasons for which a refused body is kept for a look.
        clock: gives the time of arrival, seconds.
    """

    def __init__(
        self,
        *,
        parser: Parser,
        ingest: Ingest,
        telemetry: Telemetry,
        rejections: Rejections,
        keeps: frozenset[str] = frozenset({"json", "schema"}),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._parser = parser
        self._ingest = ingest
        self._telemetry = telemetry
        self._rejections = rejections
        self._keeps = keeps
        self._clock = clock

    async def take(self, raw: bytes, source: str, begun: float) -> None:
        """Return when the callback in `raw` is durable.

        Args:
            raw: the body, whole.
            source: the address it came from.
            begun: when its request began, on the clock of `perf_counter`.

        Raises:
            Rejected: it is refused, for its content or because the store is down.
        """
        arrival = round(self._clock(), 3)
        try:
            callback = self._parser.parse(raw)
        except Rejected as rejected:
            if rejected.reason in self._keeps:
                await self._keep(Refused(rejected.reason, raw, source, arrival))
            raise
        is_kept = isinstance(callback, Ignored) and callback.keep
        refused = Refused("unknown_event", raw, source, arrival) if is_kept else None
        try:
            await self._ingest.commit(Arrived(arrival, callback, refused))
        except StoreUnavailable as exc:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            raise Rejected(503, "unavailable", (Fault("", "not kept; send it again"),), headers) from exc
        self._telemetry.request.observe("200", time.perf_counter() - begun)

    def refuse(self, rejected: Rejected, source: str, begun: float) -> Refusal:
        """Count a refusal and remember it; return what the sender is told."""
        self._telemetry.rejected.labels(rejected.reason).inc()
        self._rejections.add(rejected, source)
        self._telemetry.request.observe(str(rejected.status), time.perf_counter() - begun)
        faults = [{"pointer": fault.pointer, "message": fault.message} for fault in rejected.faults]
        log.warning(
            "a callback was refused",
            extra={
                "reason": rejected.reason,
                "status": rejected.status,
                "source": source,
                "faults": str(faults),
            },
        )
        told = {"code": rejected.status, "reason": rejected.reason, "errors": faults}
        return Refusal(rejected.status, orjson.dumps(told), rejected.headers)

    async def _keep(self, refused: Refused) -> None:
        """Keep a refused body for a look, if that can be done."""
        try:
            await self._ingest.commit(Arrived(refused.arrival, refused=refused))
        except StoreUnavailable as exc:
            log.warning("a refused body is not kept: %s", exc)
