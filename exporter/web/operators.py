"""The Falcon app of the web listener: metrics, health, the JSON API, and the HTML pages of `pages`."""

import asyncio
from typing import Any

import falcon
import orjson
from falcon.asgi import App, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, gzip_accepted
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from exporter.errors import StoreUnavailable
from exporter.ingest.group_commit import Ingest
from exporter.relay import STATES, Entry, FoldSettings, Task, state_of
from exporter.store.protocol import Store, decode_task, task_key
from exporter.web.pages.handler import Pages, add_pages
from exporter.web.pages.task_page import TaskStatus
from exporter.web.scrape import Scraper

OPENMETRICS, TEXT = "application/openmetrics-text", "text/plain"
#: How long the store and a scrape may take until the exporter counts as not ready.
READY_SECONDS = 5.0
#: Maximum number of tasks in one answer of the API.
MAX_PAGE = 10_000


class Operators:
    """The Falcon resource of all routes but those of the pages."""

    def __init__(
        self, *, store: Store, ingest: Ingest, scraper: Scraper, fold_settings: FoldSettings
    ) -> None:
        self._store = store
        self._ingest = ingest
        self._scraper = scraper
        self._fold_settings = fold_settings

    async def on_get_metrics(self, req: Request, resp: Response) -> None:
        """Answer 200 with a scrape, in the format and encoding that the Accept headers prefer."""
        openmetrics = _prefers_openmetrics(req.get_header("Accept") or "")
        compress = gzip_accepted(req.get_header("Accept-Encoding") or "")
        resp.data = await self._scraper.scrape(openmetrics=openmetrics, compress=compress)
        resp.content_type = CONTENT_TYPE_LATEST if openmetrics else CONTENT_TYPE_PLAIN_0_0_4
        resp.set_header("Vary", "Accept, Accept-Encoding")
        if compress:
            resp.set_header("Content-Encoding", "gzip")

    async def on_get_healthy(self, req: Request, resp: Response) -> None:
        """Answer 200, as this process can."""
        resp.content_type = falcon.MEDIA_TEXT
        resp.text = "healthy\n"

    async def on_get_ready(self, req: Request, resp: Response) -> None:
        """Answer 200 if the store can be written and a scrape be rendered, else 503 with the reason."""
        resp.content_type = falcon.MEDIA_TEXT
        # Checked first: the probe below would have to wait for the commits of the queue.
        if self._ingest.is_queue_half_full:
            resp.status, resp.text = "503", "not ready: too many callbacks are waiting for the store\n"
            return
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._ingest.probe()
                await self._scraper.scrape(openmetrics=False, compress=False)
        except TimeoutError:
            resp.status = "503"
            resp.text = f"not ready: the store did not answer within {READY_SECONDS:g} s\n"
        except StoreUnavailable as exc:
            resp.status, resp.text = "503", f"not ready: {exc}\n"
        else:
            resp.text = "ready\n"

    async def on_get_tasks(self, req: Request, resp: Response) -> None:
        """Answer a page of tasks.

        Query parameters: `state`, `limit` (tasks per page), and `after` (the `next` of the page before).
        """
        state = req.get_param("state")
        if state is not None and state not in STATES:
            raise falcon.HTTPInvalidParam("expected one of " + ", ".join(STATES), "state")
        limit = req.get_param_as_int("limit", min_value=1, max_value=MAX_PAGE, default=1000)
        after = req.get_param_as_int("after", min_value=0, max_value=2**62, default=0)
        # In a thread: the store's methods block.
        page = await asyncio.to_thread(self._store.list_tasks, state=state, after=after, limit=limit)
        resp.data = orjson.dumps(
            {
                "tasks": [task_json(decode_task(record), self._fold_settings) for _, record in page],
                "next": page[-1][0] if len(page) == limit else None,
            }
        )

    async def on_get_task(self, req: Request, resp: Response, appid: int, task_id: str) -> None:
        """Answer one task, 404 if it is not known."""
        record = await asyncio.to_thread(self._store.find_task, task_key(appid, task_id))
        if record is None:
            raise falcon.HTTPNotFound(description="task not found; it may have been deleted")
        resp.data = orjson.dumps({"task": task_json(decode_task(record), self._fold_settings)})


def task_json(task: Task, fold_settings: FoldSettings) -> dict[str, Any]:
    """Return a task as the API shows it, ready for JSON; times are UNIX seconds."""
    status = TaskStatus(task, state_of(task, fold_settings))
    exited, file, playing = status.exit, status.file, None
    if file is not None:
        playing = {"index": file.subject, "started": _seconds(file), "duration_seconds": file.duration}
    return {
        "appid": task.appid,
        "task_id": task.task_id,
        "state": status.state,
        "stream_id": task.stream_id,
        "to_host": task.to_host,
        "to_url": task.to_url,
        "source_host": task.source_host,
        "runs": task.runs,
        "inferred": task.current.inferred,
        "started": _seconds(task.current.start),
        "exited": _seconds(exited),
        "exit_code": exited.subject if exited else None,
        "exit_message": exited.message if exited else None,
        "file": playing,
        "last_callback": task.last_callback_at,
    }


def _seconds(entry: Entry | None) -> float | None:
    return None if entry is None else entry.ms / 1000


def _prefers_openmetrics(accept: str) -> bool:
    """Return whether the header gives OpenMetrics a higher weight than the text format."""
    weights = {OPENMETRICS: 0.0, TEXT: 0.0}
    for part in accept.lower().split(","):
        media_type, parameters = falcon.parse_header(part)
        try:
            weight = float(parameters.get("q", 1))
        except ValueError:
            continue  # a malformed part does not count, but the other parts do
        weights[media_type] = max(weights.get(media_type, 0.0), min(weight, 1.0))
    return weights[OPENMETRICS] > weights[TEXT]


async def _answer_unavailable(req: Request, resp: Response, ex: Exception, params: dict[str, Any]) -> None:
    raise falcon.HTTPServiceUnavailable(description=str(ex), retry_after=5) from ex


def operator_app(
    *,
    store: Store,
    ingest: Ingest,
    scraper: Scraper,
    fold_settings: FoldSettings,
    pages: Pages,
    telemetry_path: str,
) -> App[Request, Response]:
    """Return the Falcon app of the web listener; scrapes are at `telemetry_path`."""
    app = App()
    app.add_error_handler(StoreUnavailable, _answer_unavailable)
    add_pages(app, pages)
    operators = Operators(store=store, ingest=ingest, scraper=scraper, fold_settings=fold_settings)
    app.add_route(telemetry_path, operators, suffix="metrics")
    app.add_route("/-/healthy", operators, suffix="healthy")
    app.add_route("/-/ready", operators, suffix="ready")
    app.add_route("/api/v1/tasks", operators, suffix="tasks")
    app.add_route("/api/v1/tasks/{appid:int}/{task_id:path}", operators, suffix="task")
    return app
