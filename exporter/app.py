"""The wiring: creates, starts and stops the store, the ingest, both apps and the server."""

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from exporter import __version__
from exporter.callbacks.access import ClientAddress, RateLimit, Signatures
from exporter.callbacks.handler import CallbackHandler, callback_app
from exporter.config.reload import FileReader, secret_lines
from exporter.config.settings import Settings
from exporter.config.store_url import StoreUrl
from exporter.ingest.batch import BatchApplier
from exporter.ingest.group_commit import Ingest
from exporter.metrics.process import Telemetry
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.server.listener import App, Listener
from exporter.server.master import Server
from exporter.server.request_head import DeferBody
from exporter.store.protocol import Store, StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.store.valkey.store import ValkeyStore
from exporter.watched_files import WatchedFiles
from exporter.web.authentication import BasicAuth
from exporter.web.operators import operator_app
from exporter.web.pages.handler import ExporterInfo, Pages
from exporter.web.scrape import Scraper

log = logging.getLogger(__name__)

#: Interval of full garbage collections.
GC_SECONDS = 15.0
#: Number of open files that callback connections leave free for operators and the store.
RESERVED_FILES = 100


def serve(settings: Settings) -> None:
    """Serve until a signal stops the process.

    Raises:
        ExporterError: the server can't start; the text says what to do.
    """
    files = WatchedFiles(settings)
    Server(listeners(settings, files), Service(settings, files)).run()


def listeners(settings: Settings, files: WatchedFiles) -> tuple[Listener, Listener]:
    """Return the callback listener and the web listener."""
    callbacks = Listener(
        "callbacks",
        str(settings.callback_listen_address),
        settings.http_idle_timeout,
        files.callback_tls,
        is_trusted_proxy=ClientAddress(trusted=settings.callback_trusted_proxies).is_trusted,
        reserved_files=RESERVED_FILES,
    )
    web = Listener(
        "web",
        str(settings.web_listen_address),
        settings.http_idle_timeout,
        files.web_tls,
        lambda: files.web_config().headers,
        # Fewer: when callback connections use all their files, operators and scrapes still get connections.
        reserved_files=RESERVED_FILES // 2,
    )
    return callbacks, web


def open_store(
    settings: Settings, *, attach_only: bool = False, passwords: Callable[[], Sequence[str]] | None = None
) -> Store:
    """Return the store that the settings name.

    Args:
        attach_only: do not create the store. It must exist, and its fold settings must be the same.
        passwords: returns the newest lines of --store.password-file; if None, the file is read once.

    Raises:
        SettingsError: the password file can't be used.
        StoreError: the store can't be used; the text says what to do.
    """
    options = StoreOptions(
        labels=settings.metrics_labels,
        fold_settings_fingerprint=settings.fold_settings_fingerprint,
        attach_only=attach_only,
        max_label_sets=settings.metrics_max_label_sets,
        max_quarantined=settings.quarantine_max_bodies,
        max_quarantined_bytes=settings.quarantine_max_bytes,
        max_quarantined_age_seconds=settings.quarantine_max_age,
    )
    # An exporter reads the newest password for each connection; a command reads the file once.
    url = settings.store_url if passwords else store_url(settings)
    if url.is_embedded:
        return SqliteStore(Path(url.path), options)
    return ValkeyStore(url, options, password=(lambda: passwords()[0]) if passwords else None)


def store_url(settings: Settings) -> StoreUrl:
    """Return the URL of the store, with the password from --store.password-file.

    Raises:
        SettingsError: the password file can't be used.
    """
    path = settings.store_password_file
    if not path:
        return settings.store_url
    password, *_ = secret_lines(path, "--store.password-file", bool, FileReader())
    return replace(settings.store_url, password=password)


