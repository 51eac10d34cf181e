"""The simulator: its histories, its faults, its expected totals, and the differences that it reports."""

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from exporter.cli import parse
from exporter.config.flags import default_text, flags_of
from exporter.errors import CallbackError, SettingsError
from exporter.protocol.callback import Callback
from exporter.protocol.events import EventKind
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.simulator.command import simulate
from exporter.simulator.fleet import Event, RelayTask, fleet, true_history
from exporter.simulator.options import SimulatorSettings, read_options
from exporter.simulator.totals import Comparison, Key, TaskProgress, Totals, sample_text
from exporter.simulator.wire import CallbackWriter, Delivery, fleet_deliveries

FLEET = SimulatorSettings(
    tasks=120, duration=1800, failure_every=300, downtime=20, speed=20, untimed=0.3, fast=True
)
EVERY_FAULT = replace(
    FLEET, duplicate=0.2, reorder=0.3, nameless=0.3, unsigned=0.2, malformed=0.05, unknown=0.05
)
BATCH = 7
TASK = RelayTask(
    appid=1,
    task_id="7",
    stream_id="room",
    to_host="push.example.tv",
    to_url="rtmp://push.example.tv/live/room?txSecret=0123",
    sources=("https://origin.example.com/a",),
    files=(60,),
)


@cache
def drawn(seed: int, settings: SimulatorSettings = EVERY_FAULT) -> tuple[list[Delivery], Totals]:
    """Return the deliveries of a seed, and the expected totals."""
    totals, writer = Totals(), CallbackWriter(1_795_500_000.0, "key")
    return list(fleet_deliveries(replace(settings, seed=seed), writer, totals)), totals


def test_the_same_seed_sends_the_same_bodies() -> None:
    """Byte for byte; another seed sends other bodies."""
    first, second, third = drawn(1), drawn.__wrapped__(1), drawn(2)
    assert first[0] == second[0]
    assert first[1].counts == second[1].counts
    assert first[0] != third[0]


def test_deliveries_are_ordered_by_time() -> None:
    """Those of each channel, so also all of them."""
    deliveries, _ = drawn(1)
    assert all(a.at <= b.at for a, b in pairwise(deliveries))


def test_a_fleet_has_tasks_of_every_kind() -> None:
    """Live tasks, looping playlists, several exit codes, restarts, planned ends, alarms, shared sources."""
    channels = fleet(FLEET, BATCH, Random(1))
    assert sum(len(channel) for channel in channels) == FLEET.tasks
    assert {len(channel) for channel in channels} == {1, 3}
    assert all(len({task.sources for task in channel}) == 1 for channel in channels)
    assert {len(task.files) for channel in channels for task in channel} >= {0, 1, 2, 5}
    _, totals = drawn(1)
    seen = Counter(name for name, _ in totals.counts.elements())
    assert all(seen[f"{name}_total"] > 0 for name in ("tasks_restarted", "files_interrupted", "alarms"))
    codes = {dict(labels)["code"] for name, labels in totals.counts if name == "tasks_exited_total"}
    assert codes >= {"0", "-22", "-110"}
    assert any(("state", "stopped") in labels for name, labels in totals.counts if name == "tasks")


@pytest.mark.parametrize("seed", range(5))
def test_a_history_is_valid(seed: int) -> None:
    """Starts and exits alternate, and no two of them are in the same second."""
    for channel in fleet(FLEET, BATCH, Random(seed)):
        for task in channel:
            kinds = (EventKind.START, EventKind.EXIT)
            marks = [e for e in true_history(task, FLEET, Random(seed)) if e.kind in kinds]
            assert {e.kind for e in marks[::2]} == {EventKind.START}
            assert {e.kind for e in marks[1::2]} <= {EventKind.EXIT}
            assert all(int(b.at) > int(a.at) for a, b in pairwise(marks))


