"""The rules of the fold, as scenarios: callbacks, and the measurements and the task state that follow.

A scenario has steps (arrival, event, event time, subject). Times are seconds after T0; None means that the
callback states no event time. Measurements have the short names of SHORT. They include those of the sweep
after the last step, because missing callbacks are counted only when the reorder window has passed.
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
from exporter.store.protocol import decode_task, encode
from tests.unit.histories import SETTINGS, T0, Delivery, callback, counters, deliver, gauges

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
    """Return the delivery of a step."""
    arrival, letter, time, subject = step
    at = None if time is None else T0 + time
    return Delivery(
        callback(letter, at, subject, duration_seconds=length if letter in "FN" else 0.0), T0 + arrival
    )


def measured(
    steps: list[Step], fold_settings: FoldSettings = SETTINGS, length: float = 600.0
) -> tuple[dict[str, float], str, str]:
    """Return the number of measurements by short name, without delays; the state; the outcomes in order."""
    result = deliver([delivery(step, length) for step in steps], fold_settings)
    short: dict[str, float] = {}
    for (name, label), number in result.counts.items():
        if name != "callback_delay_seconds":
            key = label if name == "anomalies_total" else SHORT[name]
            short[key] = short.get(key, 0) + number
    task = Task(appid=1, task_id="t")
    outcomes = ""
    for step in steps:
        d = delivery(step, length)
        folded = fold(task, d.callback, d.arrival, fold_settings)
        task, outcomes = folded.task, outcomes + folded.verdict.value[0]
    return short, state_of(result.task, fold_settings), outcomes


SCENARIOS: dict[str, tuple[list[Step], dict[str, int], str, str]] = {
    # --- without an event time: the state of the task shows whether a callback is a redelivery -----------
    "a live task starts": ([(0, "S", None, "")], {"start": 1}, "active", "a"),
    "a start without a time is a redelivery until something finishes or exits": (
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
    "a file start is a redelivery while the file plays": (
        [(0, "S", None, ""), (1, "F", None, "0"), (61, "F", None, "0"), (600, "F", None, "0")],
        {"start": 1, "file": 1, "latency": 1},
        "active",
        "aadd",
    ),
    "the same file starts again after its duration has passed": (
        [(0, "S", None, ""), (1, "F", None, "0"), (602, "F", None, "0")],
        {"start": 1, "file": 2, "latency": 1, "missed_finish": 1},
        "active",
        "aaa",
    ),
    "a looping playlist of one file: every round counts": (
        [(0, "S", None, "")]
        + [(1 + 601 * i + o, e, None, "0") for i in range(5) for o, e in ((0, "F"), (600, "N"))],
        {"start": 1, "file": 5, "played": 5, "latency": 1, "gap": 4, "play": 5, "ratio": 5},
        "active",
        "a" + "aa" * 5,
    ),
    "a finish is a redelivery when the file was the last to finish": (
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
    "an exit with the same code is a redelivery": (
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
    "an exit after a new start is another exit": (
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
    "an equal reset within two minutes is a redelivery": (
        [(0, "S", None, ""), (1, "R", None, ""), (9, "R", None, ""), (200, "R", None, "")],
        {"start": 1, "reset": 2},
        "active",
        "aada",
    ),
    # --- with an event time: the identity shows whether a callback is a redelivery -----------------------
    "a run in order": (
        [(0.5, "S", 0.4, ""), (2, "F", 2, "0"), (602, "N", 602, "0"), (603, "E", 603.1, "0")],
        {"start": 1, "file": 1, "played": 1, "exit": 1, "latency": 1, "play": 1, "ratio": 1, "run": 1},
        "stopped",
        "aaaa",
    ),
    "every callback again within the retry window is a redelivery": (
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
    "an old callback counts if it is the newest of its task": (
        [(0, "S", 0, ""), (5000, "E", 1000, "0")],
        {"start": 1, "exit": 1, "run": 1},
        "stopped",
        "aa",
    ),
    "an exit and a restart in the same second, delivered in reverse order": (
        [(20, "S", 10.9, ""), (21, "E", 10.1, "-5"), (22, "S", 0.0, "")],
        {"start": 2, "restart": 1, "exit": 1, "fail": 1, "run": 1, "down": 1},
        "active",
        "aaa",
    ),
    "an older callback counts, and does not change the state": (
        [(0, "S", 0.0, ""), (500, "E", 500.0, "0"), (900, "S", 200.5, "")],
        {"start": 2, "restart": 1, "exit": 1, "run": 1},
        "stopped",
        "aaa",
    ),
    # --- missing callbacks --------------------------------------------------------------------------------
    "a file start of an unknown task: the run is inferred": (
        [(0, "F", None, "0")],
        {"file": 1, "missed_start": 1},
        "active",
        "a",
    ),
    "the start of an inferred run arrives later": (
        [(3, "F", 2, "0"), (60, "S", 0.3, "")],
        {"file": 1, "start": 1, "latency": 1},
        "active",
        "aa",
    ),
    "the start of an inferred run arrives later, without event times": (
        [(3, "F", None, "0"), (4, "S", None, ""), (9, "S", None, "")],
        {"file": 1, "start": 1},
        "active",
        "aad",
    ),
    "the start of an inferred run arrives after missed_start was counted": (
        [(3, "F", 2, "0"), (400, "S", 0.3, "")],
        {"file": 1, "start": 1, "missed_start": 1},
        "active",
        "aa",
    ),
    "the start of an inferred run arrives late, while the finish of its file is not settled": (
        [(3, "F", 2, "0"), (300, "N", 300, "0"), (400, "S", 0.3, ""), (401, "F", 401, "1")],
        {"file": 2, "played": 1, "play": 1, "ratio": 1, "gap": 1, "start": 1, "missed_start": 1},
        "active",
        "aaaa",
    ),
    "the start of an inferred run arrives late; an exit precedes it": (
        [(0, "E", 0.0, "-5"), (9, "F", 9, "0"), (400, "S", 8.0, "")],
        {"exit": 1, "fail": 1, "file": 1, "start": 1, "restart": 1, "missed_start": 2},
        "active",
        "aaa",
    ),
    "a start without a time, past the retry window of an inferred run, begins another run": (
        [(0, "F", None, "0"), (3700, "S", None, "")],
        {"file": 1, "start": 1, "restart": 1, "missed_start": 1, "missed_exit": 1, "interrupted": 1},
        "active",
        "aa",
    ),
    "a start without a time, after an inferred run has played a file, begins another run": (
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
    "an exit of an unknown task: the task is known from now on": (
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
    "the missing exit arrives within the reorder window": (
        [(0, "S", 0.0, ""), (50, "S", 50.0, ""), (170, "E", 40.0, "-5")],
        {"start": 2, "restart": 1, "exit": 1, "fail": 1, "run": 1, "down": 1},
        "active",
        "aaa",
    ),
    "a file starts while the file before it has not finished": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50, "F", 50, "1")],
        {"start": 1, "file": 2, "latency": 1, "missed_finish": 1},
        "active",
        "aaa",
    ),
    "the missing finish arrives after the next start": (
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
    "the finish of an interrupted file arrives much later and still counts": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50, "E", 50.5, "0"), (400, "N", 50, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "interrupted": 1, "played": 1},
        "stopped",
        "aaaa",
    ),
    "a finish without its start: the file counts as played, without observations": (
        [(0, "S", 0.0, ""), (50, "N", 50, "0"), (51, "F", 51, "1")],
        {"start": 1, "played": 1, "file": 1, "gap": 1},
        "active",
        "aaa",
    ),
    "a finish of another file does not change the file that plays": (
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
    "a file in the same second as an exit belongs to the run that ends": (
        [(0, "S", 0.0, ""), (9, "E", 9.5, "0"), (10, "F", 9, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaa",
    ),
    "a file that arrives after the exit of its run is settled does not restart the task": (
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
    "a file starts again in the same second in which it finishes": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (9, "N", 9, "0"), (9.2, "F", 9, "0"), (50, "E", 50.5, "0")],
        {"start": 1, "file": 2, "latency": 1, "played": 1, "play": 1, "ratio": 1, "gap": 1}
        | {"exit": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaaaa",
    ),
    "a run shorter than a second, with a file": (
        [(10.1, "S", 10.1, ""), (10.9, "E", 10.9, "0"), (11, "F", 10, "0")],
        {"start": 1, "exit": 1, "file": 1, "latency": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaa",
    ),
    "a file in the same second as an exit and the next start belongs to the new run": (
        [(0, "S", 0.0, ""), (10.1, "E", 10.1, "-5"), (10.5, "S", 10.5, ""), (10.9, "F", 10, "0")],
        {"start": 2, "restart": 1, "exit": 1, "fail": 1, "run": 1, "down": 1, "file": 1, "latency": 1},
        "active",
        "aaaa",
    ),
    "a file in the same second as two starts belongs to the later run": (
        [(10.1, "S", 10.1, ""), (10.3, "E", 10.3, "0"), (10.6, "S", 10.6, ""), (10.9, "F", 10, "0")],
        {"start": 2, "restart": 1, "exit": 1, "run": 1, "down": 1, "file": 1, "latency": 1},
        "active",
        "aaaa",
    ),
    "a file in the same second as an exit follows the finish that arrived before it": (
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
    "a finish that arrives after the start of the next run": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50, "S", 50.0, ""), (51, "N", None, "0")],
        {"start": 2, "restart": 1, "file": 1, "latency": 1, "missed_exit": 1, "played": 1},
        "active",
        "aaaa",
    ),
    "a finish that arrives after the exit, within a second": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50.3, "E", 50.2, "0"), (50.6, "N", None, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "played": 1},
        "stopped",
        "aaaa",
    ),
    "a finish after the next start is not the finish of the interrupted file": (
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
    "a finish with an event time after the exit is not the finish of the interrupted file": (
        [(0, "S", 0.0, ""), (1, "F", 1, "0"), (50.6, "E", 50.5, "0"), (52, "N", 52, "0")],
        {"start": 1, "file": 1, "latency": 1, "exit": 1, "run": 1, "interrupted": 1, "played": 1},
        "stopped",
        "aaaa",
    ),
    "finishes that arrive after two later file starts": (
        [(0, "S", None, "")]
        + [(t, "F", None, s) for t, s in ((1, "0"), (602, "1"), (603, "2"))]
        + [(604, "N", None, "0"), (605, "N", None, "1")],
        {"start": 1, "file": 3, "latency": 1, "played": 2},
        "active",
        "aaaaaa",
    ),
    "a file that starts again after the exit did not finish before the exit": (
        [(0, "S", None, ""), (1, "F", None, "0"), (50, "E", None, "0"), (70, "F", None, "0")],
        {"start": 1, "file": 2, "latency": 1, "exit": 1, "run": 1, "interrupted": 1, "missed_start": 1},
        "active",
        "aaaa",
    ),
    "a finish is still a redelivery after another start": (
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
    "a finish is still a redelivery after a run was inferred": (
        [(0, "N", None, "0"), (1, "N", None, "0"), (2, "F", None, "1"), (3, "N", None, "0")],
        {"played": 1, "file": 1, "missed_start": 1},
        "active",
        "adad",
    ),
    "the start of an inferred run arrives late, in the same second as its first file": (
        [(3, "F", 2, "0"), (400, "S", 2.0, "")],
        {"file": 1, "start": 1, "missed_start": 1},
        "active",
        "aa",
    ),
    "the start of an inferred run arrives late, followed by its exit": (
        [(3, "F", 2, "0"), (400, "S", 0.3, ""), (500, "E", 500.0, "0")],
        {"file": 1, "start": 1, "missed_start": 1, "exit": 1, "run": 1, "interrupted": 1},
        "stopped",
        "aaa",
    ),
    "a start later than the first file of an inferred run begins another run": (
        [(3, "F", 2, "0"), (400, "S", 390.0, "")],
        {"file": 1, "start": 1, "restart": 1, "missed_start": 1, "missed_exit": 1, "interrupted": 1},
        "active",
        "aa",
    ),
    "a start in the same second as a settled exit arrives after another run was inferred": (
        [(0.2, "S", 0.1, ""), (0.6, "E", 0.5, "0"), (300, "F", 300, "0"), (320, "S", 0.9, "")],
        {"start": 2, "restart": 1, "exit": 1, "run": 1, "down": 1, "file": 1, "latency": 1},
        "active",
        "aaaa",
    ),
    "an exit arrives late, in the same second as a settled start": (
        [(0.2, "S", 0.1, ""), (250, "E", 0.9, "0")],
        {"start": 1, "exit": 1, "run": 1},
        "stopped",
        "aa",
    ),
    "an exit arrives after a later finish is settled": (
        [(0, "S", 0.0, ""), (300, "N", 300, "0"), (520, "E", 250.0, "0")],
        {"start": 1, "played": 1, "exit": 1, "run": 1},
        "stopped",
        "aaa",
    ),
    # --- exactly at a limit -------------------------------------------------------------------------------
    "a start without a time belongs to an inferred run up to exactly the retry window": (
        [(0, "F", None, "0"), (3600, "S", None, "")],
        {"file": 1, "start": 1, "missed_start": 1},
        "active",
        "aa",
    ),
    "the same file starts again exactly when its duration has passed": (
        [(0, "S", None, ""), (1, "F", None, "0"), (601, "F", None, "0")],
        {"start": 1, "file": 2, "latency": 1, "missed_finish": 1},
        "active",
        "aaa",
    ),
    "an exit without a time is a redelivery up to exactly the retry window": (
        [(0, "S", None, ""), (9, "E", None, "0"), (3609, "E", None, "0"), (3609.1, "E", None, "0")],
        {"start": 1, "exit": 2, "run": 1, "missed_start": 1},
        "stopped",
        "aada",
    ),
    "an exit with a time is a redelivery up to exactly the retry window": (
        [(0, "S", 0.0, ""), (9, "E", 8.5, "0"), (3609, "A", 3600, "x"), (3609, "E", 8.5, "0")],
        {"start": 1, "exit": 1, "run": 1, "alarm": 1},
        "stopped",
        "aaad",
    ),
    "a callback older than the newest counts up to exactly the retry window": (
        [(100, "S", 100.0, ""), (3650, "A", 50, "x"), (3651, "A", 50, "y")],
        {"start": 1, "alarm": 1},
        "active",
        "aas",
    ),
    "a start and its file arrive at the same time": (
        [(0, "S", None, ""), (0, "F", None, "0")],
        {"start": 1, "file": 1, "latency": 1},
        "active",
        "aa",
    ),
    "a start without a time is a redelivery although a finish arrived with the start": (
        [(4, "F", 1, "0"), (5, "S", 0.5, ""), (5, "N", 3, "0"), (6, "S", None, "")],
        {"file": 1, "start": 1, "latency": 1, "played": 1, "play": 1, "ratio": 1},
        "active",
        "aaad",
    ),
    "a clock that is exactly 2 s ahead, and a clock that is less ahead": (
        [(0, "S", 2.0, ""), (50, "E", 51.9, "0")],
        {"start": 1, "clock_skew": 1, "exit": 1, "run": 1},
        "stopped",
        "aa",
    ),
    "event times exactly 60 s ahead, or exactly lost-after old, are valid": (
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
    # --- invalid event times ------------------------------------------------------------------------------
    "a clock that is 2 to 60 s ahead": (
        [(0, "S", 3.0, ""), (70, "E", 131.0, "0")],
        {"start": 1, "clock_skew": 1, "exit": 1, "bad_time": 1, "run": 1},
        "stopped",
        "aa",
    ),
    "an event time older than lost-after is unknown": (
        [(0, "S", -32 * 86400.0, "")],
        {"start": 1, "bad_time": 1},
        "active",
        "a",
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    """The measurements, the state of the task and the outcome of each callback are as expected."""
    steps, expected, state, outcomes = SCENARIOS[name]
    actual, actual_state, actual_outcomes = measured(steps)
    assert (actual, actual_state, actual_outcomes) == (expected, state, outcomes)


def measured_immediately(steps: list[Step]) -> list[tuple[str, float]]:
    """Return the measurements of the callbacks themselves, without those of sweeps."""
    task = Task(appid=1, task_id="t")
    measurements: list[tuple[str, float]] = []
    for step in steps:
        d = delivery(step)
        folded = fold(task, d.callback, d.arrival, SETTINGS)
        task = folded.task
        measurements += [
            (SHORT[n], round(v, 3)) for n, _, v in folded.measurements if n in SHORT and SHORT[n] != "delay"
        ]
    return measurements


def test_a_duration_between_prompt_callbacks_is_recorded_immediately_by_arrival() -> None:
    """The next scrape has it, to the millisecond."""
    measurements = measured_immediately(
        [(0.25, "S", 0.2, ""), (1.75, "F", 1, "0"), (600.0, "N", 599, "0"), (600.5, "F", 600, "1")]
    )
    assert ("latency", 1.5) in measurements
    assert ("play", 598.25) in measurements
    assert ("ratio", round(598.25 / 600, 3)) in measurements
    assert ("gap", 0.5) in measurements


def test_a_duration_that_ends_with_a_late_callback_is_recorded_by_event_time_after_the_reorder_window() -> (
    None
):
    """A callback more than 5 s late: the duration is whole seconds between event times."""
    steps: list[Step] = [(0.25, "S", 0.2, ""), (62.0, "F", 2, "0")]
    assert "latency" not in dict(measured_immediately(steps))
    result = deliver([delivery(step) for step in steps])
    assert result.durations["start_to_file_latency_seconds", 2.0] == 1


def test_a_duration_between_a_late_callback_and_one_without_a_time_is_not_recorded() -> None:
    """Neither arrivals nor event times can give the duration."""
    result = deliver([delivery(step) for step in [(100.0, "S", 0.2, ""), (101.0, "F", None, "0")]])
    assert not result.durations


def test_a_ratio_needs_a_duration() -> None:
    """A declared duration of 0 is unknown."""
    steps: list[Step] = [(0, "S", 0, ""), (1, "F", 1, "0"), (9, "N", 9, "0")]
    assert "ratio" not in measured(steps, length=0.0)[0]


def test_a_missing_callback_is_counted_once_when_the_reorder_window_has_passed() -> None:
    """Not earlier, and at most a second later."""
    task = fold(Task(appid=1, task_id="t"), callback("F", subject="0"), T0 + 0.25, SETTINGS).task
    assert settle(task, T0 + 180.2, SETTINGS).measurements == ()
    settled = settle(task, T0 + 181.25, SETTINGS)
    assert settled.measurements == (("anomalies_total", "missed_start", 1),)
    assert settle(settled.task, T0 + 182.0, SETTINGS).measurements == ()
    assert T0 + 180.25 <= next_due(task, SETTINGS) <= T0 + 181.25


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ((300, "S", 300, ""), {"start": 2, "restart": 1, "missed_exit": 1}),
        ((300, "E", 300, "0"), {"start": 1, "exit": 1, "run": 1}),
    ],
    ids=["another start", "its exit"],
)
def test_a_start_after_its_run_was_settled_without_it_is_no_restart(
    later: Step, expected: dict[str, int]
) -> None:
    """A later callback in the log does not change which run the start belongs to."""
    counted, _, outcomes = measured([(12, "F", 10, "0"), later, (310, "S", 5, "")])
    assert outcomes == "aaa"
    assert counted == {"file": 1, "missed_start": 1, "interrupted": 1, **expected}


def test_a_late_start_does_not_replace_the_start_of_a_settled_run() -> None:
    """There were two runs, so one of the starts is a restart."""
    steps: list[Step] = [(10, "S", 10, ""), (300, "S", 5, "")]
    assert measured(steps) == ({"start": 2, "restart": 1}, "active", "aa")
    start = deliver(map(delivery, steps)).task.current.start
    assert start is not None
    assert start.second == T0 + 10


def test_after_a_lost_run_no_downtime_is_measured() -> None:
    """The exit before it belongs to an earlier run."""
    steps: list[Step] = [(0, "S", 0, ""), (60, "E", 60, "0"), (120, "S", 120, "")]
    lost_at = 120 + int(SETTINGS.lost_after)
    counted, state, _ = measured([*steps, (lost_at + 60, "S", lost_at + 60, "")])
    assert (counted["down"], counted["lost"], state) == (1, 1, "active")


def test_a_task_is_lost_after_lost_after_without_callbacks_and_active_after_a_start() -> None:
    """Live sources send no callbacks while they run, so --relay.lost-after is long."""
    task = fold(Task(appid=1, task_id="t"), callback("S", T0), T0, SETTINGS).task
    lost_at = T0 + SETTINGS.lost_after
    assert state_of(settle(task, lost_at - 1, SETTINGS).task, SETTINGS) == "active"
    lost = settle(task, lost_at, SETTINGS)
    assert lost.measurements == (("tasks_lost_total", "", 1),)
    assert state_of(lost.task, SETTINGS) == "lost"
    # The task is lost after 31 days. It is forgotten 7 days after that, not 7 days after its last callback.
    assert SETTINGS.lost_after > SETTINGS.forget_after
    assert (
        forgotten_at(lost.task, SETTINGS) == next_due(lost.task, SETTINGS) == lost_at + SETTINGS.forget_after
    )
    back = fold(lost.task, callback("S", lost_at + 9), lost_at + 9, SETTINGS)
    assert state_of(back.task, SETTINGS) == "active"
    assert ("tasks_restarted_total", "", 1) in back.measurements
    late = fold(lost.task, callback("E", lost_at + 9, "0"), lost_at + 9, SETTINGS).task
    assert state_of(late, SETTINGS) == "stopped"
    assert settle(late, lost_at + 300, SETTINGS).measurements == ()


@pytest.mark.parametrize("is_finished", [False, True])
def test_an_inferred_run_is_lost_when_its_file_must_have_ended(*, is_finished: bool) -> None:
    """That is: the duration of the file plus the retry window has passed without another callback."""
    task = fold(
        Task(appid=1, task_id="t"), callback("F", subject="0", duration_seconds=600.0), T0, SETTINGS
    ).task
    last_callback_at = T0
    if is_finished:
        last_callback_at += 600
        task = fold(task, callback("N", subject="0", duration_seconds=600.0), last_callback_at, SETTINGS).task
    assert not settle(task, last_callback_at + 4199, SETTINGS).task.current.lost
    assert settle(task, last_callback_at + 4200, SETTINGS).task.current.lost


@pytest.mark.parametrize(("code", "after"), [("0", 3600.0), ("-22", 7 * 86400.0)])
def test_a_task_is_forgotten_after_the_time_of_its_state(code: str, after: float) -> None:
    """Stopped tasks after an hour, failed tasks after a week, active tasks never."""
    start = fold(Task(appid=1, task_id="t"), callback("S", T0), T0, SETTINGS).task
    task = fold(start, callback("E", T0 + 9, code), T0 + 9, SETTINGS).task
    settled = settle(task, T0 + 300, SETTINGS).task
    assert not is_forgotten(settled, T0 + 9 + after - 1, SETTINGS)
    assert is_forgotten(settled, T0 + 9 + after, SETTINGS)
    assert not is_forgotten(settle(start, T0 + 300, SETTINGS).task, T0 + 1e9, SETTINGS)


def test_a_start_time_repeated_for_another_run_is_counted_as_a_time_conflict() -> None:
    """With an exit between the two `event_time`s it begins another run; otherwise it is a redelivery."""
    first = callback("S", T0 + 0.5)
    again = replace(first, event_time_seconds=T0 + 90)
    exit_ = callback("E", T0 + 60, "-5")
    redelivered = deliver([Delivery(first, T0 + 1), Delivery(again, T0 + 91)])
    assert redelivered.outcomes == {"applied": 1, "duplicate": 1}
    # The repeated start is older than the exit, so no exit lies between the two starts.
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
    assert state_of(result.task, SETTINGS) == "active"


def test_an_invalid_time_in_milliseconds_is_replaced_by_event_time() -> None:
    """It still counts as `bad_time`."""
    result = deliver([Delivery(callback("S", T0, stated_ms=T0), T0 + 1.0)])
    assert result.counts["anomalies_total", "bad_time"] == 1
    assert result.task.current.start is not None
    assert result.task.current.start.ms == T0 * 1000


def test_the_identities_of_a_task_are_bounded_and_deleted_identities_do_not_count_twice() -> None:
    """Past the limit the oldest identities are deleted; a callback with an older event time is stale."""
    history = [callback("N", T0 + i, "0") for i in range(MAX_IDENTITIES + 100)]
    # All arrive within seconds, so that only the limit deletes identities, not the retry window.
    deliveries = [Delivery(c, T0 + 900 + i / 100) for i, c in enumerate(history)]
    result = deliver([*deliveries, *[Delivery(c, T0 + 1000) for c in history]])
    assert len(result.task.identities) <= MAX_IDENTITIES
    assert len(result.task.log) <= MAX_LOG
    assert result.counts["files_played_total", ""] == len(history)
    assert result.outcomes["stale"] + result.outcomes["duplicate"] == len(history)
    assert result.outcomes["stale"] == 100


def test_a_full_log_is_settled_from_its_oldest_entry() -> None:
    """More callbacks than the log holds arrive within the reorder window: no measurement is lost."""
    files = [d for i in range(MAX_LOG) for d in ((2 * i, "F"), (2 * i + 1, "N"))]
    history = [
        Delivery(callback(letter, T0 + i / 2, str(i // 2), duration_seconds=1.0), T0 + i / 2)
        for i, letter in files
    ]
    result = deliver([Delivery(callback("S", T0), T0), *history])
    assert result.counts["files_played_total", ""] == MAX_LOG
    assert result.counts["anomalies_total", "missed_finish"] == 0
    assert gauges(result)[0]


def test_a_redelivery_does_not_change_the_task() -> None:
    """The task is the same object."""
    task = fold(Task(appid=1, task_id="t"), callback("S", T0), T0, SETTINGS).task
    again = fold(task, callback("S", T0), T0 + 1, SETTINGS)
    assert again.task is task
    assert again.verdict is Verdict.DUPLICATE
    assert again.measurements == ()


def test_a_field_that_a_callback_lacks_keeps_its_value() -> None:
    """An exit without a destination does not clear the destination of the task."""
    task = fold(Task(appid=1, task_id="t"), callback("S", T0, to_url="rtmp://a/b"), T0, SETTINGS).task
    task = fold(task, callback("E", T0 + 1, "0", to_host=""), T0 + 1, SETTINGS).task
    assert (task.to_host, task.to_url) == ("push.example.com", "rtmp://a/b")


def test_files_of_the_same_second_are_ordered_by_event_and_file() -> None:
    """A finish, the start of the next file, and a file shorter than a second, in any order of arrival."""
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


def test_starts_and_exits_of_the_same_second_without_milliseconds_are_ordered_by_arrival() -> None:
    """No other information orders them."""
    whole = {"stated_ms": None}
    start, exit_ = callback("S", T0, **whole), callback("E", T0, "0", **whole)
    assert state_of(deliver([Delivery(start, T0 + 1), Delivery(exit_, T0 + 2)]).task, SETTINGS) == "stopped"
    assert state_of(deliver([Delivery(exit_, T0 + 1), Delivery(start, T0 + 2)]).task, SETTINGS) == "active"


def test_the_message_of_the_newest_exit_is_shown_in_any_order_of_arrival() -> None:
    """Newest by event time: late, redelivered and older exits do not change the message."""
    exits = [
        Delivery(callback("E", T0 + at, "-22", message=f"at {at}"), T0 + arrival)
        for at, arrival in ((50, 60), (20, 70), (50, 80), (30, 400))
    ]
    for part in (exits[:1], exits[:2], exits[:3], exits):
        last = deliver(part).task.current.exit
        assert last is not None
        assert last.message == "at 50"


def test_a_record_without_exit_messages_is_read() -> None:
    """New fields are only added at the end of a record, so older records can be read."""
    task = deliver([delivery((0, "S", 0, "")), delivery((9, "E", 9, "-22"))]).task
    # The message is the last field of an entry; older versions wrote entries without it.
    old = encode(task).replace(b',""]', b"]")
    assert old != encode(task)
    assert decode_task(old) == task


def test_a_redelivery_is_a_duplicate_after_the_clock_was_set_back() -> None:
    """The event time is now too far in the future, but it was valid when the callback was counted."""
    for letter in "SFNEA":
        call = callback(letter, T0, "x")
        first = fold(Task(appid=1, task_id="t"), call, T0 + 1.0, SETTINGS)
        # The clock of this program was set back by two hours between the two arrivals.
        again = fold(first.task, call, T0 - 7200.0, SETTINGS)
        assert (first.verdict, again.verdict) == (Verdict.APPLIED, Verdict.DUPLICATE), letter
        assert again.measurements == ()


def test_a_task_with_counters_reset_keeps_its_state_and_has_no_pending_measurements() -> None:
    """The state and the identities stay; pending measurements are not recorded any more."""
    task = Task(appid=1, task_id="t")
    for letter, at in (("S", T0), ("F", T0 + 1), ("E", T0 + 9)):
        task = fold(task, callback(letter, at, "0"), at + 0.5, SETTINGS).task
    new = with_counters_reset(task)
    assert (new.identities, new.runs, new.log) == (task.identities, 0, ())
    assert state_of(new, SETTINGS) == state_of(task, SETTINGS) == "stopped"
    later = settle(new, T0 + 1000.0, SETTINGS)
    assert (later.task, later.measurements) == (new, ())
    assert with_counters_reset(new) == new
    assert fold(new, callback("E", T0 + 9, "0"), T0 + 60.0, SETTINGS).verdict is Verdict.DUPLICATE
    begun = fold(new, callback("S", T0 + 60), T0 + 60.0, SETTINGS)
    assert begun.task.runs == 1
    assert ("tasks_restarted_total", "", 1) in begun.measurements


def test_a_file_of_unknown_duration_that_starts_again_is_a_redelivery() -> None:
    """Without an event time and a duration, only its finish shows that the file has ended."""
    again: list[Step] = [(0, "S", None, ""), (1, "F", None, "0"), (61, "F", None, "0")]
    assert measured(again, length=0.0)[2] == "aad"
    round_: list[Step] = [(0, "S", None, ""), (1, "F", None, "0"), (61, "N", None, "0"), (62, "F", None, "0")]
    assert measured(round_, length=0.0)[2] == "aaaa"


def test_a_start_that_arrives_after_the_first_finish_of_its_run_can_be_redelivered() -> None:
    """A finish that arrived before the start does not make the second start another run."""
    steps: list[Step] = [(0, "F", None, "0"), (-1, "N", 0, "0"), (6, "S", None, ""), (7, "S", None, "")]
    assert measured(steps)[2] == "aaad"
