"""Relay overview: is everything on air, and if not, what is down and why."""

from grafana.source import queries as q
from grafana.source.frame import Row, assemble, several
from grafana.source.panels import (
    BAD,
    DOWN,
    GOOD,
    NONE_IS_GOOD,
    PLAIN,
    QUIET,
    STATES,
    WORRY,
    bar_gauge,
    exits,
    graph,
    heat,
    latest,
    line,
    quantile_graph,
    stat,
    table,
)

TASK_COLUMNS = {"task_id": "Task", "appid": "Account", "to_host": "Destination"}


def dashboard() -> str:
    """Return the text of relay-overview.json."""
    return assemble(
        "css-relay-overview",
        "Is every relay task on air? What is down, for how long, and why runs end.",
        variables=[
            several("job", "label_values(css_relay_exporter_build_info, job)", everything=".+"),
            several(
                "appid", f"label_values(css_relay_tasks{{{q.JOB}}}, appid)", everything=".*", label="Account"
            ),
            several(
                "to_host",
                f'label_values(css_relay_tasks{{{q.JOB}, appid=~"$appid"}}, to_host)',
                everything=".*",
                label="Destination",
            ),
        ],
        links=["css-relay-task", "css-relay-health"],
        rows=[_on_air(), _trouble(), _runs(), _start(), _files(), _service()],
        since="now-6h",
    )


def _on_air() -> Row:
    down = q.down()
    return "On air now", [
        stat(
            "Active",
            "Tasks on air now, as far as their callbacks say. Worry when it drops without a planned end.",
            _in_state("active"),
            steps=((None, GOOD),),
            spark=True,
        ),
        stat(
            "Failed",
            "Tasks whose last run ended with a failure and that have not started again: their viewers see nothing.",
            _in_state("failed"),
            steps=NONE_IS_GOOD,
            spark=True,
        ),
        stat(
            "Longest down",
            "How long the task has been down that has been down longest. The service starts a task again by itself, "
            "mostly within a minute: past a few minutes somebody has to look.",
            f"max({down})",
            unit="s",
            steps=DOWN,
            nothing="nothing is down",
        ),
        stat(
            "Worst destination",
            "The largest share of failed tasks at one destination. From 30 % on, it is the destination or the account "
            "that is in trouble rather than a single stream.",
            f"max({q.failed_share()})",
            unit="percentunit",
            steps=((None, GOOD), (0.01, WORRY), (0.3, BAD)),
            nothing="no tasks",
        ),
        stat(
            "Lost",
            "Active tasks of which nothing was heard for too long: nobody knows whether they are on air. "
            "Callbacks were lost on their way, or the task is gone.",
            _in_state("lost"),
            steps=((None, GOOD), (1, WORRY)),
            spark=True,
        ),
        stat(
            "Stopped",
            "Tasks whose last run ended as planned. They are forgotten after a while.",
            _in_state("stopped"),
            steps=((None, QUIET),),
            spark=True,
        ),
    ]


def _trouble() -> Row:
    return "Off air now", [
        table(
            "Down",
            "Failed tasks and how long they have been down, the longest first, with the code of the exit. "
            "A click on a task shows its history.",
            f"max by ({', '.join(q.TASK)}, code) ({q.down()})",
            TASK_COLUMNS | {"code": "Exit code", "Value": "Down for"},
            steps=DOWN,
            nothing="Nothing is down.",
        ).span(13),
        graph(
            "Tasks by state",
            "Every task that is known, by the state it is in. A step from green to red is an outage.",
            line(q.total(q.tasks(), "state"), "{{state}}"),
            stacked=True,
            colours=STATES,
        ).span(11),
        table(
            "Running but silent",
            "Active tasks that have finished a file and begun no other: dead air. Between two files it lasts "
            "seconds; worry past two minutes.",
            f"max by ({', '.join(q.TASK)}) ({q.dead_air()})",
            TASK_COLUMNS | {"Value": "Silent for"},
            steps=((None, PLAIN), (10, WORRY), (120, BAD)),
            nothing="No dead air.",
        ).height(6),
        table(
            "Files that should have ended",
            "Files that have played longer than 1.1 times their length, and by how much. The picture hangs, or the "
            "finish was never told.",
            f"max by ({', '.join(q.TASK)}) (({q.overdue()}) > 0)",
            TASK_COLUMNS | {"Value": "Overdue by"},
            steps=((None, WORRY), (120, BAD)),
            nothing="No file is overdue.",
        ).height(6),
        table(
            "Lost",
            "Tasks given up after a long silence, and how long ago their last run began. Look at the service's "
            "console whether they run.",
            f"max by ({', '.join(q.TASK)}) (time() - {q.gauge('task_start_timestamp_seconds')} "
            f"and ignoring (state) {q.in_state('lost')})",
            TASK_COLUMNS | {"Value": "Began ago"},
            steps=((None, WORRY),),
            nothing="Nothing is lost.",
        ).height(6),
    ]