def test_every_callback_is_accepted_unless_it_is_a_fault() -> None:
    """A callback with the fault `malformed` is rejected."""
    parser = Parser(schemas=Schemas(), redactor=Redactor(key=b"k", plain_hosts=("*.myqcloud.com",)))
    deliveries, _ = drawn(1)
    for delivery in deliveries:
        if delivery.status == 400:
            with pytest.raises(CallbackError):
                parser.parse(delivery.body)
        else:
            callback = parser.parse(delivery.body)
            assert not isinstance(callback, Callback) or callback.unknown_fields == ()


def bodies_by_task(settings: SimulatorSettings) -> dict[tuple[str, bool], list[bytes]]:
    """Return the bodies by task_id, and by whether they have an event time."""
    found: dict[tuple[str, bool], list[bytes]] = {}
    for delivery in drawn(5, settings)[0]:
        body = json.loads(delivery.body)
        found.setdefault((body["task_id"], "event_time" in body), []).append(delivery.body)
    return found


def test_callbacks_without_a_time_are_not_reordered() -> None:
    """The exporter can only order them by arrival."""
    in_order = bodies_by_task(FLEET)
    shuffled = bodies_by_task(replace(FLEET, reorder=1.0))
    assert {k: v for k, v in in_order.items() if not k[1]} == {k: v for k, v in shuffled.items() if not k[1]}
    timed = [(in_order[key], shuffled[key]) for key in in_order if key[1] and len(in_order[key]) > 9]
    assert all(a != b and sorted(a) == sorted(b) for a, b in timed)


@pytest.mark.parametrize(
    "fault", ["duplicate", "reorder", "lose", "nameless", "unsigned", "malformed", "unknown"]
)
def test_a_fault_changes_what_is_sent(fault: str) -> None:
    """Each fault does; without faults nothing is changed."""
    plain, _ = drawn(6, FLEET)
    faulty, _ = drawn(6, replace(FLEET, **{fault: 0.5}))
    assert [d.body for d in faulty] != [d.body for d in plain]
    assert len({d.body for d in plain}) == len(plain)
    assert all(d.status == 200 for d in plain)


def test_a_signature_is_as_documented() -> None:
    """MD5 of the key and t, in lower-case hex; t is ten minutes after the event."""
    body = json.loads(CallbackWriter(1_795_500_000.0, "key").body(TASK, Event(EventKind.START, 0.5)))
    assert body["t"] == 1_795_500_600
    assert body["sign"] == "7866af917dbe86bffa6f87c17e8bc236"  # md5 of key1795500600


def test_totals_of_a_run_with_a_file() -> None:
    """The expected numbers are counted by hand."""
    totals = Totals()
    progress = TaskProgress(TASK, totals)
    for kind, at, code in (
        (EventKind.START, 0, 0),
        (EventKind.FILE_START, 1, 0),
        (EventKind.FILE_FINISH, 61, 0),
        (EventKind.FILE_START, 62, 0),
        (EventKind.EXIT, 70, -22),
        (EventKind.START, 80, 0),
    ):
        progress.record_event(Event(kind, at, code=code))
        totals.record_delivery(TASK, Event(kind, at, code=code))
    found = {
        name: count for (name, _), count in totals.counts.items() if name not in ("tasks", "callbacks_total")
    }
    assert found == {
        "tasks_started_total": 2,
        "tasks_restarted_total": 1,
        "tasks_exited_total": 1,
        "tasks_failed_total": 1,
        "files_started_total": 2,
        "files_played_total": 1,
        "files_interrupted_total": 1,
        "start_to_file_latency_seconds_count": 1,
        "file_gap_seconds_count": 1,
        "file_play_seconds_count": 1,
        "file_play_ratio_count": 1,
        "run_seconds_count": 1,
        "downtime_seconds_count": 1,
        "callback_delay_seconds_count": found["callback_delay_seconds_count"],
    }
    states = {dict(ls)["state"]: n for (name, ls), n in totals.counts.items() if name == "tasks" and n}
    assert states == {"active": 1}


def key(name: str, **labels: str) -> Key:
    """Return the key of a sample."""
    return name, frozenset(labels.items())


