"""The pages of the web listener: how the fleet stands, and how one task does.

They are worked out anew for every request, from the store as it is; off the event loop, and one at a time,
so that many who look wait for one another and no callback waits for them.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import falcon
from falcon.asgi import App, Request, Response
from msgspec import Struct

from exporter.errors import StoreUnavailable
from exporter.redact import redact_text
from exporter.relay import STATES_BY_SEVERITY, Windows, history
from exporter.store import Store, task_key
from exporter.store.records import decode_ledger, decode_task
from exporter.telemetry import Telemetry
from exporter.web.query import Query, read_query
from exporter.web.rejections import Rejection, Rejections
from exporter.web.render import ASSET_TYPES, HEADERS, Assets, load_templates
from exporter.web.status_page import callbacks, failures, headline, table
from exporter.web.task_page import link_to, status_of

MAX_TASKS = 20_000
RECORDS_AT_ONCE = 64
PAUSE_SECONDS = 0.00005


class About(Struct, frozen=True):
    """This program: its version and revision, and where its metrics are."""

    version: str
    revision: str
    telemetry_path: str


class Pages:
    """`/` and `/tasks/<appid>/<task_id>`.

    Args:
        store: what is shown.
        telemetry: whether the store can be written.
        rejections: what was rejected lately.
        windows: what makes a task failed or stopped.
        about: this program.
        clock: gives the time, UNIX seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        telemetry: Telemetry,
        rejections: Rejections,
        windows: Windows,
        about: About,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._rejections = rejections
        self._windows = windows
        self._clock = clock
        #: The files that the pages name.
        self.assets = Assets()
        self._templates = load_templates(
            asset=self.assets.address,
            about=about,
            started=rejections.since,
            retry_seconds=windows.retry,
        )
        self._turn = asyncio.Lock()

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer how the fleet stands, with 200 also when the store does not answer."""
        query, rejected = read_query(req.get_param), self._rejections.newest_first()
        await self._answer(resp, lambda: (200, self.status(query, rejected)))

    async def on_get_task(self, req: Request, resp: Response, appid: int, task_id: str) -> None:
        """Answer how a task does: 404 if it is not known, 503 if the store does not answer."""
        refresh, task_id = read_query(req.get_param).refresh, task_id or req.get_param("id") or ""
        await self._answer(resp, lambda: self._task(appid, task_id, refresh))

    async def _answer(self, resp: Response, make: Callable[[], tuple[int, str]]) -> None:
        async with self._turn:
            status, page = await asyncio.to_thread(make)
        resp.status = str(status)
        resp.content_type = falcon.MEDIA_HTML
        resp.set_headers(HEADERS)
        resp.text = page

    def status(self, query: Query, rejected: Sequence[tuple[Rejection, tuple[float, int]]]) -> str:
        """Return the page of the fleet."""
        now = self._clock()
        try:
            snapshot = self._store.snapshot(MAX_TASKS, STATES_BY_SEVERITY)
        except StoreUnavailable as exc:
            error = f"{redact_text(str(exc))}. Callbacks are answered 503 until it does, and sent again."
            shown: dict[str, Any] = {"error": error, "headline": headline(None)}
        else:
            tasks = [status_of(decode_task(each), self._windows, now) for each in _giving_way(snapshot.tasks)]
            counts = snapshot.count_by_state
            shown = {
                "error": "",
                "headline": headline(counts, tasks),
                "counts": {state: counts[state] for state in STATES_BY_SEVERITY},
                "known": counts.total(),
                "unread": snapshot.left_out,
                "failures": failures(tasks, self._windows),
                "table": table(tasks, query),
                "callbacks": callbacks(decode_ledger(snapshot.fleet)),
                "created": snapshot.created,
                "quarantined": snapshot.quarantined,
            }
        return self._templates["status.html"].render(
            shown,
            now=now,
            refresh=query.refresh,
            here=query.link(refresh="on"),
            query=query,
            rejected=self._rejections.total,
            rejections=rejected,
            is_writable=self._telemetry.is_writable,
        )

    def _task(self, appid: int, task_id: str, refresh: str) -> tuple[int, str]:
        """Return the page of a task, and the HTTP status of the answer."""
        now = self._clock()
        always = {"now": now, "refresh": refresh, "here": link_to(appid, task_id)}
        notice, page = self._templates["notice.html"], self._templates["task.html"]
        try:
            record = self._store.find(task_key(appid, task_id))
        except StoreUnavailable as exc:
            return 503, notice.render(always, title="The store does not answer", detail=redact_text(str(exc)))
        if record is None:
            return 404, notice.render(
                always, title="No such task is known", detail="It may have been forgotten."
            )
        task = decode_task(record)
        return 200, page.render(always, status=status_of(task, self._windows, now), events=history(task))


def add_pages(app: App[Request, Response], pages: Pages) -> None:
    """Give the app its pages, and what they need."""
    app.add_route("/", pages)
    app.add_route("/tasks/{appid:int}/{task_id:path}", pages, suffix="task")
    for name in ASSET_TYPES:
        app.add_route(f"/-/{name}", pages.assets)


def _giving_way(records: Sequence[str]) -> Iterator[str]:
    """Yield records, with a pause after every few in which the thread that serves requests has its turn.

    Without them that thread would wait five milliseconds each time it wants the interpreter back.
    """
    for index, record in enumerate(records):
        if index % RECORDS_AT_ONCE == 0:
            time.sleep(PAUSE_SECONDS)
        yield record
