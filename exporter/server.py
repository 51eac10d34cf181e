"""The server: one gunicorn master, one worker, two listeners."""

import logging
import os
import signal
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from exporter.access import Source
from exporter.listener import Listener
from exporter.logs import GunicornLogger
from exporter.service import Service, open_store
from exporter.settings import Settings
from exporter.watched import WatchedFiles
from exporter.worker import Worker

log = logging.getLogger(__name__)

GRACE_SECONDS = 25
HEARTBEAT_SECONDS = 60
#: Files that connections of callbacks leave for operators and the store.
RESERVED_FILES = 100


class Master(Arbiter):  # type: ignore[misc]
    """gunicorn's master, which on SIGHUP does not replace the worker."""

    def handle_hup(self) -> None:
        """Have the worker read its files again; it goes on, and so do its connections."""
        self.kill_workers(signal.SIGHUP)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, set up for this program.

    Args:
        settings: everything that can be set.

    Raises:
        ExporterError: a file that the settings name, or one of the schemas, can't be read or used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.files = WatchedFiles(settings)
        self._service = Service(settings, self.files)
        #: In the order of the addresses that are bound.
        self.listeners = (
            Listener(
                "callbacks",
                settings.http_idle_timeout,
                self.files.callback_tls,
                speaks_for_others=Source(trusted=settings.callback_trusted_proxies).is_trusted,
                reserve=RESERVED_FILES,
            ),
            Listener(
                "web",
                settings.http_idle_timeout,
                self.files.web_tls,
                lambda: self.files.web_config().headers,
                reserve=RESERVED_FILES // 2,
            ),
        )
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        addresses = self._settings.callback_listen_address, self._settings.web_listen_address
        chosen = {
            "bind": [str(address) for address in addresses],
            "worker_class": Worker,
            "workers": 1,
            "backlog": 4096,
            "logger_class": GunicornLogger,
            "accesslog": None,
            "worker_tmp_dir": _memory_folder(),
            "graceful_timeout": GRACE_SECONDS,
            "timeout": HEARTBEAT_SECONDS,
            "when_ready": self._when_ready,
            "pre_fork": self._pre_fork,
        }
        if "control_socket_disable" in self.cfg.settings:  # versions before 25 have no such socket
            chosen["control_socket_disable"] = True
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def preflight(self) -> None:
        """Do what a worker does at its start and the constructor has not done, as far as it may fail.

        Raises:
            ExporterError: a worker would not start; the text says how to go on.
        """
        open_store(self._settings, passwords=self.files.store_passwords).close()

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ExporterError: it can't begin; the text says how to go on.
        """
        self.preflight()
        try:
            Master(self).run()
        finally:
            # Python takes its handlers away at its end; one more SIGHUP would then decide its exit status.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    def load(self) -> Service:
        """Return what a worker serves."""
        return self._service

    def _when_ready(self, arbiter: Any) -> None:
        for listener, socket in zip(self.listeners, arbiter.LISTENERS, strict=True):
            host, port = socket.sock.getsockname()[:2]
            log.info("listening", extra={"listener": listener.name, "address": f"{host}:{port}"})
        if self._settings.is_open:
            log.warning("anybody may send callbacks: set a token, require signatures or allow addresses")

    def _pre_fork(self, _arbiter: Any, _worker: Any) -> None:
        self.files.look()  # this may be long after the start


def _memory_folder() -> str | None:
    """Return a folder in memory for the worker's heartbeat: a slow disk must not look like a dead worker."""
    folder = "/dev/shm"  # noqa: S108 - gunicorn makes a private file in it and unlinks it
    return folder if os.path.isdir(folder) and os.access(folder, os.W_OK) else None
