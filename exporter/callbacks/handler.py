"""The Falcon app of the callback listener.

It answers 200 only when a callback is committed. The answer to an unusable callback is a 4xx, never a 5xx,
and states what was expected. Bodies that are not JSON, do not match their schema or have an unknown event go
to the quarantine. With --callback.require-sign those that are not JSON do not: nobody has signed them.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import falcon
import orjson
from falcon.asgi import App, Request, Response

from exporter.callbacks.access import ClientAddress, RateLimit, is_valid_token
from exporter.errors import CallbackError, Fault, StoreUnavailable
from exporter.ingest.batch import BatchItem
from exporter.ingest.group_commit import Ingest
from exporter.metrics.process import Telemetry
from exporter.protocol.callback import Ignored
from exporter.protocol.parser import Parser
from exporter.server.connection import BODY_SECONDS, EXPECTED_REST_OF_BODY, INCOMPLETE_BODY
from exporter.store.transaction import QuarantineEntry

log = logging.getLogger(__name__)

PATH = "/callbacks"
#: The body of every 200. The service's documentation recommends it.
OK_BODY = orjson.dumps({"code": 0})
#: Retry-After of a 503, for senders that read it. The service itself reads the status only.
RETRY_AFTER_SECONDS = 5


class CallbackHandler:
    """Handles callbacks: checks access, reads, parses and commits them, and answers.

    It is the Falcon resource of the callback paths and the middleware before them.

    Args:
        client_addresses: finds client addresses, and knows which networks may send.
        rate_limit: the rate limit, None for no limit.
        tokens: returns the valid path tokens, of which the path must end with one; None if the path is
            `/callbacks` without a token.
        parser: turns bodies into callbacks.
        ingest: commits callbacks and quarantine entries.
        telemetry: counts and remembers rejections, and measures request times.
        quarantine_for: reasons of rejections after which the body goes to the quarantine.
        max_body_bytes: maximum length of a body, bytes.
        clock: returns UNIX time, seconds.
    """

    def __init__(
        self,
        *,
        client_addresses: ClientAddress,
        rate_limit: RateLimit | None = None,
        tokens: Callable[[], Sequence[str]] | None = None,
        parser: Parser,
        ingest: Ingest,
        telemetry: Telemetry,
        quarantine_for: frozenset[str] = frozenset({"json", "schema"}),
        max_body_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client_addresses = client_addresses
        self._rate_limit = rate_limit
        self._tokens = tokens
        self._parser = parser
        self._ingest = ingest
        self._telemetry = telemetry
        self._quarantine_for = quarantine_for
        self._max_body_bytes = max_body_bytes
        self._clock = clock

    async def process_request(self, req: Request, resp: Response) -> None:
        """Check the address, the rate and the path; Falcon calls this before it routes the request.

        Before routing, so that a wrong path is answered like a wrong token: nobody learns which it was.

        Raises:
            CallbackError: the address may not send, sends too often, or uses a wrong path or token.
        """
        req.context.begun = time.perf_counter()
        source = req.scope["client"][0]
        if forwarded := req.get_header("X-Forwarded-For"):
            source = self._client_addresses.resolve(source, forwarded)
        # Stored before the checks, because `on_callback_error` logs it.
        req.context.source = source
        # The cheap checks come first, and the rate is limited before tokens are compared: it limits guesses.
        if not self._client_addresses.may_send(source):
            raise CallbackError(403, "address", (Fault("", "this address may not send callbacks"),))
        if self._rate_limit is not None and (wait := self._rate_limit.acquire(source, time.monotonic())):
            retry = {"Retry-After": str(math.ceil(wait))}
            fault = Fault("", "too many requests; send the callback again later")
            raise CallbackError(429, "rate", (fault,), retry)
        is_found = req.path == PATH
        if self._tokens is not None:
            # Compared first, also for a path that can't be right: the time must not depend on the path.
            is_valid = is_valid_token(req.path.removeprefix(PATH + "/"), self._tokens())
            is_found = is_valid and req.path.startswith(PATH + "/")
        if not is_found:
            raise CallbackError(404, "token", (Fault("", "the path or its token is wrong"),))

    async def on_post(self, req: Request, resp: Response, token: str = "") -> None:
        """Read, parse and commit a callback; `token` has been checked before.

        Raises:
            CallbackError: the callback is rejected, or the store is unavailable.
        """
        raw = await self._read(req)
        # In whole milliseconds, like the event times in callbacks.
        arrival = round(self._clock(), 3)
        source = req.context.source
        try:
            callback = self._parser.parse(raw)
        except CallbackError as error:
            if error.reason in self._quarantine_for:
                await self._quarantine(QuarantineEntry(error.reason, raw, source, arrival))
            raise
        # An unknown event is answered 200, but quarantined: it may be replayed once its schema exists.
        is_quarantined = isinstance(callback, Ignored) and callback.is_quarantined
        entry = QuarantineEntry("unknown_event", raw, source, arrival) if is_quarantined else None
        try:
            await self._ingest.submit(BatchItem(arrival, callback, entry))
        except StoreUnavailable as exc:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            fault = Fault("", "the callback was not stored; send it again")
            raise CallbackError(503, "unavailable", (fault,), headers) from exc
        self._telemetry.request.labels("200").observe(time.perf_counter() - req.context.begun)
        resp.data = OK_BODY

    async def on_options(self, req: Request, resp: Response, token: str = "") -> None:
        """Reject OPTIONS; without this method Falcon would answer it with 200.

        Raises:
            falcon.HTTPMethodNotAllowed: always.
        """
        raise falcon.HTTPMethodNotAllowed(["POST"])

    async def _read(self, req: Request) -> bytes:
        """Return the body, if it is complete, in time and not too long."""
        # What the headers show is checked first, so that a body that can't be used is not even read.
        encoding, length = req.get_header("Content-Encoding"), req.content_length
        if encoding and encoding.strip().lower() != "identity":
            raise CallbackError(415, "encoding", (Fault("", "expected a body without Content-Encoding"),))
        if length is None and not req.get_header("Transfer-Encoding"):
            raise CallbackError(411, "length", (Fault("", "expected a Content-Length, or a chunked body"),))
        if length is not None and length > self._max_body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                # One byte more than allowed, to notice a chunked body that is too long.
                raw: bytes = await req.stream.read(self._max_body_bytes + 1)
        except TimeoutError as exc:
            late = Fault("", f"expected the whole body within {BODY_SECONDS:g} s")
            raise CallbackError(408, "length", (late,)) from exc
        if len(raw) > self._max_body_bytes:
            raise self._too_large()
        # The stream ends normally when the sender disconnects or a chunk is malformed, so the connection
        # reports it here. EXPECTED_REST_OF_BODY means disconnected; anything else is a malformed chunk.
        broken = req.scope.get(INCOMPLETE_BODY)
        if broken == EXPECTED_REST_OF_BODY:
            raise CallbackError(408, "length", (Fault("", broken),))
        if broken:
            raise CallbackError(400, "length", (Fault("", broken),))
        return raw

    def _too_large(self) -> CallbackError:
        fault = Fault("", f"expected a body of at most {self._max_body_bytes} bytes")
        return CallbackError(413, "too_large", (fault,))

    async def _quarantine(self, entry: QuarantineEntry) -> None:
        """Commit a rejected body to the quarantine, if the store allows it."""
        try:
            await self._ingest.submit(BatchItem(entry.arrival, quarantine_entry=entry))
        except StoreUnavailable as exc:
            # The answer stays the 4xx of the rejection: the body is unusable, whether the store works or not.
            log.warning("rejected body was not quarantined: %s", exc)

    async def on_callback_error(
        self, req: Request, resp: Response, error: Exception, params: dict[str, Any]
    ) -> None:
        """Answer with the status, reason and faults of a CallbackError; count, remember and log it."""
        # Falcon's type of an error handler allows any exception; it is registered for CallbackError only.
        if not isinstance(error, CallbackError):
            raise error
        source, reason, status = req.context.source, error.reason, error.status
        self._telemetry.rejected.labels(reason).inc()
        self._telemetry.rejections.add(error, source)
        self._telemetry.request.labels(str(status)).observe(time.perf_counter() - req.context.begun)
        faults = [{"pointer": fault.pointer, "message": fault.message} for fault in error.faults]
        # Neither the path nor the body is logged: they may hold a token or a push key.
        fields = {"reason": reason, "status": status, "source": source, "faults": str(faults)}
        log.warning("callback rejected", extra=fields)
        resp.status = status
        resp.set_headers(error.headers)
        resp.data = orjson.dumps({"code": status, "reason": reason, "errors": faults})

    async def on_http_error(
        self, req: Request, resp: Response, ex: Exception, params: dict[str, Any]
    ) -> None:
        """Answer 405 to an error of Falcon's own.

        A wrong path is rejected before Falcon routes, so that a wrong method is the only error left.
        """
        error = CallbackError(405, "method", (Fault("", "expected POST"),), {"Allow": "POST"})
        await self.on_callback_error(req, resp, error, params)


def callback_app(handler: CallbackHandler) -> App[Request, Response]:
    """Return the Falcon app of the callback listener: POST to `/callbacks` or `/callbacks/<token>` only."""
    app = App(middleware=[handler])
    app.add_error_handler(CallbackError, handler.on_callback_error)
    app.add_error_handler(falcon.HTTPError, handler.on_http_error)
    app.add_route(PATH, handler)
    app.add_route(PATH + "/{token}", handler)
    return app
