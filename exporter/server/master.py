"""The server: one gunicorn master with one worker and two listeners."""

import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from exporter.server.listener import Listener
from exporter.server.worker import Worker, WorkerService

log = logging.getLogger(__name__)

#: A stopping master kills its worker after this time. It is longer than the worker's DRAIN_SECONDS.
GRACE_SECONDS = 25
#: The master kills a worker without a heartbeat for this long. Long, so that a busy machine causes no kill.
WORKER_TIMEOUT_SECONDS = 60


class Master(Arbiter):  # type: ignore[misc]
    """gunicorn's master. SIGHUP does not replace its worker, so that connections stay open."""

    def handle_hup(self) -> None:
        """Pass SIGHUP on to the worker, which reloads its files."""
        self.kill_workers(signal.SIGHUP)


class Server(BaseApplication):  # type: ignore[misc]
    """A gunicorn server with the settings of this program."""

    def __init__(self, listeners: Sequence[Listener], service: WorkerService) -> None:
        self.listeners = listeners
        self._service = service
        super().__init__()

    def load_config(self) -> None:
        """Set the settings that differ from gunicorn's defaults."""
        memory = "/dev/shm"  # noqa: S108 - gunicorn makes a private file in it and unlinks it
        has_memory = os.path.isdir(memory) and os.access(memory, os.W_OK)
        chosen = {
            "bind": [listener.address for listener in self.listeners],
            "worker_class": Worker,
            "workers": 1,  # all callbacks share one group commit
            "backlog": 4096,  # connections that wait while the worker is busy or restarts
            "logger_class": GunicornLogger,
            "accesslog": None,  # requests are counted as metrics
            # For the heartbeat file: a slow disk must not look like a dead worker.
            "worker_tmp_dir": memory if has_memory else None,
            "graceful_timeout": GRACE_SECONDS,
            "timeout": WORKER_TIMEOUT_SECONDS,
            "when_ready": self._when_ready,
            # A worker that replaces another one may start long after the master read the files.
            "pre_fork": lambda arbiter, worker: self._service.reload(),
        }
        if "control_socket_disable" in self.cfg.settings:  # versions before 25 have no control socket
            chosen["control_socket_disable"] = True
        for name, value in chosen.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until a signal stops the server; raise ExporterError if it can't start."""
        # In the master, before it forks: an error is reported once, and no worker is started in vain.
        self._service.check_start()
        try:
            Master(self).run()
        finally:
            # Python removes its signal handlers when it exits. One more SIGHUP would then kill the process
            # and change its exit status.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    def load(self) -> WorkerService:
        """Return the service, which the worker gets as its `wsgi`."""
        return self._service

    def _when_ready(self, arbiter: Any) -> None:
        for listener, socket in zip(self.listeners, arbiter.LISTENERS, strict=True):
            host, port = socket.sock.getsockname()[:2]
            log.info("listening", extra={"listener": listener.name, "address": f"{host}:{port}"})


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's log. Its lines go through the handler of the root logger, which formats and redacts them."""

    def setup(self, cfg: Any) -> None:
        """Pass all lines on to the root logger."""
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True
        # At level info gunicorn reports its own start and workers: more than an operator needs.
        self.error_log.setLevel(max(logging.getLogger().level, logging.WARNING))
