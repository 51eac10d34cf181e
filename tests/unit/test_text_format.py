"""The exposition: the same lines as prometheus_client writes, all series from the start, golden files.

Run with UPDATE_GOLDEN=1 to update the golden files, then check the difference.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.metrics.catalogue import CATALOGUE, FAMILIES, Scope
from exporter.metrics.process import Telemetry
from exporter.protocol.events import EventKind
from exporter.store.protocol import Snapshot, StoreOptions
from exporter.store.sqlite.store import SqliteStore
from exporter.web.scrape import Exposition
from tests.unit.histories import SETTINGS, T0, callback

GOLDEN = Path(__file__).parent / "golden"
LABELS = ("appid", "to_host")
FIRST_OWN = b"# HELP css_relay_callbacks_rejected"


def exposition(*, openmetrics: bool) -> Exposition:
    """Return an exposition of one format."""
    telemetry = Telemetry(version="0", revision="0")
    return Exposition(openmetrics=openmetrics, labels=LABELS, fold_settings=SETTINGS, telemetry=telemetry)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """A store with events of every kind."""
    store = SqliteStore(tmp_path / "relay.db", StoreOptions(), clock=lambda: T0 - 10.0)
    folder = BatchApplier(SETTINGS, LABELS)
    steps = [
        (
            0.5,
            callback(
                "S", T0 + 0.25, task_id="1", to_url="rtmp://push.example.com/live/a", stream_id='a"\\\n'
            ),
        ),
        (2.0, callback("F", T0 + 1, "0", task_id="1", duration_seconds=60.0)),
        (62.5, callback("N", T0 + 61, "0", task_id="1", duration_seconds=60.0)),
        (63.0, callback("F", T0 + 62, "1", task_id="1", duration_seconds=1e7)),
        (64.0, callback("S", T0 + 63.5, task_id="2", to_host='odd"\\\nhost')),
        (65.0, callback("E", T0 + 64.5, "-22", task_id="2", to_host="")),
        (66.0, callback("A", T0 + 65, "New", task_id="1", unknown_fields=("zone", "msg.node", "tür"))),
        (67.0, callback("F", None, "0", task_id="3", to_host="")),
        (68.0, callback("N", None, "0", task_id="3", to_host="")),
        (69.0, callback("E", None, "", task_id="", to_host="")),
        (70.0, callback("S", T0 + 0.25, task_id="1")),
        (71.0, callback("S", None, task_id="x" * 200)),
    ]
    for offset, each in steps:
        arrived = BatchItem(T0 + offset, each)
        store.transact(lambda transaction, a=arrived: folder.apply([a], transaction))
    yield store
    store.close()


@pytest.fixture
def snapshot(store: SqliteStore) -> Snapshot:
    """The snapshot of that store."""
    return store.snapshot(100)


def store_part(text: bytes) -> bytes:
    """Return a scrape without the families of the process."""
    return text[: text.index(FIRST_OWN)]


@pytest.mark.parametrize(("name", "openmetrics"), [("scrape.txt", False), ("scrape.openmetrics.txt", True)])
def test_a_scrape_equals_the_golden_file(name: str, openmetrics: bool, snapshot: Snapshot) -> None:
    """Byte for byte."""
    actual = store_part(exposition(openmetrics=openmetrics).write(snapshot))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / name).write_bytes(actual)
    assert actual.decode() == (GOLDEN / name).read_text()


class ParsedFamilies(Collector):
    """The families of a scrape, parsed by prometheus_client."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """Return the families."""
        return self._families


def test_the_text_format_is_as_prometheus_client_writes_it(snapshot: Snapshot) -> None:
    """Parsed and written again, it is the same, byte for byte."""
    text = store_part(exposition(openmetrics=False).write(snapshot))
    assert generate_latest(ParsedFamilies(list(parse_text(text.decode())))) == text


def test_the_openmetrics_format_is_as_prometheus_client_writes_it(snapshot: Snapshot) -> None:
    """Units, creation times and exemplars are the same too."""
    text = store_part(exposition(openmetrics=True).write(snapshot)) + b"# EOF\n"
    families = [_with_float_times(family) for family in parse_openmetrics(text.decode())]
    assert generate_openmetrics(ParsedFamilies(families)) == text
    exemplars = [s.exemplar for f in families for s in f.samples if s.exemplar]
    assert {e.labels["task_id"] for e in exemplars} == {"1", "2", "3"}
    assert {f.unit for f in families} == {"", "seconds", "ratio"}


def _with_float_times(family: Metric) -> Metric:
    """Convert the times of exemplars; the parser's type would be written with nanoseconds."""
    family.samples = [
        s._replace(exemplar=s.exemplar._replace(timestamp=float(s.exemplar.timestamp))) if s.exemplar else s
        for s in family.samples
    ]
    return family


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_family_of_the_catalogue_is_exported_once(openmetrics: bool, snapshot: Snapshot) -> None:
    """Other families are only those of Python and the process."""
    text = exposition(openmetrics=openmetrics).write(snapshot).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len(set(names))
    ours = {name.removesuffix("_total") for name in names if name.startswith("css_relay_")}
    assert ours == {family.full_name.removesuffix("_total") for family in FAMILIES}
    assert {name for name in names if not name.startswith("css_relay_")} >= {
        "python_info",
        "process_open_fds",
    }


