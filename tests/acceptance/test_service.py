"""The exporter under a service manager."""

import signal
import socket
from pathlib import Path

from tests.support import HANG_SECONDS, Exporter


def test_the_service_manager_is_notified_when_the_exporter_is_ready(tmp_path: Path) -> None:
    """With `Type=notify` systemd waits for this; after SIGTERM the status is 0."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(HANG_SECONDS)
        exporter = Exporter(tmp_path, environment={"NOTIFY_SOCKET": str(path)}).start()
        try:
            assert b"READY=1" in manager.recv(4096).split(b"\n")
            assert exporter.stop(signal.SIGTERM) == 0
        finally:
            exporter.kill()
