"""What one callback and one scrape run of this program, counted in a real process by a profile hook."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import Exporter, running, sample

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
#: So often each request is measured: others may run at the same time as a sweep or a heartbeat.
TIMES = 20


def test_a_task_start_runs_few_functions(tmp_path: Path) -> None:
    """At most 80 functions in at most 16 modules: what a reader of the code has to know to follow it."""
    with running(tmp_path, environment=hooked(tmp_path)) as exporter:
        functions = fewest(tmp_path, lambda number: start(exporter, number))
        assert exporter.scrape().value("tasks_started_total") == TIMES
    modules = {module for module, _ in functions}
    assert 50 < len(functions) <= 80, sorted(functions)
    assert 10 < len(modules) <= 16, sorted(modules)


def test_a_scrape_runs_few_functions(tmp_path: Path) -> None:
    """At most 60 functions in at most 12 modules."""
    with running(tmp_path, environment=hooked(tmp_path)) as exporter:
        start(exporter, 0)
        functions = fewest(tmp_path, lambda number: exporter.scrape())
    modules = {module for module, _ in functions}
    assert 20 < len(functions) <= 60, sorted(functions)
    assert 5 < len(modules) <= 12, sorted(modules)


def hooked(folder: Path) -> dict[str, str]:
    """Return the environment of an exporter with the hook."""
    (folder / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "CALLS": str(folder / "calls")}


def start(exporter: Exporter, number: int) -> None:
    """Send the documented TaskStart, of another task each time."""
    now = time.time()
    callback = json.loads(sample("documented/task_start"))
    callback |= {"task_id": str(number), "event_time": int(now)}
    callback["msg"] = json.dumps({"task_start_time": int(now * 1000)})
    assert exporter.post(json.dumps(callback).encode())[0] == 200


def fewest(folder: Path, work: Callable[[int], object]) -> set[tuple[str, str]]:
    """Do the work several times; return the functions, as module and name, that ran at the time with the fewest."""
    times = []
    for number in range(TIMES):
        begun = time.monotonic()
        work(number)
        # The connection is idle again a moment after the client has the answer.
        times.append((begun, time.monotonic() + 0.003))
        time.sleep(0.13)
    calls = [line.split(" ", 2) for line in (folder / "calls").read_text().splitlines()]
    found = [{(m, name) for at, m, name in calls if begun <= float(at) <= end} for begun, end in times]
    return min(filter(None, found), key=len)