def test_series_known_in_advance_are_0_from_the_start(tmp_path: Path) -> None:
    """An empty store has every event, outcome, anomaly and reason."""
    store = SqliteStore(tmp_path / "empty.db", StoreOptions())
    values = {
        (s.name, tuple(sorted(s.labels.values()))): s.value
        for f in parse_text(exposition(openmetrics=False).write(store.snapshot(9)).decode())
        for s in f.samples
    }
    store.close()
    assert values["css_relay_callbacks_total", ("TaskStart", "applied")] == 0
    assert sum(name == "css_relay_callbacks_total" for name, _ in values) == 4 * (len(EventKind) + 1)
    assert values["css_relay_anomalies_total", ("missed_exit",)] == 0
    assert values["css_relay_callbacks_rejected_total", ("signature",)] == 0
    assert values["css_relay_exporter_overflowed_total", ("label_sets",)] == 0
    assert not any(name == "css_relay_last_callback_timestamp_seconds" for name, _ in values)


def test_a_label_set_has_all_its_series_from_the_first_callback(snapshot: Snapshot) -> None:
    """Counters, buckets, states and alarm types, so that the first increase is visible."""
    text = exposition(openmetrics=False).write(snapshot).decode()
    labels = 'appid="1"'
    for family in (f for f in FAMILIES if f.scope is Scope.LABELLED and f.name != "tasks_exited_total"):
        suffix = "_count" if family.kind == "histogram" else ""
        lines = [
            ln for ln in text.splitlines() if ln.startswith(family.full_name + suffix + "{") and labels in ln
        ]
        assert len(lines) == 3 * max(len(family.values), 1), family.name
    assert text.count("css_relay_tasks{") == 3 * 4


def test_a_task_has_only_the_series_of_its_state(snapshot: Snapshot) -> None:
    """A file that plays, an exit, dead air."""
    lines = exposition(openmetrics=False).write(snapshot).decode().splitlines()

    def tasks(name: str) -> list[str]:
        return [line for line in lines if line.startswith(f"css_relay_task_{name}{{")]

    assert [('task_id="1"' in line, "file" in line) for line in tasks("file_start_timestamp_seconds")] == [
        (True, True)
    ]
    assert 'task_id="1"' in tasks("file_duration_seconds")[0]
    assert [('code="-22"' in line, 'task_id="2"' in line) for line in tasks("exit_timestamp_seconds")] == [
        (True, True)
    ]
    assert ['task_id="3"' in line for line in tasks("file_finish_timestamp_seconds")] == [True]
    assert len(tasks("state")) == 4 * 4


def test_an_exemplar_is_at_most_128_characters(snapshot: Snapshot) -> None:
    """A longer task_id has none. The limit is that of OpenMetrics."""
    text = exposition(openmetrics=True).write(snapshot).decode()
    assert "x" * 200 in text
    assert '# {task_id="xxx' not in text


def calls_of(work: Callable[[], object]) -> int:
    """Return the number of function calls of some work; unlike its time, it is the same on every machine."""
    calls = 0

    def count(_frame: object, event: str, _function: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_lines_of_unchanged_records_are_not_written_again(tmp_path: Path) -> None:
    """A scrape with 100 of 10,000 tasks changed does at most a tenth of the work of the first one."""
    store = SqliteStore(tmp_path / "large.db", StoreOptions())
    folder = BatchApplier(SETTINGS, LABELS)
    writer = exposition(openmetrics=False)

    def start(numbers: range, at: float) -> None:
        arrived = [BatchItem(at, callback("S", at, task_id=f"{number}")) for number in numbers]
        store.transact(lambda transaction: folder.apply(arrived, transaction))

    def scrape() -> int:
        return calls_of(lambda: writer.write(store.snapshot(20_000)))

    start(range(10_000), T0)
    first = scrape()
    start(range(0, 10_000, 100), T0 + 600)
    with_changes, without_changes = scrape(), scrape()
    assert with_changes < first / 10
    assert without_changes < first / 100
    scrapes = [each.write(store.snapshot(20_000)) for each in (writer, exposition(openmetrics=False))]
    assert store_part(scrapes[0]) == store_part(scrapes[1])
    store.close()


def test_without_a_snapshot_only_the_families_of_the_process_are_exported() -> None:
    """The store is down: its families are left out, not exported as 0."""
    text = exposition(openmetrics=False).write(None).decode()
    assert "css_relay_exporter_store_up" in text
    assert "css_relay_tasks" not in text
    assert list(parse_openmetrics(exposition(openmetrics=True).write(None).decode()))


def test_the_families_of_the_process_have_the_help_and_type_of_the_catalogue() -> None:
    """The catalogue is the only source."""
    for family in parse_text(exposition(openmetrics=False).write(None).decode()):
        if family.name.startswith("css_relay_"):
            row = next(f for f in CATALOGUE.values() if f.full_name.removesuffix("_total") == family.name)
            assert (family.documentation, family.type) == (row.help, row.kind)
