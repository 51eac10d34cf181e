"""A schema file, a row of the event table and its counter are all that the program needs for another event.

A copy of the project shows it.

Real processes use the new event: validation, fold, metrics, pages, documentation, simulator. A row that is
incomplete, or that names an unknown family, ends the import instead.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import HANG_SECONDS, Exporter, running

ROOT = Path(__file__).parents[2]
ROW = """    PAUSE = EventRow(
        letter="P",
        callback_event="TaskPause",
        schema="task_pause",
        subject=Subject.TEXT,
        text_fields=("reason",),
        counter="tasks_paused_total",
        label="reason",
        changes_state=False,
        description="run paused",
    )
"""
FAMILY = """    _labelled("tasks_paused_total", "Runs paused, by reason.", labels=("reason",), limit=8),
"""
SIMULATION = ("--fast", "--duration=20m", "--tasks=10", "--reorder-window=1s")


def _insert(path: Path, before: str, text: str) -> None:
    """Insert a text into a file, before the only occurrence of `before`."""
    original = path.read_text()
    assert original.count(before) == 1
    path.write_text(original.replace(before, text + before))


def _add_row(tree: Path, row: str = ROW) -> None:
    _insert(tree / "exporter" / "protocol" / "events.py", "\n    def __new__(", row)


def _add_family(tree: Path, family: str = FAMILY) -> None:
    _insert(tree / "exporter" / "metrics" / "catalogue.py", '    _labelled("config_resets_total"', family)


def _add_schema(tree: Path) -> None:
    """Write the schema of the new event, derived from the schema of TaskAlarm."""
    folder = tree / "schemas"
    schema = json.loads((folder / "task_alarm.json").read_text().replace("TaskAlarm", "TaskPause"))
    field = schema["properties"]["msg"]["properties"].pop("AlarmType")
    schema["properties"]["msg"]["properties"] = {"reason": field}
    schema |= {"$id": "urn:css-relay:task_pause", "description": "The task does not run for a while."}
    schema["examples"][0]["msg"] = {"reason": "maintenance"}
    (folder / "task_pause.json").write_text(json.dumps(schema))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return the folder of a copy of the project. Python started in it imports the copy."""
    for part in ("bench", "docs", "exporter", "schemas"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def _python(tree: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run Python in the copy."""
    return subprocess.run(
        [sys.executable, *words], cwd=tree, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )


def _pause(task_id: str, reason: str) -> bytes:
    body = {
        "appid": 1,
        "callback_event": "TaskPause",
        "event_type": 314,
        "task_id": task_id,
        "to_url": "rtmp://push.example.com/live/room",
        "msg": json.dumps({"reason": reason}),
    }
    return json.dumps(body).encode()


def test_a_schema_file_and_a_row_add_an_event(tree: Path) -> None:
    """It is validated, folded, counted, shown, documented and simulated."""
    _add_schema(tree)
    _add_row(tree)
    _add_family(tree)
    with running(tree, relay__reorder_window="1s") as exporter:
        _is_validated_and_folded(exporter)
        _is_shown(exporter)
        _is_simulated(tree, exporter)
    _is_documented(tree)


def _is_validated_and_folded(exporter: Exporter) -> None:
    assert exporter.post(_pause("t", "maintenance").replace(b"TaskPause", b"TaskStart"))[0] == 200
    assert exporter.post(_pause("t", "x" * 200))[0] == 400
    assert [exporter.post(_pause("t", "maintenance"))[0] for _ in range(2)] == [200, 200]
    scrape = exporter.scrape()
    assert scrape.value("tasks_paused_total", reason="maintenance", to_host="push.example.com") == 1
    assert scrape.value("callbacks_total", event="TaskPause", outcome="applied") == 1
    assert scrape.value("callbacks_total", event="TaskPause", outcome="duplicate") == 1
    assert scrape.value("callback_delay_seconds_bucket", event="TaskPause") == 0
    assert scrape.value("config_resets_total") == 0
    assert scrape.value("tasks", state="active") == scrape.value("tasks") == 1


def _is_shown(exporter: Exporter) -> None:
    status, _, body = exporter.get("/tasks/1/t")
    assert status == 200
    assert b"<td>run paused</td><td><bdi>maintenance</bdi></td>" in body
    assert b'<th scope="row">TaskPause</th>' in exporter.get("/")[2]


def _is_simulated(tree: Path, exporter: Exporter) -> None:
    before = exporter.scrape().value("callbacks_total", event="TaskPause", outcome="applied")
    target = f"http://127.0.0.1:{exporter.ports['callbacks']}/callbacks"
    metrics = f"http://127.0.0.1:{exporter.ports['web']}/metrics"
    done = _python(
        tree, "-m", "exporter", "simulate", f"--target={target}", f"--verify={metrics}", *SIMULATION
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert exporter.scrape().value("callbacks_total", event="TaskPause", outcome="applied") > before


def _is_documented(tree: Path) -> None:
    script = (
        "from docs import generate, openapi; print(generate.callbacks(), generate.metrics(), openapi.text())"
    )
    printed = _python(tree, "-c", script).stdout
    assert "## TaskPause" in printed
    assert "| `msg.reason` | " in printed
    assert "| `css_relay_tasks_paused_total` | counter | `reason` (at most 8) |" in printed
    assert "#/components/schemas/task_pause" in printed


WRONG_ROWS = {
    "a letter of another event": (("letter", '"A"'), "PAUSE"),
    "a name of another event": (
        ("callback_event", '"TaskAlarm"'),
        "the events ALARM and PAUSE have the same 'TaskAlarm'",
    ),
    "a family of single tasks": (
        ("counter", '"task_runs_total"'),
        "TaskPause: the catalogue has no counter task_runs_total of the fleet",
    ),
    "two letters": (("letter", '"PA"'), "TaskPause: expected one letter"),
    "a text without fields": (("text_fields", "()"), "TaskPause: text_fields are for a subject"),
    "fields without a text": (("subject", "Subject.NOTHING"), "TaskPause: text_fields are for a subject"),
    "an unknown family": (
        ("counter", '"tasks_pausd_total"'),
        "TaskPause: the catalogue has no counter",
    ),
    "a family that is not a counter": (
        ("counter", '"run_seconds"'),
        "TaskPause: the catalogue has no counter",
    ),
    "a family without that label": (
        ("label", '"cause"'),
        "TaskPause: tasks_paused_total has the labels ('reason',)",
    ),
    "no label, but a family with a label": (
        ("label", '""'),
        "TaskPause: tasks_paused_total has the labels ('reason',)",
    ),
    "a state change without a rule": (("changes_state", "True"), "changes_state=True; check TaskPause"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_a_wrong_row_ends_the_import(tree: Path, name: str) -> None:
    """The error names the event and the fault."""
    (field, value), message = WRONG_ROWS[name]
    right = next(line for line in ROW.splitlines() if line.strip().startswith(f"{field}="))
    _add_row(tree, ROW.replace(right, f"        {field}={value},"))
    _add_family(tree)
    done = _python(tree, "-c", "import exporter.ingest.batch")
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(
    "field", ["letter", "callback_event", "schema", "subject", "counter", "changes_state", "description"]
)
def test_an_incomplete_row_ends_the_import(tree: Path, field: str) -> None:
    """No field of a row has a default."""
    lines = [line for line in ROW.splitlines(keepends=True) if not line.strip().startswith(f"{field}=")]
    _add_row(tree, "".join(lines))
    done = _python(tree, "-c", "import exporter.protocol.events")
    assert f"Missing required argument '{field}'" in done.stderr


def test_a_label_without_bound_ends_the_import(tree: Path) -> None:
    """A label with values from callbacks needs a limit, because each value is a series."""
    _add_row(tree)
    _add_family(tree, FAMILY.replace(", limit=8", ""))
    done = _python(tree, "-c", "import exporter.ingest.batch")
    assert "tasks_paused_total needs values or a limit" in done.stderr


def test_a_row_without_its_schema_file_ends_the_start(tree: Path) -> None:
    """The error names the file, also if the file is of another event or lacks a field of the row."""
    _add_row(tree)
    _add_family(tree)
    check = ("-c", "from exporter.protocol.schemas import Schemas; Schemas()")
    assert "task_pause.json" in _python(tree, *check).stderr
    _add_schema(tree)
    path = tree / "schemas" / "task_pause.json"
    original = path.read_text()
    path.write_text(original.replace('"reason": {', '"cause": {'))
    assert "task_pause.json: msg has no field reason" in _python(tree, *check).stderr
    path.write_text(original.replace('"const": "TaskPause"', '"const": "TaskAlarm"'))
    message = _python(tree, *check).stderr
    assert "task_pause.json: expected callback_event to be TaskPause, not TaskAlarm" in message


def test_every_counter_of_the_fold_is_in_the_catalogue(tree: Path) -> None:
    """A misspelt family or kind of anomaly ends the import, too."""
    path = tree / "exporter" / "relay" / "counted.py"
    original = path.read_text()
    for right in ("tasks_lost_total", "missed_exit", "downtime_seconds"):
        path.write_text(original.replace(f'"{right}"', f'"{right}x"'))
        assert f"{right}x" in _python(tree, "-c", "import exporter.ingest.batch").stderr
