"""The dashboard Relay overview: which tasks are on air, and which are down and why?"""

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
        "Which relay tasks are on air, which are down and for how long, and why do runs end?",
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
            "Tasks that are on air now according to their callbacks. Check a drop that is not a planned end.",
            _in_state("active"),
            steps=((None, GOOD),),
            spark=True,
        ),
        stat(
            "Failed",
            "Tasks with a failed last run that have not started again. Their viewers see nothing.",
            _in_state("failed"),
            steps=NONE_IS_GOOD,
            spark=True,
        ),
        stat(
            "Longest down",
            "Time since the oldest exit among the failed tasks. The service restarts most tasks by itself within a "
            "minute. Check a task that is down for more than three minutes.",
            f"max({down})",
            unit="s",
            steps=DOWN,
            nothing="no task is down",
        ),
        stat(
            "Worst destination",
            "The largest share of failed tasks of one destination. From 30 % on, the cause is probably the destination "
            "or the account, not a single stream.",
            f"max({q.failed_share()})",
            unit="percentunit",
            steps=((None, GOOD), (0.01, WORRY), (0.3, BAD)),
            nothing="no tasks",
        ),
        stat(
            "Lost",
            "Tasks without an exit and without any callback for `--relay.lost-after`. It is unknown whether they are on "
            "air: callbacks were lost, or the task was deleted.",
            _in_state("lost"),
            steps=((None, GOOD), (1, WORRY)),
            spark=True,
        ),
        stat(
            "Stopped",
            "Tasks with a planned end of their last run. They are deleted from the store after `--relay.forget-stopped-after`.",
            _in_state("stopped"),
            steps=((None, QUIET),),
            spark=True,
        ),
    ]


def _trouble() -> Row:
    return "Off air now", [
        table(
            "Down",
            "Failed tasks, their exit code, and the time since the exit, longest first. "
            "The task id links to the dashboard of the task.",
            f"max by ({', '.join(q.TASK)}, code) ({q.down()})",
            TASK_COLUMNS | {"code": "Exit code", "Value": "Down for"},
            steps=DOWN,
            nothing="No task is down.",
        ).span(13),
        graph(
            "Tasks by state",
            "All known tasks, by state. A step from green to red is an outage.",
            line(q.total(q.tasks(), "state"), "{{state}}"),
            stacked=True,
            colours=STATES,
        ).span(11),
        table(
            "Running but silent",
            "Active tasks that have finished a file and not started another one: dead air. Some seconds between two files "
            "are normal. Check a task after two minutes.",
            f"max by ({', '.join(q.TASK)}) ({q.dead_air()})",
            TASK_COLUMNS | {"Value": "Silent for"},
            steps=((None, PLAIN), (10, WORRY), (120, BAD)),
            nothing="No dead air.",
        ).height(6),
        table(
            "Files that should have ended",
            "Files that have played longer than 1.1 times their declared duration, and by how much. The stream hangs, or "
            "the callback of the finish was lost.",
            f"max by ({', '.join(q.TASK)}) (({q.overdue()}) > 0)",
            TASK_COLUMNS | {"Value": "Overdue by"},
            steps=((None, WORRY), (120, BAD)),
            nothing="No file is overdue.",
        ).height(6),
        table(
            "Lost",
            "Lost tasks and the time since their last run started. Check in the console of the service whether they still "
            "run.",
            f"max by ({', '.join(q.TASK)}) (time() - {q.gauge('task_start_timestamp_seconds')} "
            f"and ignoring (state) {q.in_state('lost')})",
            TASK_COLUMNS | {"Value": "Started ago"},
            steps=((None, WORRY),),
            nothing="No task is lost.",
        ).height(6),
    ]


