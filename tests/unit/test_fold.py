"""The rules of the fold, as stories: what came when, what is told of it, and where the task then stands.

A story's steps are (arrival, event, time, subject): offsets in seconds from T0; a time of None means that the
callback states none. Tales are told in the shorthand of SHORT; what only time tells comes after the end.
"""

import pytest
from msgspec.structs import replace

from exporter.relay import (
    FoldSettings,
    Task,
    fold,
    is_forgotten,
    next_due,
    settle,
    state_of,
    with_counters_reset,
)
from exporter.relay.deduplication import MAX_IDENTITIES, Verdict
from exporter.relay.fold import MAX_LOG
from exporter.relay.task import forgotten_at
from exporter.store.records import decode_task, encode
from tests.unit.histories import T0, WINDOWS, Delivery, callback, counters, deliver, gauges

SHORT = {
    "tasks_started_total": "start",
    "tasks_restarted_total": "restart",
    "tasks_exited_total": "exit",
    "tasks_failed_total": "fail",
    "tasks_lost_total": "lost",
    "files_started_total": "file",
    "files_played_total": "played",
    "files_interrupted_total": "interrupted",
    "alarms_total": "alarm",
    "config_resets_total": "reset",
    "start_to_file_latency_seconds": "latency",
    "file_gap_seconds": "gap",
    "file_play_seconds": "play",
    "file_play_ratio": "ratio",
    "run_seconds": "run",
    "downtime_seconds": "down",
    "callback_delay_seconds": "delay",
}

Step = tuple[float, str, float | None, str]


def delivery(step: Step, length: float = 600.0) -> Delivery:
    """Return the delivery that a step of a story stands for."""
    arrival, letter, time, subject = step
    at = None if time is None else T0 + time
    return Delivery(
        callback(letter, at, subject, duration_seconds=length if letter in "FN" else 0.0), T0 + arrival
    )


def told(
    steps: list[Step], windows: FoldSettings = WINDOWS, length: float = 600.0
) -> tuple[dict[str, float], str, str]:
    """Return how often each thing is told, delays apart, and the state, and the outcomes in order."""
    result = deliver([delivery(step, length) for step in steps], windows)
    short: dict[str, float] = {}
    for (name, label), number in result.counts.items():
        if name != "callback_delay_seconds":
            key = label if name == "anomalies_total" else SHORT[name]
            short[key] = short.get(key, 0) + number
    task = Task(appid=1, task_id="t")
    outcomes = ""
    for step in steps:
        d = delivery(step, length)
        folded = fold(task, d.callback, d.arrival, windows)
        task, outcomes = folded.task, outcomes + folded.verdict.value[0]
    return short, state_of(result.task, windows), outcomes


