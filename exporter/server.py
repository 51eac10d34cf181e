"""The server: one gunicorn master, one worker, two listeners."""

import logging
import os
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from exporter.errors import ExporterError
from exporter.listeners import read_listeners
from exporter.logs import GunicornLogger
from exporter.schemas import Schemas
from exporter.service import Service, open_store, signatures_of, tokens_of
from exporter.settings import Settings
from exporter.worker import Worker

log = logging.getLogger(__name__)

GRACE_SECONDS = 25
HEARTBEAT_SECONDS = 60


class Master(Arbiter):  # type: ignore[misc]
    """gunicorn's master, which replaces a worker only if the next one can start."""

    def handle_hup(self) -> None:
        """Reload, or go on as it is and say why."""
        try:
            self.app.rehearse()
        except ExporterError as exc:
            log.error("not reloaded, all goes on as before: %s", exc)  # noqa: TRY400 - the text says it all
        else:
            super().handle_hup()


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, set up for this program.

    Args:
        settings: everything that can be set.

    Raises:
        SettingsError: a file that the settings name can't be read or used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        listeners = read_listeners(settings)
        self._service = Service(settings, listeners.looks.current)
        #: In the order of the addresses that are bound.
        self.listeners = listeners.callbacks, listeners.web
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
        }
        if "control_socket_disable" in self.cfg.settings:  # versions before 25 have no such socket
            chosen["control_socket_disable"] = True
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def rehearse(self) -> None:
        """Do what a worker does at its start, as far as it may fail.

        Raises:
            ExporterError: a worker would not start; the text says how to go on.
        """
        schemas = Schemas()
        tokens_of(self._settings)
        signatures_of(self._settings)
        open_store(self._settings).close()
        self._service.schemas = schemas

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ExporterError: it can't begin; the text says how to go on.
        """
        self.rehearse()
        Master(self).run()

    def load(self) -> Service:
        """Return what a worker serves."""
        return self._service

    def _when_ready(self, arbiter: Any) -> None:
        for listener, socket in zip(self.listeners, arbiter.LISTENERS, strict=True):
            host, port = socket.sock.getsockname()[:2]
            log.info("listening", extra={"listener": listener.name, "address": f"{host}:{port}"})
        if self._settings.is_open:
            log.warning("anybody may send callbacks: set a token, require signatures or allow addresses")


def _memory_folder() -> str | None:
    """Return a folder in memory for the worker's heartbeat: a slow disk must not look like a dead worker."""
    folder = "/dev/shm"  # noqa: S108 - gunicorn makes a private file in it and unlinks it
    return folder if os.path.isdir(folder) and os.access(folder, os.W_OK) else None
