"""The server: one gunicorn master, one worker, two listeners; everything is wired together here."""

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication

from exporter import __version__
from exporter.batch import BatchFolder
from exporter.callback import Parser
from exporter.errors import ExporterError
from exporter.ingest import Ingest
from exporter.logs import GunicornLogger
from exporter.redact import Redactor
from exporter.schemas import Schemas
from exporter.scrape import Scraper
from exporter.settings import Settings
from exporter.store import Store, Terms
from exporter.store.sqlite import SqliteStore
from exporter.telemetry import Telemetry
from exporter.web.callbacks import Callbacks, callback_app
from exporter.web.operators import operator_app

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

GRACE_SECONDS = 25
KEEPALIVE_SECONDS = 5
HEARTBEAT_SECONDS = 60


def open_store(settings: Settings) -> Store:
    """Return the store that the settings name.

    Raises:
        StoreError: it can't be used; the text says how to go on.
    """
    terms = Terms(
        labels=settings.metrics_labels,
        judged_by=",".join(sorted(settings.relay_ok_exit_codes)),
        max_label_sets=settings.metrics_max_label_sets,
    )
    return SqliteStore(Path(settings.store_path), terms)


class Service:
    """The ASGI application: the callback app on the one port, the operators' app on the other.

    Args:
        settings: everything that can be set.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._apps: dict[int, App] = {}
        self._ingest: Ingest | None = None
        self._scraper: Scraper | None = None
        #: Ports of the callback and the web listener; known once they are bound.
        self.ports: tuple[int, int] = (0, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        else:
            await self._apps[scope["server"][1]](scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._start()
        except ExporterError as exc:
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self) -> None:
        settings = self._settings
        store = open_store(settings)
        telemetry = Telemetry(version=__version__, revision=revision())
        telemetry.store_answered("write", well=True)
        telemetry.callback_open.set(settings.callback_listen_address.is_public)
        ingest = Ingest(
            store=store, folder=BatchFolder(settings.windows, settings.metrics_labels), telemetry=telemetry
        )
        scraper = Scraper(
            store=store,
            labels=settings.metrics_labels,
            windows=settings.windows,
            max_tasks=settings.metrics_max_tasks,
            telemetry=telemetry,
        )
        redactor = Redactor(key=store.secret, plain_hosts=settings.redact_plain_hosts)
        callbacks = Callbacks(
            parser=Parser(schemas=Schemas(), redactor=redactor),
            ingest=ingest,
            telemetry=telemetry,
            max_body_bytes=settings.callback_max_body_bytes,
        )
        operators = operator_app(
            store=store,
            ingest=ingest,
            scraper=scraper,
            windows=settings.windows,
            version=__version__,
            telemetry_path=settings.web_telemetry_path,
        )
        self._apps = dict(zip(self.ports, (callback_app(callbacks, telemetry), operators), strict=True))
        self._ingest, self._scraper = ingest, scraper
        ingest.start()
        # What is there now stays; looking for rubbish among it after every few requests only costs time.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)

    async def _stop(self) -> None:
        """Commit what was accepted, then let go of everything."""
        if self._scraper is not None and self._ingest is not None:
            await asyncio.to_thread(self._scraper.close)
            await self._ingest.stop()


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, set up for this program.

    Args:
        settings: everything that can be set.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._service = Service(settings)
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        addresses = self._settings.callback_listen_address, self._settings.web_listen_address
        chosen = {
            "bind": [str(address) for address in addresses],
            "worker_class": "asgi",
            "workers": 1,
            "worker_connections": 10_000,
            "backlog": 4096,
            "asgi_loop": "uvloop",
            "asgi_lifespan": "on",
            "control_socket_disable": True,
            "logger_class": GunicornLogger,
            "accesslog": None,
            "worker_tmp_dir": _memory_folder(),
            "graceful_timeout": GRACE_SECONDS,
            "keepalive": KEEPALIVE_SECONDS,
            "timeout": HEARTBEAT_SECONDS,
            "when_ready": self._when_ready,
            "post_fork": self._post_fork,
        }
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def load(self) -> Service:
        """Return the application that a worker serves."""
        return self._service

    def _when_ready(self, arbiter: Any) -> None:
        for listener, socket in zip(("callbacks", "web"), arbiter.LISTENERS, strict=True):
            host, port = socket.sock.getsockname()[:2]
            log.info("listening", extra={"listener": listener, "address": f"{host}:{port}"})
        if self._settings.callback_listen_address.is_public:
            log.warning("anybody may send callbacks; let only the sender reach the callback listener")

    def _post_fork(self, arbiter: Any, worker: Any) -> None:
        callback, web = (socket.sock.getsockname()[1] for socket in worker.sockets)
        self._service.ports = callback, web


def revision() -> str:
    """Return the revision this program was built from, where the build said so."""
    return os.environ.get("EXPORTER_REVISION", "unknown")


def _memory_folder() -> str | None:
    """Return a folder in memory for the worker's heartbeat: a slow disk must not look like a dead worker."""
    folder = "/dev/shm"  # noqa: S108 - gunicorn makes a private file in it and unlinks it
    return folder if os.path.isdir(folder) and os.access(folder, os.W_OK) else None
