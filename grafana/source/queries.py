"""The PromQL of the dashboards, written so that no panel can count a number twice.

Every replica shows the same numbers of the store: of those one replica's are taken (`max without (instance,
pod)`, after the rate, never before it), and only then are they summed. What a process tells of itself is summed
over replicas, and can be looked at replica by replica. Which of the two a family is, the catalogue says.
"""

from exporter.metrics.catalogue import CATALOGUE, PREFIX, Family, Scope

#: Of a rate: Grafana makes it as long as four scrapes at least.
RATE = "$__rate_interval"
#: The whole time range of the dashboard.
RANGE = "$__range"

JOB = 'job=~"$job"'
INSTANCE = 'instance=~"$instance"'
DESTINATION = 'appid=~"$appid", to_host=~"$to_host"'

#: What a task is known by, in tables and in joins.
TASK = ("appid", "task_id", "to_host")


def series(name: str, *matchers: str) -> str:
    """Return the selector of a family, or of a histogram's part, filtered by the dashboard's variables."""
    return f"{PREFIX}{name}{{{', '.join((*_filters(_family(name)), *matchers))}}}"


def gauge(name: str, *matchers: str) -> str:
    """Return a gauge, one series where replicas show the same."""
    return _once(name, series(name, *matchers))


def rate(name: str, *matchers: str) -> str:
    """Return a counter's growth per second."""
    return _once(name, f"rate({series(name, *matchers)}[{RATE}])")


def increase(name: str, *matchers: str, window: str = RANGE) -> str:
    """Return by how much a counter grew, in the dashboard's whole range unless told."""
    return _once(name, f"increase({series(name, *matchers)}[{window}])")


def grown(name: str, *by: str) -> str:
    """Return by how much a counter of the store grew in the dashboard's range, exactly.

    `increase` does not see the step to 1 that a series begins with, which for a label whose values are not known in
    advance is the one that matters. Counters of the store never go backwards, so that a difference tells.
    """
    now, before = _once(name, series(name)), _once(name, f"{series(name)} offset {RANGE}")
    return total(f"clamp_min({now} - ({before} or 0 * {now}), 0)", *by)


def newest(name: str, *matchers: str) -> str:
    """Return a gauge's last value in the dashboard's range, even where it is gone by now."""
    return _once(name, f"last_over_time({series(name, *matchers)}[{RANGE}])")


def total(expression: str, *by: str) -> str:
    """Return the sum of what the functions above give, by the labels named."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def per_minute(name: str, *by: str, only: str = "") -> str:
    """Return how often a minute a counter counts: what it counts is too rare to be told by the second.

    Args:
        only: a further matcher.
    """
    return f"60 * {total(rate(name, *[only] * bool(only)), *by)}"


def quantile(q: float, name: str, *by: str) -> str:
    """Return a quantile of a histogram over the last rate interval; nothing, not NaN, where nothing was measured."""
    return f"histogram_quantile({q:g}, {total(rate(name + '_bucket'), 'le', *by)}) >= 0"


def buckets(name: str) -> str:
    """Return a histogram's observations of each rate interval, by bucket, for a heatmap."""
    return total(increase(name + "_bucket", window=RATE), "le")


def mean(name: str) -> str:
    """Return the mean of a histogram's observations; nothing where nothing was measured."""
    return f"{total(rate(name + '_sum'))} / ({total(rate(name + '_count'))} > 0)"


def outside(name: str) -> str:
    """Return a series of the exporter's targets that the catalogue does not name, such as `up`."""
    return f"{name}{{{JOB}, {INSTANCE}}}"


def in_state(state: str, *matchers: str) -> str:
    """Return a series for each task that is in a state."""
    return gauge("task_state", f'state="{state}"', *matchers) + " == 1"


def recorded(rule: str, expression: str, *matchers: str) -> str:
    """Return what a recording rule holds, as the alerts see it; of a job without the rules, the expression."""
    return f"{rule}{{{', '.join((JOB, DESTINATION, *matchers))}}} or on (job) ({expression})"


def down(*matchers: str) -> str:
    """Return for how long each failed task has been down."""
    exits = gauge("task_exit_timestamp_seconds", *matchers)
    return recorded(
        "task:css_relay_down:seconds",
        f"time() - ({exits} and ignoring (code, state) {in_state('failed', *matchers)})",
        *matchers,
    )


def dead_air(*matchers: str) -> str:
    """Return for how long each active task has played nothing after a file."""
    finish = gauge("task_file_finish_timestamp_seconds", *matchers)
    return recorded("task:css_relay_dead_air:seconds", f"time() - {finish}", *matchers)


def overdue(*matchers: str) -> str:
    """Return how long each file is past 1.1 times its length; below 0 while it is in time."""
    start = gauge("task_file_start_timestamp_seconds", *matchers)
    length = gauge("task_file_duration_seconds", *matchers)
    return recorded(
        "task:css_relay_file_overdue:seconds", f"time() - {start} - 1.1 * ({length} > 0)", *matchers
    )


def tasks(*matchers: str) -> str:
    """Return the number of tasks, by label set and state."""
    return recorded("fleet:css_relay_tasks:max", gauge("tasks", *matchers), *matchers)


def failed_share() -> str:
    """Return which part of a destination's tasks that should be on air has failed."""
    without = "sum without (state, source_host, stream_id, task_id)"
    failed, wanted = gauge("tasks", 'state="failed"'), gauge("tasks", 'state=~"active|failed|lost"')
    return recorded(
        "fleet:css_relay_tasks_failed:ratio", f"{without} ({failed}) / ({without} ({wanted}) > 0)"
    )


def _once(name: str, expression: str) -> str:
    if _family(name).scope is Scope.PROCESS:
        return expression
    return f"max without (instance, pod) ({expression})"


def _filters(family: Family) -> tuple[str, ...]:
    """Return the variables a family is filtered by; the store's are the same from every instance."""
    if family.scope is Scope.PROCESS:
        return JOB, INSTANCE
    if family.scope in (Scope.LABELLED, Scope.TASK) or family.name == "tasks":
        return JOB, DESTINATION
    return (JOB,)


def _family(name: str) -> Family:
    """Return the family of a series; a name that is not in the catalogue is a KeyError."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    return CATALOGUE[name.rsplit("_", 1)[0]]