def compared(expected: dict[Key, int], after: dict[Key, float], **more: Any) -> list[str]:
    """Return the differences between expected and scraped values."""
    arguments = {"before": {}, "lossy": False, "unanswered": 0} | more
    return Comparison(expected=expected, after=after, **arguments).differences


def test_every_difference_is_reported() -> None:
    """Too high, too low, and unexpected samples; values from before the run do not matter."""
    started = key("tasks_started_total", appid="1")
    shown = {key("tasks", appid="1", state="active"): 0.0}
    assert compared({started: 2}, shown | {started: 2}) == []
    assert compared({started: 2}, shown | {started: 5}, before={started: 3}) == []
    assert compared({started: 2}, shown | {started: 3}) == [
        'css_relay_tasks_started_total{appid="1"}: expected 2, grew by 3'
    ]
    assert len(compared({started: 2}, shown)) == 1
    assert len(compared({}, shown | {key("anomalies_total", kind="missed_exit"): 1})) == 1


def test_an_unanswered_request_may_have_been_counted() -> None:
    """Its repetition is then one more duplicate; nothing else may differ."""
    duplicate = key("callbacks_total", event="TaskStart", outcome="duplicate")
    applied = key("callbacks_total", event="TaskStart", outcome="applied")
    assert compared({applied: 1}, {applied: 1, duplicate: 1}, unanswered=1) == []
    assert len(compared({applied: 1}, {applied: 1, duplicate: 2}, unanswered=1)) == 1
    assert len(compared({applied: 1}, {applied: 2}, unanswered=1)) == 1


def test_only_labels_that_are_shown_are_compared() -> None:
    """An exporter with other `--metrics.labels` can therefore be verified too."""
    expected = {
        key("tasks_started_total", appid="1", to_host="a"): 1,
        key("tasks_started_total", appid="1", to_host="b"): 2,
    }
    shown = {key("tasks", appid="1", state="active"): 0.0, key("tasks_started_total", appid="1"): 3.0}
    assert compared(expected, shown) == []
    assert sample_text(key("tasks", state="active", appid="1")) == 'css_relay_tasks{appid="1",state="active"}'


def options_of(*flags: str) -> SimulatorSettings:
    """Return the options of a simulation with these flags."""
    return read_options(vars(parse(["simulate", *flags])))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--target"),
        (["--target=ftp://a"], "--target"),
        (["--target=http://a", "--fast", "--duration=2h"], "--duration"),
        (["--target=http://a", "--fault.duplicate=2"], "--fault.duplicate"),
        (["--target=http://a", "--fault.unsigned=0.5"], "--fault.unsigned"),
        (["--target=http://a", "--verify=http://b", "--fault.lose=0.1", "--fault.untimed=0.1"], "--verify"),
        (["--target=http://a", "--speed=0"], "--speed"),
        (["--target=http://a", "--speed=nan"], "--speed"),
        (["--target=http://a", "--sped=1"], "--sped"),
    ],
)
def test_a_wrong_flag_is_named(arguments: list[str], named: str) -> None:
    """The error names the flag."""
    with pytest.raises(SettingsError, match=named):
        options_of(*arguments)


def test_a_switch_needs_no_value() -> None:
    """A value or another flag may follow it."""
    assert options_of("--target=http://a", "--fast").fast
    assert not options_of("--target=http://a", "--fast", "false").fast
    assert options_of("--fast", "--target", "http://a").fast


@pytest.mark.parametrize("field", flags_of(SimulatorSettings))
def test_every_default_is_read_as_itself(field: str) -> None:
    """A flag with its default changes nothing."""
    flag = flags_of(SimulatorSettings)[field]
    text = default_text(SimulatorSettings, field)
    if text:
        expected = options_of("--target=http://a")
        assert options_of("--target=http://a", f"--{flag.name}={text}") == expected


def test_a_key_file_must_exist_and_contain_a_key(tmp_path: Path) -> None:
    """The error names the flag."""
    (tmp_path / "empty").write_text("\n")
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(SettingsError, match="--sign-key-file"):
            simulate(options_of("--target=http://127.0.0.1:9", f"--sign-key-file={path}", "--fast"))