class Service:
    """The program that the worker runs: both apps, the ingest and the store.

    Raises:
        ExporterError: a schema can't be used.
    """

    def __init__(self, settings: Settings, files: WatchedFiles) -> None:
        self._settings = settings
        self._files = files
        #: Compiled in the master: a schema file that becomes unusable later does not stop a new worker.
        self._schemas = Schemas()
        # Created in the worker: threads and connections do not survive its fork.
        self._ingest: Ingest | None = None
        self._scraper: Scraper | None = None
        self._gc_loop: asyncio.Task[None] | None = None

    def check_start(self) -> None:
        """Open the store and close it again, so that a problem ends the start before there is a worker.

        Raises:
            StoreError: the store can't be used; the text says what to do.
        """
        # Closed, because connections to SQLite or a server must not be used after a fork.
        open_store(self._settings, passwords=self._files.store_passwords).close()

    def reload(self, *, force: bool = False) -> None:
        """Reload the files that have changed, or with `force` all files."""
        self._files.reload(force=force)

    def start(self) -> tuple[App, App]:
        """Open the store, start to commit and to sweep; return the apps of both listeners, callbacks first.

        Raises:
            StoreError: the store can't be used; the text says what to do.
        """
        settings = self._settings
        if settings.is_open:
            log.warning("anybody may send callbacks; set --callback.token-file or --callback.allow-from")
        store = open_store(settings, passwords=self._files.store_passwords)
        telemetry = Telemetry(version=__version__, revision=revision())
        telemetry.callback_open.set(settings.is_open)
        self._ingest = Ingest(
            store=store,
            applier=BatchApplier(settings.fold_settings, settings.metrics_labels),
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
            self._callback_app(store.secret, self._ingest, telemetry),
            self._operator_app(store, self._ingest, self._scraper, telemetry),
        )
        self._ingest.start()
        # The objects that exist now live as long as the process: exempt them from collections. Collect less
        # often, too: the default thresholds would cost time every few requests.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        self._gc_loop = asyncio.get_running_loop().create_task(_collect_garbage())
        return apps

    async def stop(self) -> None:
        """Commit everything that was accepted, then close the store."""
        if self._gc_loop is not None:
            self._gc_loop.cancel()
        if self._scraper is not None and self._ingest is not None:
            # The scraper first: it reads from the store, which the ingest closes.
            await asyncio.to_thread(self._scraper.close)
            await self._ingest.stop()

    def _callback_app(self, secret: bytes, ingest: Ingest, telemetry: Telemetry) -> App:
        settings, authenticate = self._settings, None
        if self._files.sign_keys is not None:
            authenticate = Signatures(
                keys=self._files.sign_keys,
                is_required=settings.callback_require_sign,
                leeway=settings.callback_sign_leeway,
                clock=time.time,
            ).check
        redactor = Redactor(key=secret, plain_hosts=settings.redact_plain_hosts)
        handler = CallbackHandler(
            client_addresses=ClientAddress(
                trusted=settings.callback_trusted_proxies, allowed=settings.callback_allow_from
            ),
            rate_limit=RateLimit(settings.callback_rate_limit) if settings.callback_rate_limit else None,
            tokens=self._files.tokens,
            parser=Parser(schemas=self._schemas, redactor=redactor, authenticate=authenticate),
            ingest=ingest,
            telemetry=telemetry,
            # A body that is not JSON has no signature. If signatures are required, anybody may have sent it.
            quarantine_for=frozenset({"schema"} if settings.callback_require_sign else {"json", "schema"}),
            max_body_bytes=settings.callback_max_body_bytes,
        )
        return DeferBody(callback_app(handler))

    def _operator_app(self, store: Store, ingest: Ingest, scraper: Scraper, telemetry: Telemetry) -> App:
        settings = self._settings
        pages = Pages(
            store=store,
            telemetry=telemetry,
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
        # No request of the web listener needs its body, so no answer waits for one.
        return BasicAuth(DeferBody(operators), self._files.web_config)


async def _collect_garbage() -> None:
    """Run a full garbage collection at a fixed interval."""
    # Garbage of closed connections is in the oldest generation, which the thresholds rarely reach.
    while True:
        await asyncio.sleep(GC_SECONDS)
        gc.collect()


def revision() -> str:
    """Return the source revision of this build, or `unknown` if the build did not set it."""
    return os.environ.get("EXPORTER_REVISION", "unknown")
