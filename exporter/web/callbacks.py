"""The side that faces the internet: the app of the callback listener.

It says 200 only for what is committed; bad input is told what was expected, kept for a look, and never gets
a 5xx. What becomes of a callback is `intake`'s; here are the framework's requests and answers.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import falcon
from falcon.asgi import App, Request, Response

from exporter.errors import Fault, Rejected
from exporter.web.admission import PATH, Admission
from exporter.web.body import Bodies
from exporter.web.intake import TAKEN, Intake

CUT_OFF = "css_relay.cut_off"


class Callbacks:
    """Takes callbacks.

    Args:
        intake: what becomes of them.
        bodies: reads them.
    """

    def __init__(self, *, intake: Intake, bodies: Bodies) -> None:
        self._intake = intake
        self._bodies = bodies

    async def on_post(self, req: Request, resp: Response, token: str = "") -> None:
        """Take one callback: read it, take it in, answer. Its token has been looked at."""
        raw = await self._read(req, self._expected_length(req))
        await self._intake.take(raw, req.context.source, req.context.begun)
        resp.data = TAKEN

    async def on_options(self, req: Request, resp: Response, token: str = "") -> None:
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
        if length is not None and length > self._bodies.max_bytes:
            raise self._bodies.too_large()
        return length

    async def _read(self, req: Request, length: int | None) -> bytes:
        arriving = req.stream.read(self._bodies.max_bytes + 1)
        if length is None:
            return await self._bodies.unmeasured(arriving, lambda: CUT_OFF in req.scope)
        return await self._bodies.whole(arriving, length)


class Gate:
    """falcon middleware that lets in whom it should, before a request is routed."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def process_request(self, req: Request, resp: Response) -> None:
        """Let a request in and note its source, or refuse it."""
        req.context.begun = time.perf_counter()
        source = self._admission.source_of(req.scope["client"][0], req.get_header("X-Forwarded-For"))
        req.context.source = source
        self._admission.admit(source, req.path)


class Refusals:
    """Answers what is refused."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def on_rejected(self, req: Request, resp: Response, ex: Exception, params: dict[str, Any]) -> None:
        """Answer a rejection with its status, reason and faults."""
        if not isinstance(ex, Rejected):
            raise ex
        refusal = self._intake.refuse(ex, req.context.source, req.context.begun)
        resp.status = str(refusal.status)
        resp.set_headers(refusal.headers)
        resp.data = refusal.body

    async def on_http_error(
        self, req: Request, resp: Response, ex: Exception, params: dict[str, Any]
    ) -> None:
        """Answer any other method than POST; the path was right, or it would not have come this far."""
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


def callback_app(intake: Intake, admission: Admission, bodies: Bodies) -> HeadersFirst:
    """Return the app of the callback listener: `POST /callbacks` or `/callbacks/<token>`, and no more."""
    app = App(middleware=[Gate(admission)])
    refusals = Refusals(intake)
    app.add_error_handler(Rejected, refusals.on_rejected)
    app.add_error_handler(falcon.HTTPError, refusals.on_http_error)
    callbacks = Callbacks(intake=intake, bodies=bodies)
    app.add_route(PATH, callbacks)
    app.add_route(PATH + "/{token}", callbacks)
    return HeadersFirst(app)
