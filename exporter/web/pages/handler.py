"""The pages of the web listener: how the fleet stands, and how one task does.

They are worked out anew for every request, from the store as it is; off the event loop, and one at a time,
so that many who look wait for one another and no callback waits for them. They need nothing from elsewhere.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from importlib.resources import files
from typing import Any

import falcon
from falcon.asgi import App, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from msgspec import Struct

from exporter.errors import StoreUnavailable
from exporter.ingest.recent_rejections import RecentRejections, Rejection
from exporter.metrics.process import Telemetry
from exporter.protocol.redact import redact_text
from exporter.relay import STATES_BY_SEVERITY, FoldSettings, history
from exporter.store.protocol import Store
from exporter.store.records import decode_label_set, decode_task, task_key
from exporter.web.pages.humanize import ago, code_hint, number, plural, position, span, utc, visible
from exporter.web.pages.status_page import Query, callbacks, failures, headline, read_query, table
from exporter.web.pages.task_page import MAX_HISTORY, event_subject, file_name, link_to, status_of

MAX_TASKS = 20_000
REFRESH_SECONDS = 15
ASSET_TYPES = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}
FILTERS = (ago, code_hint, event_subject, file_name, number, plural, position, span, utc)

#: Nothing from elsewhere, nothing inline, no frame; a form leads to this listener alone.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
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
        rejections: RecentRejections,
        fold_settings: FoldSettings,
        about: About,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._rejections = rejections
        self._windows = fold_settings
        self._clock = clock
        #: The files that the pages name.
        self.assets = Assets()
        self._templates = load_templates(
            asset=self.assets.address,
            about=about,
            started=rejections.since,
            retry_seconds=fold_settings.retry,
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
                "callbacks": callbacks(decode_label_set(snapshot.fleet)),
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


class Assets:
    """The stylesheet, the script and the icon: `/-/<name>`."""

    def __init__(self) -> None:
        folder = files("exporter.web.pages") / "assets"
        self._content = {name: (folder / name).read_bytes() for name in ASSET_TYPES}

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer a file."""
        name = req.path.rpartition("/")[2]
        resp.content_type = f"{ASSET_TYPES[name]}; charset=utf-8"
        # It may be kept, since its address changes with its content.
        resp.set_headers({**HEADERS, "Cache-Control": "max-age=31536000, immutable"})
        resp.data = self._content[name]

    def address(self, name: str) -> str:
        """Return the address of a file as it is now."""
        return f"/-/{name}?v={blake2b(self._content[name], digest_size=6).hexdigest()}"


def load_templates(**variables: Any) -> dict[str, Template]:
    """Return the templates by name, with `variables` for all of them; whatever they print is visible text."""
    environment = Environment(
        loader=PackageLoader("exporter.web.pages"),
        autoescape=True,
        # HTML is Markup, made of texts that have come by here.
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.globals |= variables | {"refresh_seconds": REFRESH_SECONDS, "max_history": MAX_HISTORY}
    # Read and compiled now, so that what is wrong with them is told at the start.
    return {name: environment.get_template(name) for name in environment.list_templates()}