def _runs() -> Row:
    return "Starts and ends of runs", [
        graph(
            "Runs ended, by exit code",
            "Runs ended per minute, by exit code; 0 is a planned end. Many exits with the same code point to a shared "
            "destination or source. The first exit with a new code is visible only in the next panel.",
            *exits(),
            unit="cpm",
            bars=True,
            colours={"0": GOOD},
        ),
        bar_gauge(
            "Exit codes in this time range",
            "Number of runs that ended with each code, in the selected time range.",
            latest(f"sort_desc({q.grown('tasks_exited_total', 'code')} > 0)", "{{code}}"),
            nothing="no run ended",
        ),
        graph(
            "Starts, restarts, failures",
            "Per minute: runs started, starts of tasks that had run before, failed runs, lost tasks. About as many "
            "restarts as failures mean that the service restarts the failed tasks.",
            line(q.per_minute("tasks_started_total"), "started"),
            line(q.per_minute("tasks_restarted_total"), "restarted"),
            line(q.per_minute("tasks_failed_total"), "failed"),
            line(q.per_minute("tasks_lost_total"), "lost"),
            unit="cpm",
            colours={"started": GOOD, "restarted": PLAIN, "failed": BAD, "lost": WORRY},
        ),
        graph(
            "Failed share by destination",
            "Share of a destination's tasks that have failed and not restarted. The alert CSSRelayDestinationFailing "
            "fires from 30 % and three tasks on.",
            line(f"max by (to_host) ({q.failed_share()})", "{{to_host}}"),
            line("vector(0.3)", "30 %"),
            unit="percentunit",
            most=1,
            bounds=["30 %"],
        ),
        quantile_graph(
            "Downtime until the next start",
            "Time between an exit and the next start of the same task. Tasks that are still down are not included.",
            "downtime_seconds",
        ),
        quantile_graph(
            "Length of the runs that ended",
            "Duration of the runs that ended. Many short runs mean that tasks fail soon after their start.",
            "run_seconds",
        ),
    ]


def _start() -> Row:
    bound = line("vector(2)", "2 s: normal up to here")
    return "From start to first file", [
        heat(
            "Start to file",
            "Time from the start of a task to the start of its first file, as a heatmap. A brighter cell has more starts. "
            "The documentation of the service calls up to 2 s normal.",
            "start_to_file_latency_seconds",
        ),
        quantile_graph(
            "Start to file, p50, p95 and p99",
            "Half, 95 % and 99 % of the starts were faster than this. Check the source if p95 stays above 2 s: the source or "
            "the service is slow. A dot is a single task (an exemplar) and links to its dashboard.",
            "start_to_file_latency_seconds",
            bound,
            bounds=["2 s: normal up to here"],
        ).span(12),
    ]


def _files() -> Row:
    return "Files", [
        graph(
            "Files started, played, interrupted",
            "Files per minute: started, played to their end, and interrupted by the exit of their run.",
            line(q.per_minute("files_started_total"), "started"),
            line(q.per_minute("files_played_total"), "played"),
            line(q.per_minute("files_interrupted_total"), "interrupted"),
            unit="cpm",
            colours={"started": PLAIN, "played": GOOD, "interrupted": BAD},
        ).span(6),
        quantile_graph(
            "Dead air between files",
            "Time from the finish of a file to the start of the next file in the same run. Viewers see nothing in between.",
            "file_gap_seconds",
        ).span(6),
        quantile_graph(
            "Play time as a share of the duration",
            "Play time of a file divided by its declared duration. 100 % is normal. Less: the file ended early. More: it "
            "stalled.",
            "file_play_ratio",
            unit="percentunit",
        ).span(6),
        quantile_graph(
            "Play time of files", "Time from the start of a file to its finish.", "file_play_seconds"
        ).span(6),
    ]


def _service() -> Row:
    return "Alarms and configuration changes", [
        graph(
            "Alarms",
            "Alarms of the service per minute: it has problems to pull from a source or to push to a destination. They often precede an exit.",
            line(f"{q.per_minute('alarms_total', 'type')} > 0", "{{type}}"),
            unit="cpm",
            bars=True,
            nothing="no alarm",
        ).span(12),
        bar_gauge(
            "Alarms in this time range",
            "Number of alarms of each type, in the selected time range.",
            latest(f"sort_desc({q.total(q.increase('alarms_total'), 'type')} > 0)", "{{type}}"),
            steps=((None, WORRY),),
            nothing="no alarm",
        ).span(6),
        graph(
            "Configuration changes",
            "Changes to the configuration of tasks per minute. If a problem starts right after a change, check the change first.",
            line(q.per_minute("config_resets_total", "to_host"), "{{to_host}}"),
            unit="cpm",
            bars=True,
        ).span(6),
    ]


def _in_state(state: str) -> str:
    """Return the query for the number of tasks in a state."""
    return q.total(q.tasks(f'state="{state}"'))
