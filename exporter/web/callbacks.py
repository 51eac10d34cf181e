"""The side that faces the internet: takes callbacks, and answers when they are durable.

A handler reads, parses, commits and answers. It says 200 only for what is committed; bad input is told
what was expected, kept for a look, and never gets a 5xx.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import falcon
import orjson
from falcon.asgi import App, Request, Response

from exporter.batch import Arrived
from exporter.callback import Ignored, Parser
from exporter.errors import Fault, Rejected, StoreUnavailable
from exporter.ingest import Ingest
from exporter.store import Refused
from exporter.telemetry import Telemetry
from exporter.web.patience import Patience

log = logging.getLogger(__name__)

PATH = "/callbacks"
ANSWER = orjson.dumps({"code": 0})
BODY_SECONDS = 10.0
RETRY_AFTER_SECONDS = 5
CUT_OFF = "css_relay.cut_off"


class Callbacks:
    """Takes callbacks.

    Args:
        parser: turns bytes into callbacks.
        ingest: makes them durable.
        telemetry: counts rejections and times answers.
        max_body_bytes: longest body that is read.
        body_seconds: how long a body may take to arrive.
        clock: gives the time of arrival, seconds.
    """

    def __init__(
        self,
        *,
        parser: Parser,
        ingest: Ingest,
        telemetry: Telemetry,
        max_body_bytes: int,
        body_seconds: float = BODY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._parser = parser
        self._ingest = ingest
        self._telemetry = telemetry
        self._max_body_bytes = max_body_bytes
        self._patience = Patience(body_seconds)
        self._clock = clock

    async def on_post(self, req: Request, resp: Response) -> None:
        """Take one callback: read, parse, commit, answer."""
        begun = req.context.begun = time.perf_counter()
        if req.path != PATH:  # falcon takes //callbacks for the same
            raise falcon.HTTPNotFound
        length = self._expected_length(req)
        raw = await self._read(req, length)
        arrival = round(self._clock(), 3)
        try:
            callback = self._parser.parse(raw)
        except Rejected as rejected:
            await self._keep(Refused(rejected.reason, raw, req.remote_addr, arrival))
            raise
        is_kept = isinstance(callback, Ignored) and callback.keep
        refused = Refused("unknown_event", raw, req.remote_addr, arrival) if is_kept else None
        try:
            await self._ingest.commit(Arrived(arrival, callback, refused))
        except StoreUnavailable as exc:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            raise Rejected(503, "unavailable", (Fault("", "not kept; send it again"),), headers) from exc
        resp.data = ANSWER
        self._telemetry.request.observe("200", time.perf_counter() - begun)

    async def on_options(self, req: Request, resp: Response) -> None:
        """Refuse, since falcon would answer OPTIONS by itself."""
        raise falcon.HTTPMethodNotAllowed(["POST"])

    def _expected_length(self, req: Request) -> int | None:
        """Return the length that the headers promise, None for a chunked body; refuse what they rule out."""
        encoding = req.get_header("Content-Encoding")
        if encoding and encoding.strip().lower() != "identity":
            raise Rejected(415, "encoding", (Fault("", "expected a body without Content-Encoding"),))
        length: int | None = req.content_length
        if length is None and not req.get_header("Transfer-Encoding"):
            raise Rejected(411, "length", (Fault("", "expected a Content-Length, or a chunked body"),))
        if length is not None and length > self._max_body_bytes:
            raise self._too_large()
        return length

    async def _read(self, req: Request, length: int | None) -> bytes:
        try:
            raw = await self._patience.read(req.stream, self._max_body_bytes + 1)
        except TimeoutError as exc:
            fault = Fault("", f"expected the whole body within {self._patience.seconds:g} s")
            raise Rejected(408, "length", (fault,)) from exc
        if len(raw) > self._max_body_bytes:
            raise self._too_large()
        if length is None and CUT_OFF in req.scope:
            raise Rejected(408, "length", (Fault("", "expected the last chunk"),))
        if length is not None and len(raw) < length:
            raise Rejected(408, "length", (Fault("", f"expected {length} bytes, {len(raw)} came"),))
        return raw

    def _too_large(self) -> Rejected:
        return Rejected(413, "too_large", (Fault("", f"expected at most {self._max_body_bytes} bytes"),))

    async def _keep(self, refused: Refused) -> None:
        """Keep a refused body for a look, if that can be done."""
        try:
            await self._ingest.commit(Arrived(refused.arrival, refused=refused))
        except StoreUnavailable as exc:
            log.warning("a refused body is not kept: %s", exc)


class Refusals:
    """Answers what is refused, and counts it by reason."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def on_rejected(self, req: Request, resp: Response, ex: Exception, params: dict[str, Any]) -> None:
        """Answer a rejection with its status, reason and faults."""
        if not isinstance(ex, Rejected):
            raise ex
        self._telemetry.rejected.labels(ex.reason).inc()
        elapsed = time.perf_counter() - req.context.begun if "begun" in req.context else 0.0
        self._telemetry.request.observe(str(ex.status), elapsed)
        faults = [{"pointer": fault.pointer, "message": fault.message} for fault in ex.faults]
        log.warning(
            "a callback was refused",
            extra={
                "reason": ex.reason,
                "status": ex.status,
                "source": req.remote_addr,
                "faults": str(faults),
            },
        )
        resp.status = str(ex.status)
        resp.set_headers(ex.headers)
        resp.data = orjson.dumps({"code": ex.status, "reason": ex.reason, "errors": faults})

    async def on_http_error(
        self, req: Request, resp: Response, ex: Exception, params: dict[str, Any]
    ) -> None:
        """Answer an unknown path as a wrong token, and any other method than POST."""
        if isinstance(ex, falcon.HTTPNotFound) or req.path != PATH:
            rejected = Rejected(404, "token", (Fault("", "there is nothing here"),))
        else:
            rejected = Rejected(405, "method", (Fault("", "expected POST"),), {"Allow": "POST"})
        await self.on_rejected(req, resp, rejected, params)


async def _nothing_yet() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": True}


class HeadersFirst:
    """Lets an app look at a request before any of its body has come.

    falcon waits for the first part of a body before it calls a handler; a caller that promises a body and
    sends none would be held without a limit, and one with a wrong path or a body too long not be told.
    """

    def __init__(self, app: App[Request, Response]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """Serve one request."""
        asked = False

        def body() -> Awaitable[Any]:
            nonlocal asked
            if asked:
                return receive()
            asked = True
            return _nothing_yet()

        async def watched() -> Any:
            event = await body()
            if event["type"] == "http.disconnect":
                scope[CUT_OFF] = True
            return event

        # Without a length nothing else tells a body that ended from one that was cut off.
        is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        await self._app(scope, watched if is_chunked else body, send)


def callback_app(callbacks: Callbacks, telemetry: Telemetry) -> HeadersFirst:
    """Return the app of the callback listener: `POST /callbacks`, and nothing else."""
    app = App()
    refusals = Refusals(telemetry)
    app.add_error_handler(Rejected, refusals.on_rejected)
    app.add_error_handler(falcon.HTTPError, refusals.on_http_error)
    app.add_route(PATH, callbacks)
    return HeadersFirst(app)