def _runs() -> Row:
    return "Runs: how they begin and end", [
        graph(
            "Runs ended, by exit code",
            "How often a minute runs end, by code; 0 is a planned end. Many at once with one code point to the "
            "destination or the source they share. The first exit ever with a code shows only in the next panel.",
            *exits(),
            unit="cpm",
            bars=True,
            colours={"0": GOOD},
        ),
        bar_gauge(
            "Exit codes in this time range",
            "How many runs ended with each code, over the time range chosen above.",
            latest(f"sort_desc({q.grown('tasks_exited_total', 'code')} > 0)", "{{code}}"),
            nothing="no run ended",
        ),
        graph(
            "Starts, restarts, failures",
            "Runs begun, those of them that began a task again, and runs that failed, a minute. Restarts that keep "
            "pace with failures mean that the service brings tasks back.",
            line(q.per_minute("tasks_started_total"), "started"),
            line(q.per_minute("tasks_restarted_total"), "restarted"),
            line(q.per_minute("tasks_failed_total"), "failed"),
            line(q.per_minute("tasks_lost_total"), "lost"),
            unit="cpm",
            colours={"started": GOOD, "restarted": PLAIN, "failed": BAD, "lost": WORRY},
        ),
        graph(
            "Failed share by destination",
            "Which part of a destination's tasks has failed and is not back. The alert on a destination fires from "
            "30 % and three tasks on.",
            line(f"max by (to_host) ({q.failed_share()})", "{{to_host}}"),
            line("vector(0.3)", "30 %"),
            unit="percentunit",
            most=1,
            bounds=["30 %"],
        ),
        quantile_graph(
            "Downtime until the next start",
            "How long tasks were off air between an exit and their next start; those that are still down are not in it.",
            "downtime_seconds",
        ),
        quantile_graph(
            "Length of the runs that ended",
            "How long runs lasted. Many short ones are tasks that start and fail again.",
            "run_seconds",
        ),
    ]


def _start() -> Row:
    bound = line("vector(2)", "2 s: normal up to here")
    return "From start to first file", [
        heat(
            "Start to file",
            "How long tasks took from their start to their first file, as a heatmap: the brighter, the more. "
            "Up to 2 s is what the service's documentation calls normal.",
            "start_to_file_latency_seconds",
        ),
        quantile_graph(
            "Start to file, p50, p95 and p99",
            "Half, 95 % and 99 % of the starts were quicker than this. Worry when p95 stays above the line: the source is "
            "slow, or the service is. A dot on the line above is a single task; it leads to its dashboard.",
            "start_to_file_latency_seconds",
            bound,
            bounds=["2 s: normal up to here"],
        ).span(12),
    ]


def _files() -> Row:
    return "Files", [
        graph(
            "Files begun, played, interrupted",
            "Files a minute: begun, played to their end, and cut off because their run ended.",
            line(q.per_minute("files_started_total"), "begun"),
            line(q.per_minute("files_played_total"), "played"),
            line(q.per_minute("files_interrupted_total"), "interrupted"),
            unit="cpm",
            colours={"begun": PLAIN, "played": GOOD, "interrupted": BAD},
        ).span(6),
        quantile_graph(
            "Dead air between files",
            "From a file's finish to the next one's start in the same run: viewers see nothing meanwhile.",
            "file_gap_seconds",
        ).span(6),
        quantile_graph(
            "Time played over length",
            "How long a file played over its declared length: 100 % is right. Less was cut short, more had stalls.",
            "file_play_ratio",
            unit="percentunit",
        ).span(6),
        quantile_graph(
            "Time a file plays",
            "From a file's start to its finish.",
            "file_play_seconds",
        ).span(6),
    ]


def _service() -> Row:
    return "What the service says", [
        graph(
            "Alarms",
            "Warnings of the service a minute: it cannot pull a source or push to a destination well. They often come before an exit.",
            line(f"{q.per_minute('alarms_total', 'type')} > 0", "{{type}}"),
            unit="cpm",
            bars=True,
            nothing="no alarm",
        ).span(12),
        bar_gauge(
            "Alarms in this time range",
            "How many alarms of each type came, over the time range chosen above.",
            latest(f"sort_desc({q.total(q.increase('alarms_total'), 'type')} > 0)", "{{type}}"),
            steps=((None, WORRY),),
            nothing="no alarm",
        ).span(6),
        graph(
            "Configuration changes",
            "How often a minute somebody changed a task. Trouble that begins right after one has its cause there.",
            line(q.per_minute("config_resets_total", "to_host"), "{{to_host}}"),
            unit="cpm",
            bars=True,
        ).span(6),
    ]


def _in_state(state: str) -> str:
    """Return how many tasks are in a state."""
    return q.total(q.tasks(f'state="{state}"'))
