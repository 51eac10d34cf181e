"""Relay task: one task, how it is doing, what it plays, and what happened to it."""

from grafana.source import queries as q
from grafana.source.frame import Row, assemble, one, several, unseen
from grafana.source.panels import (
    BAD,
    DOWN,
    GOOD,
    PLAIN,
    QUIET,
    STATES,
    WORRY,
    bar_gauge,
    exits,
    graph,
    latest,
    line,
    stat,
    table,
    timeline,
)

THIS = 'task_id="$task"'
ON_AIR = {1: ("ON AIR", GOOD), 2: ("FAILED", BAD), 3: ("STOPPED", QUIET), 4: ("LOST", WORRY)}
PROGRESS = ((None, GOOD), (1.01, WORRY), (1.1, BAD))


def dashboard() -> str:
    """Return the text of relay-task.json."""
    return assemble(
        "css-relay-task",
        "One relay task: its state, the file it plays and how far it is, its exits and restarts.",
        variables=[
            several("job", "label_values(css_relay_exporter_build_info, job)", everything=".+"),
            several(
                "appid",
                f"label_values(css_relay_task_info{{{q.JOB}}}, appid)",
                everything=".+",
                label="Account",
            ),
            one("task", f'label_values(css_relay_task_info{{{q.JOB}, appid=~"$appid"}}, task_id)', "Task"),
            unseen(
                "to_host",
                f'label_values(css_relay_task_info{{{q.JOB}, appid=~"$appid", {THIS}}}, to_host)',
                "Destination",
            ),
        ],
        links=["css-relay-overview", "css-relay-health"],
        rows=[_now(), _file(), _history(), _destination()],
        since="now-24h",
    )


def _now() -> Row:
    states = " + ".join(
        f"{number} * max({q.gauge('task_state', matcher, THIS)})"
        for number, matcher in enumerate((f'state="{state}"' for state in STATES), start=1)
    )
    return "Task $task", [
        stat(
            "State",
            "On air; failed (the last run ended with a failure, and no other began); stopped (it ended as planned); "
            "lost (nothing was heard of it for too long).",
            states,
            words=ON_AIR,
            nothing="unknown",
        ).span(3),
        stat(
            "Down for",
            "How long ago the task failed, if it has not come back. Past a few minutes the service will hardly bring "
            "it back by itself.",
            f"max({q.down(THIS)})",
            unit="s",
            steps=DOWN,
            nothing="not down",
        ).span(3),
        stat(
            "Run began",
            "When the current run began, or the last one.",
            f"1000 * max({q.gauge('task_start_timestamp_seconds', THIS)})",
            unit="dateTimeFromNow",
        ).span(3),
        stat(
            "Runs begun",
            "How many runs began in the time range above. Several an hour mean that the task fails again and again.",
            f"max({q.increase('task_runs_total', THIS)})",
            steps=((None, PLAIN), (3.5, WORRY), (10, BAD)),
        ).span(3),
        table(
            "What it is",
            "The stream, where it is pushed to (keys are left out) and where its source is.",
            f"max by (stream_id, to_url, source_host, appid) ({q.gauge('task_info', THIS)})",
            {"stream_id": "Stream", "to_url": "Pushed to", "source_host": "Source", "appid": "Account"},
        )
        .height(4)
        .span(12),
    ]


def _file() -> Row:
    start, length = (
        q.gauge(f"task_file_{part}", THIS) for part in ("start_timestamp_seconds", "duration_seconds")
    )
    progress = f"max((time() - {start}) / ({length} > 0))"
    return "The file it plays", [
        bar_gauge(
            "How far it is",
            "How much of the current file's length has passed. Above 100 % the file should have ended; from 110 % on "
            "the picture hangs, or the finish was never told. Live sources have no files.",
            latest(progress, "passed"),
            unit="percentunit",
            steps=PROGRESS,
            most=1.2,
            nothing="no file plays",
        )
        .span(4)
        .height(7),
        stat(
            "File ends in",
            "What is left of the current file's length; below 0 it should have ended. Live sources have no files.",
            f"max({length} > 0) - max(time() - {start})",
            unit="s",
            steps=((None, PLAIN),),
            nothing="no file plays",
        ).height(7),
        graph(
            "How far it was",
            "How much of each file's length had passed. Each tooth is a file; those that do not reach 100 % were cut "
            "short, those that go far past it hung.",
            line(progress, "passed"),
            unit="percentunit",
            nothing="no file played",
        ).height(7),
        graph(
            "Dead air, and files that did not end",
            "How long the task had run without playing anything after a file, and how far a file was past 1.1 times its "
            "length. Worry past two minutes. What is shorter than a scrape is not seen here.",
            line(_or_zero(q.dead_air(THIS)), "silent for"),
            line(_or_zero(f"({q.overdue(THIS)}) > 0"), "file overdue by"),
            unit="s",
            colours={"silent for": WORRY, "file overdue by": BAD},
        ).height(7),
    ]


def _history() -> Row:
    start = q.gauge("task_start_timestamp_seconds", THIS)
    return "What happened to it", [
        timeline(
            "State over time",
            "The state the task was in. Red is off air; grey is a planned end; orange means that nobody knows.",
            line(q.total(q.gauge("task_state", THIS), "state"), "{{state}}"),
        ),
        graph(
            "Time on air, time off air",
            "Each tooth is a run, or the time between two. A row of small teeth is a task that starts and fails again.",
            line(
                _or_zero(f"time() - ({start} and ignoring (state) {q.in_state('active', THIS)})"),
                "on air for",
            ),
            line(_or_zero(f"time() - {q.gauge('task_exit_timestamp_seconds', THIS)}"), "off air for"),
            unit="s",
            colours={"on air for": GOOD, "off air for": BAD},
        ),
        graph(
            "Runs over time",
            "How often a minute a run of this task began.",
            line(f"60 * max({q.rate('task_runs_total', THIS)})", "runs"),
            unit="cpm",
            bars=True,
        ),
        table(
            "Exits in this time range",
            "The codes this task exited with, and how long ago it last did with each. An exit after which the task "
            "came back within a scrape is not seen here.",
            f"max by (code) (time() - {q.newest('task_exit_timestamp_seconds', THIS)})",
            {"code": "Exit code", "Value": "Last ago"},
            nothing="It has not exited.",
        ),
    ]


def _destination() -> Row:
    return "Is it alone?", [
        graph(
            "Tasks to the same destination",
            "The tasks of the same account and destination, by state. If more of them are red, the destination is in "
            "trouble and not this task.",
            line(q.total(q.tasks(), "state"), "{{state}}"),
            stacked=True,
            colours=STATES,
        ).span(12),
        graph(
            "Exits at the same destination, by code",
            "How often a minute runs of the same account and destination end, by code.",
            *exits(),
            unit="cpm",
            bars=True,
            colours={"0": GOOD},
        ).span(12),
    ]


def _or_zero(expression: str) -> str:
    """Return the largest value, and 0 where there is none while the task is known."""
    return f"max({expression}) or 0 * max({q.gauge('task_state', THIS)})"
