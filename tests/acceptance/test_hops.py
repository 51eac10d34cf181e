"""What one callback and one scrape run of this program, counted in a real process by a profile hook."""

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support import running, sample

#: Records every function of this program that the worker calls: the time, its module and its name.
HOOK = """
import os, sys, threading, time

PACKAGE = os.path.join("exporter", "")

def record(frame, event, argument):
    path = frame.f_code.co_filename
    if event == "call" and PACKAGE in path and "site-packages" not in path:
        name = frame.f_code.co_qualname.strip()
        os.write(calls, f"{time.monotonic()} {path.rpartition(PACKAGE)[2]} {name}\\n".encode())

def arm():
    sys.setprofile(record)
    threading.setprofile(record)

calls = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.register_at_fork(after_in_child=arm)
"""
#: So often each request is measured.
TIMES = 20


#: The way of a callback and of a scrape, as docs/architecture.md has it.
ARCHITECTURE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()

Function = tuple[str, str]


@pytest.mark.parametrize("kept_open", [True, False], ids=["kept open", "new connections"])
def test_a_task_start_runs_few_functions(tmp_path: Path, kept_open: bool) -> None:
    """At most 80 functions in at most 16 modules: what a reader of the code has to know to follow it."""
    with running(tmp_path, environment=hooked(tmp_path)) as exporter:
        with closing(HTTPConnection("127.0.0.1", exporter.ports["callbacks"])) as connection:

            def send(number: int) -> None:
                connection.request("POST", "/callbacks", task_start(number))
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b'{"code":0}')
                if not kept_open:
                    connection.close()

            functions = fewest(tmp_path, send)
        assert exporter.scrape().value("tasks_started_total") == TIMES
    modules = {module for module, _ in functions}
    assert 50 < len(functions) <= 80, functions
    assert 10 < len(modules) <= 16, modules
    assert hops("callback", functions) == hops("callback")


def test_a_scrape_runs_in_few_hops(tmp_path: Path) -> None:
    """Its way is the documented one."""
    with running(tmp_path, environment=hooked(tmp_path)) as exporter:
        assert exporter.post(task_start(0))[0] == 200
        functions = fewest(tmp_path, lambda number: exporter.scrape())
    assert hops("scrape", functions) == hops("scrape")


def hops(way: str, functions: list[Function] | None = None) -> list[str]:
    """Return the documented modules of a way, in the documented order or in that of their first functions."""
    found = re.search(rf"^{way} ((?:.|\n )*)", ARCHITECTURE, re.MULTILINE)
    assert found is not None
    documented = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", found[1])
    if functions is None:
        return documented
    ran = [module.removesuffix(".py").replace("/", ".") for module, _ in functions]
    return sorted(documented, key=ran.index)


def hooked(folder: Path) -> dict[str, str]:
    """Return the environment of an exporter with the hook."""
    (folder / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "CALLS": str(folder / "calls")}


def task_start(number: int) -> bytes:
    """Return the documented TaskStart, of another task for each number."""
    now = time.time()
    callback = json.loads(sample("documented/task_start"))
    callback |= {"task_id": str(number), "event_time": int(now)}
    callback["msg"] = json.dumps({"task_start_time": int(now * 1000)})
    return json.dumps(callback).encode()


def fewest(folder: Path, work: Callable[[int], object]) -> list[Function]:
    """Do the work several times; return the functions of the time with the fewest, in order of their calls.

    At the other times the exporter may sweep, or check its files.
    """
    times = []
    for number in range(TIMES):
        begun = time.monotonic()
        work(number)
        # The connection is idle again a moment after the client has the answer.
        times.append((begun, time.monotonic() + 0.003))
        time.sleep(0.13)
    calls = [line.split(" ", 2) for line in (folder / "calls").read_text().splitlines()]
    found = [
        list(dict.fromkeys((module, name) for at, module, name in calls if begun <= float(at) <= end))
        for begun, end in times
    ]
    return min(filter(None, found), key=len)
