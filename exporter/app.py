"""The wiring: the store, the ingest, both apps and the server, from their start to their end."""

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from exporter import __version__
from exporter.callbacks.access import CallbackAccess, ClientAddress, RateLimit
from exporter.callbacks.credentials import Signatures
from exporter.callbacks.handler import CallbackHandler, callback_app
from exporter.config.reload import Files, secret_lines
from exporter.config.settings import Settings
from exporter.config.store_url import StoreUrl
from exporter.ingest.batch import BatchFolder
from exporter.ingest.group_commit import Ingest
from exporter.ingest.recent_rejections import RecentRejections
from exporter.metrics.process import Telemetry
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.server.listener import App, DeferBody, Listener
from exporter.server.master import Server
from exporter.store.protocol import Store, StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.store.valkey.store import ValkeyStore
from exporter.watched_files import WatchedFiles
from exporter.web.authentication import BasicAuth
from exporter.web.operators import operator_app
from exporter.web.pages.handler import ExporterInfo, Pages
from exporter.web.scrape import Scraper

log = logging.getLogger(__name__)

TIDY_SECONDS = 15.0
#: Files that connections of callbacks leave for operators and the store.
RESERVED_FILES = 100


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        ExporterError: it can't begin; the text says how to go on.
    """
    files = WatchedFiles(settings)
    Server(listeners(settings, files), Service(settings, files)).run()


def listeners(settings: Settings, files: WatchedFiles) -> tuple[Listener, Listener]:
    """Return the listener of callbacks and that of operators."""
    callbacks = Listener(
        "callbacks",
        str(settings.callback_listen_address),
        settings.http_idle_timeout,
        files.callback_tls,
        speaks_for_others=ClientAddress(trusted=settings.callback_trusted_proxies).is_trusted,
        reserve=RESERVED_FILES,
    )
    web = Listener(
        "web",
        str(settings.web_listen_address),
        settings.http_idle_timeout,
        files.web_tls,
        lambda: files.web_config().headers,
        reserve=RESERVED_FILES // 2,
    )
    return callbacks, web


def open_store(
    settings: Settings, *, as_guest: bool = False, passwords: Callable[[], Sequence[str]] | None = None
) -> Store:
    """Return the store that the settings name.

    Args:
        as_guest: beside the process that serves it.
        passwords: returns the lines of --store.password-file as they are now; if not given, the file is read.

    Raises:
        SettingsError: the file with its password is of no use.
        StoreError: it can't be used; the text says how to go on.
    """
    terms = StoreOptions(
        labels=settings.metrics_labels,
        fold_settings_fingerprint=settings.fold_settings_fingerprint,
        as_guest=as_guest,
        max_label_sets=settings.metrics_max_label_sets,
        max_quarantined=settings.quarantine_max_bodies,
        max_quarantined_bytes=settings.quarantine_max_bytes,
        max_quarantined_age_seconds=settings.quarantine_max_age,
    )
    url = settings.store_url if passwords else store_url(settings)
    if url.is_embedded:
        return SqliteStore(Path(url.path), terms)
    return ValkeyStore(url, terms, password=(lambda: passwords()[0]) if passwords else None)


def store_url(settings: Settings) -> StoreUrl:
    """Return where the store is, with its password.

    Raises:
        SettingsError: the file with its password is of no use.
    """
    path = settings.store_password_file
    if not path:
        return settings.store_url
    password, *_ = secret_lines(path, "--store.password-file", bool, Files())
    return replace(settings.store_url, password=password)


class Service:
    """Everything that a worker serves.

    Args:
        settings: everything that can be set.
        files: those that the settings name.

    Raises:
        ExporterError: a schema can't be used.
    """

    def __init__(self, settings: Settings, files: WatchedFiles) -> None:
        self._settings = settings
        self._files = files
        #: Compiled before there is a worker, so that a file that breaks later hurts none that comes back.
        self._schemas = Schemas()
        self._ingest: Ingest | None = None
        self._scraper: Scraper | None = None
        self._tidying: asyncio.Task[None] | None = None

    def preflight(self) -> None:
        """Open the store as a worker will, so that what is wrong with it is told before one starts.

        Raises:
            StoreError: the store can't be used; the text says how to go on.
        """
        open_store(self._settings, passwords=self._files.store_passwords).close()

    def reread(self, *, force: bool = False) -> None:
        """Read again which of the settings' files have changed, or with `force` all of them."""
        self._files.look(force=force)

    def start(self) -> tuple[App, App]:
        """Open the store and begin; return the apps of the callback and of the web listener.

        Raises:
            StoreError: the store can't be used; the text says how to go on.
        """
        settings = self._settings
        if settings.is_open:
            log.warning("anybody may send callbacks: set a token, require signatures or allow addresses")
        store = open_store(settings, passwords=self._files.store_passwords)
        telemetry = Telemetry(version=__version__, revision=revision())
        telemetry.store_answered("write", well=True)
        telemetry.callback_open.set(settings.is_open)
        rejections = RecentRejections()
        self._ingest = Ingest(
            store=store,
            folder=BatchFolder(settings.fold_settings, settings.metrics_labels),
            telemetry=telemetry,
        )
        self._scraper = Scraper(
            store=store,
            labels=settings.metrics_labels,
            fold_settings=settings.fold_settings,
            max_tasks=settings.metrics_max_tasks,
            telemetry=telemetry,
        )
        apps = (
            self._callback_app(store.secret, self._ingest, telemetry, rejections),
            self._operator_app(store, self._ingest, self._scraper, telemetry, rejections),
        )
        self._ingest.start()
        # What is there now stays; looking for rubbish among it after every few requests only costs time.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        self._tidying = asyncio.get_running_loop().create_task(_tidy())
        return apps

    async def stop(self) -> None:
        """Commit what was accepted, then let go of everything."""
        if self._tidying is not None:
            self._tidying.cancel()
        if self._scraper is not None and self._ingest is not None:
            await asyncio.to_thread(self._scraper.close)
            await self._ingest.stop()

    def _callback_app(
        self, secret: bytes, ingest: Ingest, telemetry: Telemetry, rejections: RecentRejections
    ) -> App:
        settings = self._settings
        signatures = Signatures(
            keys=self._files.sign_keys,
            is_required=settings.callback_require_sign,
            leeway=settings.callback_sign_leeway,
        )
        parser = Parser(
            schemas=self._schemas,
            redactor=Redactor(key=secret, plain_hosts=settings.redact_plain_hosts),
            authenticate=lambda body: signatures.check(body, time.time()),
        )
        handler = CallbackHandler(
            access=self._access(),
            parser=parser,
            ingest=ingest,
            telemetry=telemetry,
            rejections=rejections,
            # What is no JSON can't be signed: it is a stranger's, and not worth the room.
            quarantine_for=frozenset({"schema"} if settings.callback_require_sign else {"json", "schema"}),
            max_body_bytes=settings.callback_max_body_bytes,
        )
        return DeferBody(callback_app(handler))

    def _operator_app(
        self,
        store: Store,
        ingest: Ingest,
        scraper: Scraper,
        telemetry: Telemetry,
        rejections: RecentRejections,
    ) -> App:
        settings = self._settings
        pages = Pages(
            store=store,
            telemetry=telemetry,
            rejections=rejections,
            fold_settings=settings.fold_settings,
            info=ExporterInfo(__version__, revision(), settings.web_telemetry_path),
        )
        operators = operator_app(
            store=store,
            ingest=ingest,
            scraper=scraper,
            fold_settings=settings.fold_settings,
            pages=pages,
            telemetry_path=settings.web_telemetry_path,
        )
        # Nobody's body is of use to the operators' side, so that nobody's is waited for.
        return BasicAuth(DeferBody(operators), self._files.web_config)

    def _access(self) -> CallbackAccess:
        settings = self._settings
        limit = settings.callback_rate_limit
        return CallbackAccess(
            client_addresses=ClientAddress(
                trusted=settings.callback_trusted_proxies, allowed=settings.callback_allow_from
            ),
            clock=time.monotonic,
            rate_limit=RateLimit(limit) if limit else None,
            tokens=self._files.tokens,
        )


async def _tidy() -> None:
    """Look for rubbish now and then: what connections leave behind is old by then, and would lie long."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        gc.collect()


def revision() -> str:
    """Return the revision this program was built from, where the build said so."""
    return os.environ.get("EXPORTER_REVISION", "unknown")
