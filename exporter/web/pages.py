"""The pages of the web listener: how the fleet stands, and how one task does.

They are worked out anew for every request, from the store as it is; off the event loop, and one at a time,
so that many who look wait for one another and no callback waits for them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from falcon.asgi import App, Request, Response
from msgspec import Struct

from exporter.catalogue import OUTCOMES
from exporter.errors import StoreUnavailable
from exporter.redact import redact_text
from exporter.relay import Windows
from exporter.store import Overview, Store, task_key
from exporter.store.records import decode_ledger, decode_task
from exporter.telemetry import Telemetry
from exporter.web.phrases import number, span, when
from exporter.web.query import Query, read_query
from exporter.web.rejections import Rejection, Rejections
from exporter.web.render import Assets, Renderer, answer
from exporter.web.taskview import link_to, look_at, task_view
from exporter.web.view import failures, headline, outcomes, table, tiles

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
        clock: gives the time, seconds.
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
        self._about = about
        #: The files that the pages name.
        self.assets = Assets()
        self._renderer = Renderer(self.assets)
        self._turn = asyncio.Lock()

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer how the fleet stands, with 200 also when the store does not answer."""
        query, rejected = read_query(req.get_param), self._rejections.newest_first()
        async with self._turn:
            page = await asyncio.to_thread(self.status, query, rejected)
        answer(resp, 200, page)

    async def on_get_task(self, req: Request, resp: Response, appid: int, task_id: str) -> None:
        """Answer how a task does: 404 if it is not known, 503 if the store does not answer."""
        refresh = read_query(req.get_param).refresh
        task_id = task_id or req.get_param("id") or ""
        async with self._turn:
            status, page = await asyncio.to_thread(self._task, appid, task_id, refresh)
        answer(resp, status, page)

    def status(self, query: Query, rejected: Sequence[Rejection]) -> str:
        """Return the page of the fleet."""
        now = self._clock()
        overview, trouble = self._read()
        values = {
            **self._always(now, query.refresh, query.link()),
            "turn": query.link(refresh="off" if query.refresh == "on" else "on"),
            "asked": query.is_asked,
            "query": query,
            "default": Query(),
            "trouble": trouble,
            "rejected": self._rejections.total,
            "rejections": [(each, when(each.last, now)) for each in rejected],
            "outcome_names": OUTCOMES,
            "store": list(self._about_store(overview, now)),
        }
        return self._renderer.render("status.html", {**values, **self._fleet(overview, query, now)})

    def _read(self) -> tuple[Overview | None, str]:
        """Return what the store says, and what is the matter with it."""
        try:
            overview = self._store.overview(MAX_TASKS)
        except StoreUnavailable as exc:
            return None, f"{redact_text(str(exc))}. Callbacks are answered 503 until it does, and sent again."
        if self._telemetry.is_writable:
            return overview, ""
        return overview, "The store can be read but not written: callbacks are answered 503, and sent again."

    def _fleet(self, overview: Overview | None, query: Query, now: float) -> dict[str, Any]:
        """Return what is shown of the tasks and their callbacks."""
        if overview is None:
            return {"headline": headline(None, Counter()), "table": None, "outcomes": None}
        tasks = [look_at(decode_task(record), self._windows, now) for record in _giving_way(overview.tasks)]
        return {
            "headline": headline(overview.counts, Counter(each.watch for each in tasks)),
            "failures": failures(tasks, self._windows, now),
            "tiles": tiles(overview.counts, query),
            "table": table(tasks, query, known=sum(overview.counts.values()), now=now),
            "outcomes": outcomes(decode_ledger(overview.fleet), now),
        }

    def _about_store(self, overview: Overview | None, now: float) -> Iterator[tuple[str, str]]:
        yield "Answers", "no" if overview is None else "yes"
        yield "Can be written", "yes" if self._telemetry.is_writable else "no"
        if overview is not None:
            made = when(overview.created, now)
            yield "Counts since", f"{made.exact} ({made.text})"
            yield "Kept in quarantine", number(overview.quarantined)

    def _task(self, appid: int, task_id: str, refresh: str) -> tuple[int, str]:
        now = self._clock()
        here = link_to(appid, task_id)
        paused = here + ("&" if "?" in here else "?") + "refresh=off"
        values = {**self._always(now, refresh, here), "turn": paused if refresh == "on" else here}
        try:
            record = self._store.find(task_key(appid, task_id))
        except StoreUnavailable as exc:
            return 503, self._notice("The store does not answer", redact_text(str(exc)), values)
        if record is None:
            return 404, self._notice("No such task is known", "It may have been forgotten.", values)
        view = task_view(decode_task(record), self._windows, now)
        retry = span(self._windows.retry)
        return 200, self._renderer.render("task.html", {**values, "view": view, "retry": retry})

    def _always(self, now: float, refresh: str, here: str) -> dict[str, Any]:
        """Return what every page shows."""
        return {
            "now": when(now, now),
            "refresh": refresh,
            "here": here,
            "about": self._about,
            "started": when(self._rejections.since, now),
        }

    def _notice(self, title: str, detail: str, values: dict[str, Any]) -> str:
        return self._renderer.render(
            "notice.html", {**values, "title": title, "detail": detail, "tone": "down"}
        )


def add_pages(app: App[Request, Response], pages: Pages) -> None:
    """Give the app its pages, and what they need."""
    app.add_route("/", pages)
    app.add_route("/tasks/{appid:int}/{task_id:path}", pages, suffix="task")
    for name in pages.assets.names:
        app.add_route(f"/-/{name}", pages.assets)


def _giving_way(records: Sequence[str]) -> Iterator[str]:
    """Yield records, with a pause after every few in which the thread that serves requests has its turn.

    Without them that thread would wait five milliseconds each time it wants the interpreter back.
    """
    for index, record in enumerate(records):
        if index % RECORDS_AT_ONCE == 0:
            time.sleep(PAUSE_SECONDS)
        yield record