STORIES: dict[str, tuple[list[Step], dict[str, int], str, str]] = {
    # --- callbacks without a time: the task's state tells -------------------------------------------------
    "a live task starts": ([(0, "S", None, "")], {"start": 1}, "active", "a"),
    "a start is sent again while nothing has happened": (
        [(0, "S", None, ""), (60, "S", None, ""), (3600, "S", None, "")],
        {"start": 1},
        "active",
        "add",
    ),
    "a start after the retry window begins another run": (
        [(0, "S", None, ""), (3601, "S", None, "")],
        {"start": 2, "restart": 1, "missed_exit": 1},
        "active",
        "aa",
    ),
    "a start after a file has finished begins another run": (
        [(0, "S", None, ""), (1, "F", None, "0"), (601, "N", None, "0"), (700, "S", None, "")],
        {
            "start": 2,
            "restart": 1,
            "missed_exit": 1,
            "file": 1,
            "played": 1,
            "latency": 1,
            "play": 1,
            "ratio": 1,
        },
        "active",
        "aaaa",
    ),
    "a file is sent again while it plays": (
        [(0, "S", None, ""), (1, "F", None, "0"), (61, "F", None, "0"), (600, "F", None, "0")],
        {"start": 1, "file": 1, "latency": 1},
        "active",
        "aadd",
    ),
    "the same file begins again when its length has passed": (
        [(0, "S", None, ""), (1, "F", None, "0"), (602, "F", None, "0")],
        {"start": 1, "file": 2, "latency": 1, "missed_finish": 1},
        "active",
        "aaa",
    ),
    "a looping playlist of one file counts every round": (
        [(0, "S", None, "")]
        + [(1 + 601 * i + o, e, None, "0") for i in range(5) for o, e in ((0, "F"), (600, "N"))],
        {"start": 1, "file": 5, "played": 5, "latency": 1, "gap": 4, "play": 5, "ratio": 5},
        "active",
        "a" + "aa" * 5,
    ),
    "a finish is sent again": (
        [
            (0, "F", None, "0"),
            (600, "N", None, "0"),
            (660, "N", None, "0"),
            (661, "F", None, "1"),
            (720, "N", None, "0"),
        ],
        {"file": 2, "played": 1, "play": 1, "ratio": 1, "gap": 1, "missed_start": 1},
        "active",
        "aadad",
    ),
    "a finish of the last file after the retry window counts": (
        [(0, "F", None, "0"), (600, "N", None, "0"), (4201, "N", None, "0")],
        {"file": 1, "played": 2, "play": 1, "ratio": 1, "missed_start": 1},
        "active",
        "aaa",
    ),
    "an exit is sent again": (
        [(0, "S", None, ""), (9, "E", None, "-22"), (69, "E", None, "-22"), (130, "E", None, "-22")],
        {"start": 1, "exit": 1, "fail": 1, "run": 1},
        "failed",
        "aadd",
    ),
    "an exit with another code is another exit": (
        [(0, "S", None, ""), (9, "E", None, "-22"), (10, "E", None, "0")],
        {"start": 1, "exit": 2, "fail": 1, "run": 1, "missed_start": 1},
        "stopped",
        "aaa",
    ),
    "an exit after a new start is a new one": (
        [(0, "S", None, ""), (9, "E", None, "-22"), (20, "S", None, ""), (30, "E", None, "-22")],
        {"start": 2, "restart": 1, "exit": 2, "fail": 2, "run": 2, "down": 1},
        "failed",
        "aaaa",
    ),
    "an equal alarm within two minutes is a redelivery": (
        [
            (0, "S", None, ""),
            (1, "A", None, "x"),
            (121, "A", None, "x"),
            (122, "A", None, "x"),
            (122, "A", None, "y"),
        ],
        {"start": 1, "alarm": 3},
        "active",
        "aadaa",
    ),
    "a reset is told like an alarm": (
        [(0, "S", None, ""), (1, "R", None, ""), (9, "R", None, ""), (200, "R", None, "")],
        {"start": 1, "reset": 2},
        "active",
        "aada",
    ),
    # --- callbacks with a time: their identity tells ------------------------------------------------------
    "a run in order": (
        [(0.5, "S", 0.4, ""), (2, "F", 2, "0"), (602, "N", 602, "0"), (603, "E", 603.1, "0")],
        {"start": 1, "file": 1, "played": 1, "exit": 1, "latency": 1, "play": 1, "ratio": 1, "run": 1},
        "stopped",
        "aaaa",
    ),
    "everything again within the retry window": (
        [
            (i, e, t, s)
            for i in (3, 400, 3600)
            for e, t, s in (("S", 0.4, ""), ("F", 2, "0"), ("E", 2.9, "-5"))
        ],
        {"start": 1, "file": 1, "exit": 1, "fail": 1, "latency": 1, "run": 1, "interrupted": 1},
        "failed",
        "aaa" + "d" * 6,
    ),
    "the same exit after the retry window is stale": (
        [(3, "S", 0.4, ""), (4, "E", 3.5, "-5"), (3700, "E", 3.5, "-5")],
        {"start": 1, "exit": 1, "fail": 1, "run": 1},
        "failed",
        "aas",
    ),
    "an old callback that is the newest of its task counts": (
        [(0, "S", 0, ""), (5000, "E", 1000, "0")],
        {"start": 1, "exit": 1, "run": 1},
        "stopped",
        "aa",
    ),
    "a restart in one second, told backwards": (
        [(20, "S", 10.9, ""), (21, "E", 10.1, "-5"), (22, "S", 0.0, "")],
        {"start": 2, "restart": 1, "exit": 1, "fail": 1, "run": 1, "down": 1},
        "active",
        "aaa",
    ),
    "an older callback counts without moving anything": (
        [(0, "S", 0.0, ""), (500, "E", 500.0, "0"), (900, "S", 200.5, "")],
        {"start": 2, "restart": 1, "exit": 1, "run": 1},
        "stopped",
        "aaa",
    ),
    # --- what is missing ----------------------------------------------------------------------------------
    "a file of an unknown task infers its run": (
        [(0, "F", None, "0")],
        {"file": 1, "missed_start": 1},
        "active",
        "a",
    ),
    "the start of an inferred run follows": (
        [(3, "F", 2, "0"), (60, "S", 0.3, "")],
        {"file": 1, "start": 1, "latency": 1},
        "active",
        "aa",
    ),
    "the start of an inferred run follows, and no times are stated": (
        [(3, "F", None, "0"), (4, "S", None, ""), (9, "S", None, "")],
        {"file": 1, "start": 1},
        "active",
        "aad",
    ),
    "the start of an inferred run comes after its absence was told": (
        [(3, "F", 2, "0"), (400, "S", 0.3, "")],
        {"file": 1, "start": 1, "missed_start": 1},
        "active",
        "aa",
    ),
    "the start of an inferred run comes late, while its file's finish is not settled": (
        [(3, "F", 2, "0"), (300, "N", 300, "0"), (400, "S", 0.3, ""), (401, "F", 401, "1")],
        {"file": 2, "played": 1, "play": 1, "ratio": 1, "gap": 1, "start": 1, "missed_start": 1},
        "active",
        "aaaa",
    ),
    "the start of an inferred run comes late, after an exit before it": (
        [(0, "E", 0.0, "-5"), (9, "F", 9, "0"), (400, "S", 8.0, "")],
        {"exit": 1, "fail": 1, "file": 1, "start": 1, "restart": 1, "missed_start": 2},
        "active",
        "aaa",
    ),
    "a start without a time long after an inferred run began is another": (
        [(0, "F", None, "0"), (3700, "S", None, "")],
        {"file": 1, "start": 1, "restart": 1, "missed_start": 1, "missed_exit": 1, "interrupted": 1},
        "active",
        "aa",
    ),
    "a start without a time after an inferred run has played is another": (
        [(0, "F", None, "0"), (600, "N", None, "0"), (601, "S", None, "")],
        {
            "file": 1,
            "played": 1,
            "play": 1,
            "ratio": 1,
            "start": 1,
            "restart": 1,
            "missed_start": 1,
            "missed_exit": 1,
        },
        "active",
        "aaa",
    ),
    "an exit of an unknown task makes it known": (
        [(0, "E", None, "0")],
        {"exit": 1, "missed_start": 1},
        "stopped",
        "a",
    ),
    "a run begins while the one before it has no exit": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50, "S", 50.0, "")],
        {"start": 2, "restart": 1, "file": 1, "latency": 1, "missed_exit": 1, "interrupted": 1},
        "active",
        "aaa",
    ),
    "the missing exit comes within the reorder window": (
        [(0, "S", 0.0, ""), (50, "S", 50.0, ""), (170, "E", 40.0, "-5")],
        {"start": 2, "restart": 1, "exit": 1, "fail": 1, "run": 1, "down": 1},
        "active",
        "aaa",
    ),
    "a file begins while the one before has not finished": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50, "F", 50, "1")],
        {"start": 1, "file": 2, "latency": 1, "missed_finish": 1},
        "active",
        "aaa",
    ),
    "the missing finish was only overtaken": (
        [(0, "S", None, ""), (1, "F", None, "0"), (602, "F", None, "1"), (603, "N", None, "0")],
        {"start": 1, "file": 2, "latency": 1, "played": 1},
        "active",
        "aaaa",
    ),
    "a run exits while a file plays": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50, "E", 50.5, "-5")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "fail": 1, "run": 1, "interrupted": 1},
        "failed",
        "aaa",
    ),
    "the finish follows the exit": (
        [(0, "S", None, ""), (1, "F", None, "0"), (601, "E", None, "0"), (602, "N", None, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "played": 1},
        "stopped",
        "aaaa",
    ),
    "the finish of an interrupted file comes much later and still counts": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50, "E", 50.5, "0"), (400, "N", 50, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "interrupted": 1, "played": 1},
        "stopped",
        "aaaa",
    ),
    "a finish without its start is played, without observations": (
        [(0, "S", 0.0, ""), (50, "N", 50, "0"), (51, "F", 51, "1")],
        {"start": 1, "played": 1, "file": 1, "gap": 1},
        "active",
        "aaa",
    ),
    "a finish of a file that does not play changes nothing of the one that does": (
        [(0, "S", 0.0, ""), (1, "F", 1, "1"), (50, "N", 50, "0"), (601, "N", 601, "1")],
        {"start": 1, "file": 1, "latency": 1, "played": 2, "play": 1, "ratio": 1},
        "active",
        "aaaa",
    ),
    "finishes, alarms and resets never begin a run": (
        [(0, "N", 0, "0"), (1, "A", 1, "x"), (2, "R", 2, "")],
        {"played": 1, "alarm": 1, "reset": 1},
        "none",
        "aaa",
    ),
    "a file in the second of an exit belongs to the run that ends": (
        [(0, "S", 0.0, ""), (9, "E", 9.5, "0"), (10, "F", 9, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaa",
    ),
    "a file that comes when its exit is settled does not bring the task back": (
        [(0, "S", 0.0, ""), (9, "E", 9.5, "0"), (300, "F", 9, "0")],
        {"start": 1, "file": 1, "exit": 1, "run": 1},
        "stopped",
        "aaa",
    ),
    "an inferred run exits": (
        [(0, "F", 0, "0"), (9, "E", 9.5, "0")],
        {"file": 1, "exit": 1, "missed_start": 1, "interrupted": 1},
        "stopped",
        "aa",
    ),
    "a second file of an inferred run has a gap but no latency": (
        [(0, "F", 0, "0"), (600, "N", 600, "0"), (601, "F", 601, "1")],
        {"file": 2, "played": 1, "play": 1, "ratio": 1, "gap": 1, "missed_start": 1},
        "active",
        "aaa",
    ),
    "a file begins again in the second in which it finishes": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (9, "N", 9, "0"), (9.2, "F", 9, "0"), (50, "E", 50.5, "0")],
        {"start": 1, "file": 2, "latency": 1, "played": 1, "play": 1, "ratio": 1, "gap": 1}
        | {"exit": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaaaa",
    ),
    "a run of less than a second with a file": (
        [(10.1, "S", 10.1, ""), (10.9, "E", 10.9, "0"), (11, "F", 10, "0")],
        {"start": 1, "exit": 1, "file": 1, "latency": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaa",
    ),
    "a file in the second of an exit and of the start after it belongs to the run that begins": (
        [(0, "S", 0.0, ""), (10.1, "E", 10.1, "-5"), (10.5, "S", 10.5, ""), (10.9, "F", 10, "0")],
        {"start": 2, "restart": 1, "exit": 1, "fail": 1, "run": 1, "down": 1, "file": 1, "latency": 1},
        "active",
        "aaaa",
    ),
    "a file in the second of two starts belongs to the last": (
        [(10.1, "S", 10.1, ""), (10.3, "E", 10.3, "0"), (10.6, "S", 10.6, ""), (10.9, "F", 10, "0")],
        {"start": 2, "restart": 1, "exit": 1, "run": 1, "down": 1, "file": 1, "latency": 1},
        "active",
        "aaaa",
    ),
    "a file in the second of an exit follows a finish that came before it": (
        [
            (0, "S", 0.0, ""),
            (1, "F", None, "0"),
            (10.2, "N", None, "0"),
            (10.5, "F", 10, "1"),
            (10.95, "E", 10.9, "0"),
        ],
        {"start": 1, "file": 2, "latency": 1, "played": 1, "play": 1, "ratio": 1, "gap": 1}
        | {"exit": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaaaa",
    ),
    "a finish that was overtaken by the next run's start": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50, "S", 50.0, ""), (51, "N", None, "0")],
        {"start": 2, "restart": 1, "file": 1, "latency": 1, "missed_exit": 1, "played": 1},
        "active",
        "aaaa",
    ),
    "a finish that was overtaken by the exit, within a second": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50.3, "E", 50.2, "0"), (50.6, "N", None, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "played": 1},
        "stopped",
        "aaaa",
    ),
    "a finish that follows the next start is none of the file that was interrupted": (
        [
            (0, "S", 0.0, ""),
            (1, "F", 1, "0"),
            (50.6, "E", 50.5, "0"),
            (60, "S", 60.0, ""),
            (70, "N", None, "0"),
        ],
        {"start": 2, "restart": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "down": 1}
        | {"interrupted": 1, "played": 1},
        "active",
        "aaaaa",
    ),
    "a finish that states a time after the exit is none of the file that was interrupted": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50.6, "E", 50.5, "0"), (52, "N", 52, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "interrupted": 1, "played": 1},
        "stopped",
        "aaaa",
    ),
    "finishes that were overtaken by two files": (
        [(0, "S", None, "")]
        + [(t, "F", None, s) for t, s in ((1, "0"), (602, "1"), (603, "2"))]
        + [(604, "N", None, "0"), (605, "N", None, "1")],
        {"start": 1, "file": 3, "latency": 1, "played": 2},
        "active",
        "aaaaaa",
    ),
    "a file that begins again after the exit did not finish before it": (
        [(0, "S", None, ""), (1, "F", None, "0"), (50, "E", None, "0"), (70, "F", None, "0")],
        {"start": 1, "file": 2, "latency": 1, "exit": 1, "run": 1, "interrupted": 1, "missed_start": 1},
        "active",
        "aaaa",
    ),
    "a finish is known again after another start": (
        [
            (0, "S", None, ""),
            (1, "F", None, "0"),
            (601, "N", None, "0"),
            (602, "E", None, "0"),
            (603, "N", None, "0"),
            (610, "S", None, ""),
            (611, "N", None, "0"),
        ],
        {"start": 2, "restart": 1, "file": 1, "latency": 1, "played": 1, "play": 1, "ratio": 1}
        | {"exit": 1, "run": 1, "down": 1},
        "active",
        "aaaadad",
    ),
    "a finish is known again after a run was inferred": (
        [(0, "N", None, "0"), (1, "N", None, "0"), (2, "F", None, "1"), (3, "N", None, "0")],
        {"played": 1, "file": 1, "missed_start": 1},
        "active",
        "adad",
    ),
    "the start of an inferred run comes late, in the second of its first file": (
        [(3, "F", 2, "0"), (400, "S", 2.0, "")],
        {"file": 1, "start": 1, "missed_start": 1},
        "active",
        "aa",
    ),
    "the start of an inferred run comes late, and its exit after it": (
        [(3, "F", 2, "0"), (400, "S", 0.3, ""), (500, "E", 500.0, "0")],
        {"file": 1, "start": 1, "missed_start": 1, "exit": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaa",
    ),
    "a start after the first file of an inferred run is another run's": (
        [(3, "F", 2, "0"), (400, "S", 390.0, "")],
        {"file": 1, "start": 1, "restart": 1, "missed_start": 1, "missed_exit": 1, "interrupted": 1},
        "active",
        "aa",
    ),
    "a start in the second of a settled run's end comes when another was inferred": (
        [(0.2, "S", 0.1, ""), (0.6, "E", 0.5, "0"), (300, "F", 300, "0"), (320, "S", 0.9, "")],
        {"start": 2, "restart": 1, "exit": 1, "run": 1, "down": 1, "file": 1, "latency": 1},
        "active",
        "aaaa",
    ),
    "an exit comes late, in the second of what is settled": (
        [(0.2, "S", 0.1, ""), (250, "E", 0.9, "0")],
        {"start": 1, "exit": 1, "run": 1},
        "stopped",
        "aa",
    ),
    "an exit comes after a later finish is settled": (
        [(0, "S", 0.0, ""), (300, "N", 300, "0"), (520, "E", 250.0, "0")],
        {"start": 1, "played": 1, "exit": 1, "run": 1},
        "stopped",
        "aaa",
    ),
    # --- exactly at a bound -------------------------------------------------------------------------------
    "a start without a time is an inferred run's for just the retry window": (
        [(0, "F", None, "0"), (3600, "S", None, "")],
        {"file": 1, "start": 1, "missed_start": 1},
        "active",
        "aa",
    ),
    "the same file begins again when just its length has passed": (
        [(0, "S", None, ""), (1, "F", None, "0"), (601, "F", None, "0")],
        {"start": 1, "file": 2, "latency": 1, "missed_finish": 1},
        "active",
        "aaa",
    ),
    "an exit without a time is known again for just the retry window": (
        [(0, "S", None, ""), (9, "E", None, "0"), (3609, "E", None, "0"), (3609.1, "E", None, "0")],
        {"start": 1, "exit": 2, "run": 1, "missed_start": 1},
        "stopped",
        "aada",
    ),
    "an exit with a time is known again for just the retry window": (
        [(0, "S", 0.0, ""), (9, "E", 8.5, "0"), (3609, "A", 3600, "x"), (3609, "E", 8.5, "0")],
        {"start": 1, "exit": 1, "run": 1, "alarm": 1},
        "stopped",
        "aaad",
    ),
    "what is older than the newest counts for just the retry window": (
        [(100, "S", 100.0, ""), (3650, "A", 50, "x"), (3651, "A", 50, "y")],
        {"start": 1, "alarm": 1},
        "active",
        "aas",
    ),
    "a start and its file that come at once": (
        [(0, "S", None, ""), (0, "F", None, "0")],
        {"start": 1, "file": 1, "latency": 1},
        "active",
        "aa",
    ),
    "a start without a time after a finish that came with the one before it": (
        [(4, "F", 1, "0"), (5, "S", 0.5, ""), (5, "N", 3, "0"), (6, "S", None, "")],
        {"file": 1, "start": 1, "latency": 1, "played": 1, "play": 1, "ratio": 1},
        "active",
        "aaad",
    ),
    "a clock that is just 2 s ahead, and one that is less": (
        [(0, "S", 2.0, ""), (50, "E", 51.9, "0")],
        {"start": 1, "clock_skew": 1, "exit": 1, "run": 1},
        "stopped",
        "aa",
    ),
    "times that are just 60 s ahead or just lost-after old can be": (
        [
            (0, "S", 60.0, ""),
            (1, "A", 61, "x"),
            (2, "A", 2 - 31 * 86400, "y"),
            (3, "E", 3.0 - 31 * 86400, "0"),
        ],
        {"start": 1, "clock_skew": 2, "alarm": 1},
        "active",
        "aass",
    ),
    # --- times that can't be ------------------------------------------------------------------------------
    "a clock that is 2 to 60 s ahead": (
        [(0, "S", 3.0, ""), (70, "E", 131.0, "0")],
        {"start": 1, "clock_skew": 1, "exit": 1, "bad_time": 1, "run": 1},
        "stopped",
        "aa",
    ),
    "a time beyond lost-after is no time": (
        [(0, "S", -32 * 86400.0, "")],
        {"start": 1, "bad_time": 1},
        "active",
        "a",
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str) -> None:
    """What came, what is told of it, where the task then stands, and what became of each callback."""
    steps, tales, state, outcomes = STORIES[name]
    actual, actual_state, actual_outcomes = told(steps)
    assert (actual, actual_state, actual_outcomes) == (tales, state, outcomes)


def at_once(steps: list[Step]) -> list[tuple[str, float]]:
    """Return what is told on the spot, without what only time tells."""
    task = Task(appid=1, task_id="t")
    tales: list[tuple[str, float]] = []
    for step in steps:
        d = delivery(step)
        folded = fold(task, d.callback, d.arrival, WINDOWS)
        task = folded.task
        tales += [
            (SHORT[n], round(v, 3)) for n, _, v in folded.measurements if n in SHORT and SHORT[n] != "delay"
        ]
    return tales


def test_durations_between_prompt_callbacks_are_told_at_once_and_by_arrival() -> None:
    """A latency shows in the next scrape, to the millisecond."""
    tales = at_once(
        [(0.25, "S", 0.2, ""), (1.75, "F", 1, "0"), (600.0, "N", 599, "0"), (600.5, "F", 600, "1")]
    )
    assert ("latency", 1.5) in tales
    assert ("play", 598.25) in tales
    assert ("ratio", round(598.25 / 600, 3)) in tales
    assert ("gap", 0.5) in tales


def test_a_late_callback_is_measured_by_event_times_when_nothing_can_come_between() -> None:
    """More than 5 s late: whole seconds between event times, told after the reorder window."""
    steps: list[Step] = [(0.25, "S", 0.2, ""), (62.0, "F", 2, "0")]
    assert "latency" not in dict(at_once(steps))
    result = deliver([delivery(step) for step in steps])
    assert result.durations["start_to_file_latency_seconds", 2.0] == 1


def test_a_duration_that_can_not_be_known_is_not_told() -> None:
    """One callback came late, the other states no time."""
    result = deliver([delivery(step) for step in [(100.0, "S", 0.2, ""), (101.0, "F", None, "0")]])
    assert not result.durations


def test_a_ratio_needs_a_length() -> None:
    """A length of 0 is unknown."""
    steps: list[Step] = [(0, "S", 0, ""), (1, "F", 1, "0"), (9, "N", 9, "0")]
    assert "ratio" not in told(steps, length=0.0)[0]


def test_what_is_missing_is_told_only_when_the_reorder_window_has_passed() -> None:
    """Not a moment before, within a second after, and only once."""
    task = fold(Task(appid=1, task_id="t"), callback("F", subject="0"), T0 + 0.25, WINDOWS).task
    assert settle(task, T0 + 180.2, WINDOWS).measurements == ()
    settled = settle(task, T0 + 181.25, WINDOWS)
    assert settled.measurements == (("anomalies_total", "missed_start", 1),)
    assert settle(settled.task, T0 + 182.0, WINDOWS).measurements == ()
    assert T0 + 180.25 <= next_due(task, WINDOWS) <= T0 + 181.25


def test_an_active_task_is_lost_after_a_long_silence_and_comes_back_with_a_start() -> None:
    """Live sources say nothing while all is well, so that it takes long."""
    task = fold(Task(appid=1, task_id="t"), callback("S", T0), T0, WINDOWS).task
    quiet = T0 + WINDOWS.lost_after
    assert state_of(settle(task, quiet - 1, WINDOWS).task, WINDOWS) == "active"
    lost = settle(task, quiet, WINDOWS)
    assert lost.measurements == (("tasks_lost_total", "", 1),)
    assert state_of(lost.task, WINDOWS) == "lost"
    # Lost after 31 days, it is forgotten 7 days after that, not 7 days after it was last heard of.
    assert WINDOWS.lost_after > WINDOWS.forget_after
    assert forgotten_at(lost.task, WINDOWS) == next_due(lost.task, WINDOWS) == quiet + WINDOWS.forget_after
    back = fold(lost.task, callback("S", quiet + 9), quiet + 9, WINDOWS)
    assert state_of(back.task, WINDOWS) == "active"
    assert ("tasks_restarted_total", "", 1) in back.measurements
    late = fold(lost.task, callback("E", quiet + 9, "0"), quiet + 9, WINDOWS).task
    assert state_of(late, WINDOWS) == "stopped"
    assert settle(late, quiet + 300, WINDOWS).measurements == ()


@pytest.mark.parametrize("finished", [False, True])
def test_an_inferred_run_is_lost_when_its_file_must_be_over(*, finished: bool) -> None:
    """Without another callback for the file's length plus the retry window."""
    task = fold(
        Task(appid=1, task_id="t"), callback("F", subject="0", duration_seconds=600.0), T0, WINDOWS
    ).task
    heard = T0
    if finished:
        heard += 600
        task = fold(task, callback("N", subject="0", duration_seconds=600.0), heard, WINDOWS).task
    assert not settle(task, heard + 4199, WINDOWS).task.current.lost
    assert settle(task, heard + 4200, WINDOWS).task.current.lost


@pytest.mark.parametrize(("code", "after"), [("0", 3600.0), ("-22", 7 * 86400.0)])
def test_a_task_is_forgotten_when_its_redeliveries_can_come_no_more(code: str, after: float) -> None:
    """Stopped ones after an hour, failed ones after a week, active ones never."""
    start = fold(Task(appid=1, task_id="t"), callback("S", T0), T0, WINDOWS).task
    task = fold(start, callback("E", T0 + 9, code), T0 + 9, WINDOWS).task
    settled = settle(task, T0 + 300, WINDOWS).task
    assert not is_forgotten(settled, T0 + 9 + after - 1, WINDOWS)
    assert is_forgotten(settled, T0 + 9 + after, WINDOWS)
    assert not is_forgotten(settle(start, T0 + 300, WINDOWS).task, T0 + 1e9, WINDOWS)


def test_a_sender_that_keeps_one_start_time_for_all_runs_is_told_as_a_time_conflict() -> None:
    """With an exit between the two event_times it is a run of its own; without one, a redelivery."""
    first = callback("S", T0 + 0.5)
    again = replace(first, event_time_seconds=T0 + 90)
    exit_ = callback("E", T0 + 60, "-5")
    redelivered = deliver([Delivery(first, T0 + 1), Delivery(again, T0 + 91)])
    assert redelivered.outcomes == {"applied": 1, "duplicate": 1}
    after_older_exit = deliver(
        [
            Delivery(first, T0 + 1),
            Delivery(exit_, T0 + 61),
            Delivery(replace(first, event_time_seconds=T0 + 59), T0 + 91),
        ]
    )
    assert after_older_exit.outcomes["duplicate"] == 1
    history = [
        Delivery(first, T0 + 1),
        Delivery(exit_, T0 + 61),
        Delivery(again, T0 + 91),
        Delivery(again, T0 + 160),
    ]
    result = deliver([*history, Delivery(first, T0 + 170)])
    assert result.counts["anomalies_total", "time_conflict"] == 1
    assert result.outcomes == {"applied": 3, "duplicate": 2}
    assert result.task.current.start is not None
    assert result.task.current.start.ms == (T0 + 90) * 1000
    assert result.task.runs == 2
    assert state_of(result.task, WINDOWS) == "active"


def test_a_time_in_milliseconds_that_can_not_be_gives_way_to_event_time() -> None:
    """Told as a bad time all the same."""
    result = deliver([Delivery(callback("S", T0, stated_ms=T0), T0 + 1.0)])
    assert result.counts["anomalies_total", "bad_time"] == 1
    assert result.task.current.start is not None
    assert result.task.current.start.ms == T0 * 1000


def test_what_is_remembered_of_a_task_is_bounded_and_what_was_given_up_can_not_count_twice() -> None:
    """Past the bound the oldest identities go; what claims to be older then is stale."""
    history = [callback("N", T0 + i, "0") for i in range(MAX_IDENTITIES + 100)]
    deliveries = [Delivery(c, T0 + 900 + i / 100) for i, c in enumerate(history)]
    result = deliver([*deliveries, *[Delivery(c, T0 + 1000) for c in history]])
    assert len(result.task.identities) <= MAX_IDENTITIES
    assert len(result.task.log) <= MAX_LOG
    assert result.counts["files_played_total", ""] == len(history)
    assert result.outcomes["stale"] + result.outcomes["duplicate"] == len(history)
    assert result.outcomes["stale"] == 100


def test_a_log_that_is_full_is_settled_from_its_old_end() -> None:
    """More callbacks than the log holds, within the reorder window: nothing is lost."""
    files = [d for i in range(MAX_LOG) for d in ((2 * i, "F"), (2 * i + 1, "N"))]
    history = [
        Delivery(callback(letter, T0 + i / 2, str(i // 2), duration_seconds=1.0), T0 + i / 2)
        for i, letter in files
    ]
    result = deliver([Delivery(callback("S", T0), T0), *history])
    assert result.counts["files_played_total", ""] == MAX_LOG
    assert result.counts["anomalies_total", "missed_finish"] == 0
    assert gauges(result)[0]


def test_a_redelivery_changes_nothing_but_what_was_due() -> None:
    """Its task is the same object."""
    task = fold(Task(appid=1, task_id="t"), callback("S", T0), T0, WINDOWS).task
    again = fold(task, callback("S", T0), T0 + 1, WINDOWS)
    assert again.task is task
    assert again.verdict is Verdict.DUPLICATE
    assert again.measurements == ()


def test_what_a_callback_lacks_stays_as_it_was() -> None:
    """An exit without a destination does not wipe the task's."""
    task = fold(Task(appid=1, task_id="t"), callback("S", T0, to_url="rtmp://a/b"), T0, WINDOWS).task
    task = fold(task, callback("E", T0 + 1, "0", to_host=""), T0 + 1, WINDOWS).task
    assert (task.to_host, task.to_url) == ("push.example.com", "rtmp://a/b")


def test_files_of_one_second_take_their_order_from_what_they_are() -> None:
    """Finish of what played, start of the next, a file shorter than a second: in any order of arrival."""
    steps = [
        ("S", 0.1, ""),
        ("F", 0, "0"),
        ("N", 9, "0"),
        ("F", 9, "1"),
        ("N", 9, "1"),
        ("F", 9, "2"),
        ("E", 20.0, "0"),
    ]
    orders = [steps, steps[::-1], steps[3:] + steps[:3]]
    results = [
        deliver([delivery((30.0 + i, e, t, s)) for i, (e, t, s) in enumerate(order)], until=T0 + 999.0)
        for order in orders
    ]
    assert counters(results[0]) == counters(results[1]) == counters(results[2])
    assert results[0].counts["files_interrupted_total", ""] == 1
    assert ("anomalies_total", "missed_finish") not in results[0].counts


def test_starts_and_exits_of_one_second_without_milliseconds_go_by_arrival() -> None:
    """Nothing else tells them apart."""
    whole = {"stated_ms": None}
    start, exit_ = callback("S", T0, **whole), callback("E", T0, "0", **whole)
    assert state_of(deliver([Delivery(start, T0 + 1), Delivery(exit_, T0 + 2)]).task, WINDOWS) == "stopped"
    assert state_of(deliver([Delivery(exit_, T0 + 1), Delivery(start, T0 + 2)]).task, WINDOWS) == "active"


def test_the_newest_exit_says_why_whatever_comes_when() -> None:
    """By event time: a late exit, a redelivery, and one that is older than what is settled change nothing."""
    exits = [
        Delivery(callback("E", T0 + at, "-22", message=f"at {at}"), T0 + arrival)
        for at, arrival in ((50, 60), (20, 70), (50, 80), (30, 400))
    ]
    for part in (exits[:1], exits[:2], exits[:3], exits):
        last = deliver(part).task.current.exit
        assert last is not None
        assert last.message == "at 50"


def test_a_record_of_before_the_messages_is_read() -> None:
    """Fields are only ever added at the end of a record."""
    task = deliver([delivery((0, "S", 0, "")), delivery((9, "E", 9, "-22"))]).task
    old = encode(task).replace(',""]', "]")
    assert old != encode(task)
    assert decode_task(old) == task


def test_a_redelivery_is_told_although_the_clock_was_set_back_since() -> None:
    """Its time is now one that can't be true yet; but it was counted when it could."""
    for letter in "SFNEA":
        told = callback(letter, T0, "x")
        first = fold(Task(appid=1, task_id="t"), told, T0 + 1.0, WINDOWS)
        again = fold(first.task, told, T0 - 7200.0, WINDOWS)
        assert (first.verdict, again.verdict) == (Verdict.APPLIED, Verdict.DUPLICATE), letter
        assert again.measurements == ()


def test_a_new_generation_has_nothing_left_to_tell() -> None:
    """Where the task stands stays, and so do its identities; what was pending is told no more."""
    task = Task(appid=1, task_id="t")
    for letter, at in (("S", T0), ("F", T0 + 1), ("E", T0 + 9)):
        task = fold(task, callback(letter, at, "0"), at + 0.5, WINDOWS).task
    new = with_counters_reset(task)
    assert (new.identities, new.runs, new.log) == (task.identities, 0, ())
    assert state_of(new, WINDOWS) == state_of(task, WINDOWS) == "stopped"
    later = settle(new, T0 + 1000.0, WINDOWS)
    assert (later.task, later.measurements) == (new, ())
    assert with_counters_reset(new) == new
    assert fold(new, callback("E", T0 + 9, "0"), T0 + 60.0, WINDOWS).verdict is Verdict.DUPLICATE
    begun = fold(new, callback("S", T0 + 60), T0 + 60.0, WINDOWS)
    assert begun.task.runs == 1
    assert ("tasks_restarted_total", "", 1) in begun.measurements


def test_a_file_of_unknown_length_that_comes_again_is_a_redelivery() -> None:
    """Without a time and without a length nothing tells that it is over, but its finish."""
    again: list[Step] = [(0, "S", None, ""), (1, "F", None, "0"), (61, "F", None, "0")]
    assert told(again, length=0.0)[2] == "aad"
    round_: list[Step] = [(0, "S", None, ""), (1, "F", None, "0"), (61, "N", None, "0"), (62, "F", None, "0")]
    assert told(round_, length=0.0)[2] == "aaaa"


def test_a_start_that_comes_after_its_runs_first_finish_can_come_again() -> None:
    """What finished before it came says nothing of whether it is a redelivery."""
    steps: list[Step] = [(0, "F", None, "0"), (-1, "N", 0, "0"), (6, "S", None, ""), (7, "S", None, "")]
    assert told(steps)[2] == "aaad"
