"""What connections leave behind: nothing, however many there are and however they end."""

import os
import re
import socket
from pathlib import Path

import pytest

from tests.support import Exporter, until

REQUEST = b"GET /-/healthy HTTP/1.1\r\nHost: test\r\n\r\n"
SPARE_HANDLES = 10


def handles(exporter: Exporter) -> int:
    """Return how many file handles its worker holds."""
    return len(os.listdir(f"/proc/{exporter.worker}/fd"))


def memory(exporter: Exporter) -> float:
    """Return how much memory its worker holds, MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{exporter.worker}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def connected(exporter: Exporter) -> socket.socket:
    """Return a connection over which one request has been answered."""
    connection = socket.create_connection(("127.0.0.1", exporter.ports["web"]), timeout=15)
    connection.sendall(REQUEST)
    assert connection.recv(4096)
    return connection


def test_a_caller_that_goes_when_it_has_its_answer_holds_nothing(exporter: Exporter) -> None:
    """Also where it goes in the very moment: its file handle does not wait for another request."""
    before = handles(exporter)
    for _ in range(2000):
        connected(exporter).close()
    until(lambda: handles(exporter) <= before + SPARE_HANDLES, "handles are let go", 2.0)


@pytest.mark.slow
def test_connections_that_were_idle_leave_no_memory_behind(exporter: Exporter) -> None:
    """Nine hundred at a time, let go after some seconds: the memory of the first is used again, at once."""
    held = []
    for _ in range(5):
        connections = [connected(exporter) for _ in range(900)]
        assert [connection.recv(1) for connection in connections] == [b""] * 900
        for connection in connections:
            connection.close()
        held.append(memory(exporter))
    assert max(held[2:]) - held[1] < 0.05 * held[0], held
