"""The dashboard Relay task: the state of one task, the file it plays, and its history."""

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
        "One relay task: its state, the file it plays and its progress, its exits and restarts.",
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
            "ON AIR: active. FAILED: the last run failed and no new run has started. STOPPED: the last run ended as planned. "
            "LOST: no callback for `--relay.lost-after`.",
            states,
            words=ON_AIR,
            nothing="unknown",
        ).span(3),
        stat(
            "Down for",
            "Time since the task failed, if it has not restarted. After three minutes the service is unlikely to restart "
            "it by itself.",
            f"max({q.down(THIS)})",
            unit="s",
            steps=DOWN,
            nothing="not down",
        ).span(3),
        stat(
            "Run started",
            "The start of the current run, or of the last run if none is active.",
            f"1000 * max({q.gauge('task_start_timestamp_seconds', THIS)})",
            unit="dateTimeFromNow",
        ).span(3),
        stat(
            "Runs started",
            "Number of runs that started in the selected time range. Several per hour mean that the task fails repeatedly.",
            f"max({q.increase('task_runs_total', THIS)})",
            steps=((None, PLAIN), (3.5, WORRY), (10, BAD)),
        ).span(3),
        table(
            "Stream and hosts",
            "The stream, the URL it is pushed to (without keys), and the host of its source.",
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
    return "Current file", [
        bar_gauge(
            "Progress of the file",
            "Play time of the current file as a share of its declared duration. Above 100 % it should have ended. From 110 % "
            "on the stream hangs, or the callback of the finish was lost. Live sources have no files.",
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
            "Remaining play time of the current file by its declared duration. Below 0 it should have ended. Live sources have no files.",
            f"max({length} > 0) - max(time() - {start})",
            unit="s",
            steps=((None, PLAIN),),
            nothing="no file plays",
        ).height(7),
        graph(
            "Progress over time",
            "Play time of each file as a share of its declared duration. Each rise from 0 is one file. A file that does not "
            "reach 100 % ended early; a file that goes far beyond 100 % hung.",
            line(progress, "passed"),
            unit="percentunit",
            nothing="no file played",
        ).height(7),
        graph(
            "Dead air and overdue files",
            "Time without a file after the last finish, and time that a file played beyond 1.1 times its declared duration. "
            "Check the task after two minutes. Gaps shorter than the scrape interval are not visible here.",
            line(_or_zero(q.dead_air(THIS)), "silent for"),
            line(_or_zero(f"({q.overdue(THIS)}) > 0"), "file overdue by"),
            unit="s",
            colours={"silent for": WORRY, "file overdue by": BAD},
        ).height(7),
    ]


def _history() -> Row:
    start = q.gauge("task_start_timestamp_seconds", THIS)
    return "History", [
        timeline(
            "State over time",
            "The state of the task. Green: on air. Red: failed. Grey: a planned end. Orange: lost, the real state is unknown.",
            line(q.total(q.gauge("task_state", THIS), "state"), "{{state}}"),
        ),
        graph(
            "Time on air, time off air",
            "Each rise from 0 is one run, or the time between two runs. Many short rises mean that the task fails repeatedly.",
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
            "Runs of this task that started, per minute.",
            line(f"60 * max({q.rate('task_runs_total', THIS)})", "runs"),
            unit="cpm",
            bars=True,
        ),
        table(
            "Exits in this time range",
            "The exit codes of this task and the time since the last exit with each. An exit is not visible here if the task "
            "restarted before the next scrape.",
            f"max by (code) (time() - {q.newest('task_exit_timestamp_seconds', THIS)})",
            {"code": "Exit code", "Value": "Last ago"},
            nothing="No exit.",
        ),
    ]


def _destination() -> Row:
    return "Other tasks to the same destination", [
        graph(
            "Tasks to the same destination",
            "The tasks of the same account and destination, by state. If several are red, the cause is probably the "
            "destination and not this task.",
            line(q.total(q.tasks(), "state"), "{{state}}"),
            stacked=True,
            colours=STATES,
        ).span(12),
        graph(
            "Exits at the same destination, by code",
            "Runs of the same account and destination that ended, per minute, by exit code.",
            *exits(),
            unit="cpm",
            bars=True,
            colours={"0": GOOD},
        ).span(12),
    ]


def _or_zero(expression: str) -> str:
    """Return the query for the largest value, or 0 if there is no value and the task is known."""
    return f"max({expression}) or 0 * max({q.gauge('task_state', THIS)})"
