"""The Falcon resources of the HTML pages: the status page of the fleet, and the page of one task.

Every request renders its page from the store's current state. Pages are rendered in a thread and one at a
time: viewers wait for each other, and callbacks do not wait for them. Pages load nothing from other hosts.
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
from exporter.metrics.process import Rejection, Telemetry
from exporter.protocol.redact import redact_text
from exporter.relay import STATES_BY_SEVERITY, FoldSettings, history
from exporter.store.protocol import Store, decode_label_set, decode_task, task_key
from exporter.web.pages.humanize import ago, code_hint, number, plural, position, span, utc, visible
from exporter.web.pages.status_page import Query, callbacks, failures, read_query, summarize, table
from exporter.web.pages.task_page import MAX_HISTORY, event_subject, file_name, link_to, status_of

#: Tasks that the status page reads from the store.
MAX_TASKS = 20_000
#: How often an open page refreshes itself.
REFRESH_SECONDS = 15
#: The stylesheet, the script and the icon, with their types; the path of each is `/-/<name>`.
ASSET_TYPES = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}
FILTERS = (ago, code_hint, event_subject, file_name, number, plural, position, span, utc)

#: Pages may load and submit to this listener only, have no inline scripts or styles, and can't be framed.
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
#: After so many records the rendering thread sleeps for PAUSE_SECONDS, see `_with_pauses`.
RECORDS_BETWEEN_PAUSES = 64
PAUSE_SECONDS = 0.00005


class ExporterInfo(Struct, frozen=True):
    """This program, as the pages show it. Scrapes are at `telemetry_path`."""

    version: str
    revision: str
    telemetry_path: str


class Pages:
    """The Falcon resource of `/`, `/tasks/<appid>/<task_id>` and the assets.

    Args:
        clock: returns UNIX time, seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        telemetry: Telemetry,
        fold_settings: FoldSettings,
        info: ExporterInfo,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._fold_settings = fold_settings
        self._clock = clock
        folder = files("exporter.web.pages") / "assets"
        self._assets = {name: (folder / name).read_bytes() for name in ASSET_TYPES}
        self._templates = load_templates(
            asset=self._asset_url,
            info=info,
            started=telemetry.rejections.since,
            retry_seconds=fold_settings.retry,
        )
        self._render_lock = asyncio.Lock()

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer 200 with the status page, also when the store does not answer."""
        query, rejected = read_query(req.get_param), self._telemetry.rejections.newest_first()
        await self._answer(resp, lambda: (200, self.status(query, rejected)))

    async def on_get_task(self, req: Request, resp: Response, appid: int, task_id: str) -> None:
        """Answer with the page of a task: 404 if it is not known, 503 if the store does not answer."""
        # An id of only dots is in the query instead of the path, see `link_to`.
        refresh, task_id = read_query(req.get_param).refresh, task_id or req.get_param("id") or ""
        await self._answer(resp, lambda: self._task_page(appid, task_id, refresh))

    async def on_get_asset(self, req: Request, resp: Response) -> None:
        """Answer 200 with the file."""
        # Only the routes of ASSET_TYPES lead here, so that the name is always known.
        name = req.path.rpartition("/")[2]
        resp.content_type = f"{ASSET_TYPES[name]}; charset=utf-8"
        # Browsers may cache it for ever: its URL changes with its content.
        resp.set_headers({**HEADERS, "Cache-Control": "max-age=31536000, immutable"})
        resp.data = self._assets[name]

    def _asset_url(self, name: str) -> str:
        return f"/-/{name}?v={blake2b(self._assets[name], digest_size=6).hexdigest()}"

    async def _answer(self, resp: Response, render: Callable[[], tuple[int, str]]) -> None:
        async with self._render_lock:
            status, page = await asyncio.to_thread(render)
        resp.status = str(status)
        resp.content_type = falcon.MEDIA_HTML
        resp.set_headers(HEADERS)
        resp.text = page

    def status(self, query: Query, rejected: Sequence[tuple[Rejection, tuple[float, int]]]) -> str:
        """Return the status page for `query`; `rejected` are the recent rejections, the newest first."""
        now = self._clock()
        try:
            snapshot = self._store.snapshot(MAX_TASKS, STATES_BY_SEVERITY)
        except StoreUnavailable as exc:
            # Redacted: the text may quote the store's URL, which may hold a password.
            error = f"{redact_text(str(exc))}. Callbacks are answered 503 meanwhile and sent again later."
            fleet: dict[str, Any] = {"error": error, "summary": summarize(None)}
        else:
            records = _with_pauses(snapshot.tasks)
            tasks = [status_of(decode_task(record), self._fold_settings, now) for record in records]
            counts = snapshot.count_by_state
            fleet = {
                "error": "",
                "summary": summarize(counts, tasks),
                "counts": {state: counts[state] for state in STATES_BY_SEVERITY},
                "known": counts.total(),
                "unread": snapshot.left_out,
                "failures": failures(tasks, self._fold_settings),
                "table": table(tasks, query),
                "callbacks": callbacks(decode_label_set(snapshot.fleet)),
                "created": snapshot.created,
                "quarantined": snapshot.quarantined,
            }
        return self._templates["status.html"].render(
            fleet,
            now=now,
            refresh=query.refresh,
            here=query.link(refresh="on"),
            query=query,
            rejected=self._telemetry.rejections.total,
            rejections=rejected,
            is_writable=self._telemetry.is_writable,
        )

    def _task_page(self, appid: int, task_id: str, refresh: str) -> tuple[int, str]:
        now = self._clock()
        base = {"now": now, "refresh": refresh, "here": link_to(appid, task_id)}
        notice, page = self._templates["notice.html"], self._templates["task.html"]
        try:
            record = self._store.find_task(task_key(appid, task_id))
        except StoreUnavailable as exc:
            return 503, notice.render(base, title="The store does not answer", detail=redact_text(str(exc)))
        if record is None:
            detail = "No callback has named this task, or it has been deleted since its last callback."
            return 404, notice.render(base, title="Task not found", detail=detail)
        task = decode_task(record)
        return 200, page.render(base, status=status_of(task, self._fold_settings, now), events=history(task))


def add_pages(app: App[Request, Response], pages: Pages) -> None:
    """Add the routes of the pages and of their assets."""
    app.add_route("/", pages)
    app.add_route("/tasks/{appid:int}/{task_id:path}", pages, suffix="task")
    for name in ASSET_TYPES:
        app.add_route(f"/-/{name}", pages, suffix="asset")


def _with_pauses(records: Sequence[str]) -> Iterator[str]:
    """Yield records, with a short sleep after every few, which hands the interpreter lock to the event loop.

    Without the sleeps the event loop would wait 5 ms, Python's switch interval, each time it needs the lock.
    """
    for index, record in enumerate(records):
        if index % RECORDS_BETWEEN_PAUSES == 0:
            time.sleep(PAUSE_SECONDS)
        yield record


def load_templates(**variables: Any) -> dict[str, Template]:
    """Return the compiled templates by name; all of them can use `variables`."""
    environment = Environment(
        loader=PackageLoader("exporter.web.pages"),
        autoescape=True,
        # Every text that a template prints passes `visible`, so that no template can forget it. Markup is a
        # subclass of str; its texts have passed here before.
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,  # a misspelled variable is an error, not an empty text
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.globals |= variables | {"refresh_seconds": REFRESH_SECONDS, "max_history": MAX_HISTORY}
    # Compiled now, so that a malformed template stops the start, not a request.
    return {name: environment.get_template(name) for name in environment.list_templates()}
