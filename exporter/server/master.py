"""The server: one gunicorn master, one worker, two listeners."""

import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from exporter.server.listener import Listener
from exporter.server.worker import Served, Worker

log = logging.getLogger(__name__)

GRACE_SECONDS = 25
HEARTBEAT_SECONDS = 60


class Master(Arbiter):  # type: ignore[misc]
    """gunicorn's master, which on SIGHUP does not replace the worker."""

    def handle_hup(self) -> None:
        """Have the worker read its files again; it goes on, and so do its connections."""
        self.kill_workers(signal.SIGHUP)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, set up for this program.

    Args:
        listeners: where requests come in.
        served: gives an app for each of them, in the same order.
    """

    def __init__(self, listeners: Sequence[Listener], served: Served) -> None:
        self.listeners = listeners
        self._served = served
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        chosen = {
            "bind": [listener.address for listener in self.listeners],
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

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ExporterError: it can't begin; the text says how to go on.
        """
        self._served.preflight()
        try:
            Master(self).run()
        finally:
            # Python takes its handlers away at its end; one more SIGHUP would then decide its exit status.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    def load(self) -> Served:
        """Return what a worker serves."""
        return self._served

    def _when_ready(self, arbiter: Any) -> None:
        for listener, socket in zip(self.listeners, arbiter.LISTENERS, strict=True):
            host, port = socket.sock.getsockname()[:2]
            log.info("listening", extra={"listener": listener.name, "address": f"{host}:{port}"})

    def _pre_fork(self, _arbiter: Any, _worker: Any) -> None:
        self._served.reread()  # this may be long after the start


def _memory_folder() -> str | None:
    """Return a folder in memory for the worker's heartbeat: a slow disk must not look like a dead worker."""
    folder = "/dev/shm"  # noqa: S108 - gunicorn makes a private file in it and unlinks it
    return folder if os.path.isdir(folder) and os.access(folder, os.W_OK) else None


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's log, through this process's one handler."""

    def setup(self, cfg: Any) -> None:
        """Leave formatting to the root logger."""
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True
        self.error_log.setLevel(max(logging.getLogger().level, logging.WARNING))
