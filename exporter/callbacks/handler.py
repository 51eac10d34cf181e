"""The side that faces the internet: the app of the callback listener.

It says 200 only for what is committed; bad input is told what was expected, kept for a look, and never gets
a 5xx.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import falcon
import orjson
from falcon.asgi import App, Request, Response

from exporter.callbacks.access import PATH, CallbackAccess
from exporter.errors import CallbackError, Fault, StoreUnavailable
from exporter.ingest.batch import BatchItem
from exporter.ingest.group_commit import Ingest
from exporter.ingest.recent_rejections import RecentRejections
from exporter.metrics.process import Telemetry
from exporter.protocol.callback import Ignored
from exporter.protocol.parser import Parser
from exporter.server.connection import BODY_SECONDS, EXPECTED_REST_OF_BODY, INCOMPLETE_BODY
from exporter.store.protocol import QuarantineEntry

log = logging.getLogger(__name__)

#: The answer to what was taken.
TAKEN = orjson.dumps({"code": 0})
RETRY_AFTER_SECONDS = 5


class CallbackHandler:
    """Takes callbacks, and refuses what is none.

    Args:
        admission: says who may send.
        parser: turns bytes into callbacks.
        ingest: makes them durable.
        telemetry: counts refusals and times answers.
        rejections: remembers refusals for the status page.
        keeps: reasons for which a refused body is kept for a look.
        max_body_bytes: the longest body that is read.
        clock: gives the time of arrival, seconds.
    """

    def __init__(
        self,
        *,
        access: CallbackAccess,
        parser: Parser,
        ingest: Ingest,
        telemetry: Telemetry,
        rejections: RecentRejections,
        keeps: frozenset[str] = frozenset({"json", "schema"}),
        max_body_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._access = access
        self._parser = parser
        self._ingest = ingest
        self._telemetry = telemetry
        self._rejections = rejections
        self._keeps = keeps
        self._max_body_bytes = max_body_bytes
        self._clock = clock

    async def process_request(self, req: Request, resp: Response) -> None:
        """Let a request in and note its source, or refuse it: before a path is looked for."""
        req.context.begun = time.perf_counter()
        source = self._access.source_of(req.scope["client"][0], req.get_header("X-Forwarded-For"))
        req.context.source = source
        self._access.admit(source, req.path)

    async def on_post(self, req: Request, resp: Response, token: str = "") -> None:
        """Take one callback: read, parse and commit it. Its token has been looked at."""
        raw = await self._read(req)
        arrival = round(self._clock(), 3)
        source = req.context.source
        try:
            callback = self._parser.parse(raw)
        except CallbackError as rejected:
            if rejected.reason in self._keeps:
                await self._keep(QuarantineEntry(rejected.reason, raw, source, arrival))
            raise
        is_kept = isinstance(callback, Ignored) and callback.is_quarantined
        refused = QuarantineEntry("unknown_event", raw, source, arrival) if is_kept else None
        try:
            await self._ingest.commit(BatchItem(arrival, callback, refused))
        except StoreUnavailable as exc:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            raise CallbackError(503, "unavailable", (Fault("", "not kept; send it again"),), headers) from exc
        self._telemetry.request.observe("200", time.perf_counter() - req.context.begun)
        resp.data = TAKEN

    async def on_options(self, req: Request, resp: Response, token: str = "") -> None:
        """Refuse, since falcon would answer OPTIONS by itself."""
        raise falcon.HTTPMethodNotAllowed(["POST"])

    async def _read(self, req: Request) -> bytes:
        """Return the body, whole: as long as its headers promise, in time, and not too long."""
        encoding, length = req.get_header("Content-Encoding"), req.content_length
        if encoding and encoding.strip().lower() != "identity":
            raise CallbackError(415, "encoding", (Fault("", "expected a body without Content-Encoding"),))
        if length is None and not req.get_header("Transfer-Encoding"):
            raise CallbackError(411, "length", (Fault("", "expected a Content-Length, or a chunked body"),))
        if length is not None and length > self._max_body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                raw: bytes = await req.stream.read(self._max_body_bytes + 1)
        except TimeoutError as exc:
            late = Fault("", f"expected the whole body within {BODY_SECONDS:g} s")
            raise CallbackError(408, "length", (late,)) from exc
        if len(raw) > self._max_body_bytes:
            raise self._too_large()
        if broken := req.scope.get(INCOMPLETE_BODY):
            faults = (Fault("", broken),)
            raise (
                CallbackError(408, "length", faults)
                if broken == EXPECTED_REST_OF_BODY
                else CallbackError(400, "length", faults)
            )
        return raw

    def _too_large(self) -> CallbackError:
        return CallbackError(413, "too_large", (Fault("", f"expected at most {self._max_body_bytes} bytes"),))

    async def _keep(self, refused: QuarantineEntry) -> None:
        """Keep a refused body for a look, if that can be done."""
        try:
            await self._ingest.commit(BatchItem(refused.arrival, quarantine_entry=refused))
        except StoreUnavailable as exc:
            log.warning("a refused body is not kept: %s", exc)

    async def on_rejected(
        self, req: Request, resp: Response, rejected: Exception, params: dict[str, Any]
    ) -> None:
        """Answer a rejection with its status, reason and faults; count it and remember it."""
        if not isinstance(rejected, CallbackError):
            raise rejected
        source, reason, status = req.context.source, rejected.reason, rejected.status
        self._telemetry.rejected.labels(reason).inc()
        self._rejections.add(rejected, source)
        self._telemetry.request.observe(str(status), time.perf_counter() - req.context.begun)
        faults = [{"pointer": fault.pointer, "message": fault.message} for fault in rejected.faults]
        about = {"reason": reason, "status": status, "source": source, "faults": str(faults)}
        log.warning("a callback was refused", extra=about)
        resp.status = status
        resp.set_headers(rejected.headers)
        resp.data = orjson.dumps({"code": status, "reason": reason, "errors": faults})

    async def on_http_error(
        self, req: Request, resp: Response, ex: Exception, params: dict[str, Any]
    ) -> None:
        """Answer any other method than POST; the path was right, or it would not have come this far."""
        rejected = CallbackError(405, "method", (Fault("", "expected POST"),), {"Allow": "POST"})
        await self.on_rejected(req, resp, rejected, params)


def callback_app(handler: CallbackHandler) -> App[Request, Response]:
    """Return the app of the callback listener: `POST /callbacks` or `/callbacks/<token>`, and no more."""
    app = App(middleware=[handler])
    app.add_error_handler(CallbackError, handler.on_rejected)
    app.add_error_handler(falcon.HTTPError, handler.on_http_error)
    app.add_route(PATH, handler)
    app.add_route(PATH + "/{token}", handler)
    return app
