"""The PromQL of the dashboards, built so that no panel counts a value twice.

Every replica shows the same families of the store: `max without (instance, pod)` takes them once, after the rate
and never before it, and sums come after that. Families of the process are summed over the replicas, or filtered by
instance. The metric catalogue states the scope of each family.
"""

from exporter.metrics.catalogue import CATALOGUE, PREFIX, Family, Scope

#: The window of rates: Grafana sets it to four scrape intervals at least.
RATE = "$__rate_interval"
#: The whole time range of the dashboard.
RANGE = "$__range"

JOB = 'job=~"$job"'
INSTANCE = 'instance=~"$instance"'
DESTINATION = 'appid=~"$appid", to_host=~"$to_host"'

#: The labels that identify a task, in tables and joins.
TASK = ("appid", "task_id", "to_host")


def series(name: str, *matchers: str) -> str:
    """Return the selector of a family, or of a histogram's part, filtered by the dashboard's variables."""
    return f"{PREFIX}{name}{{{', '.join((*_filters(_family(name)), *matchers))}}}"


def gauge(name: str, *matchers: str) -> str:
    """Return a gauge, once for all replicas if it is of the store."""
    return _once(name, series(name, *matchers))


def rate(name: str, *matchers: str) -> str:
    """Return a counter's rate per second."""
    return _once(name, f"rate({series(name, *matchers)}[{RATE}])")


def increase(name: str, *matchers: str, window: str = RANGE) -> str:
    """Return a counter's increase, by default over the dashboard's whole time range."""
    return _once(name, f"increase({series(name, *matchers)}[{window}])")


def grown(name: str, *by: str) -> str:
    """Return a store counter's exact increase over the dashboard's time range.

    `increase` does not see the first value of a new series, which is 1 here. A label with values that are not known
    in advance, such as an exit code, gets new series often. Counters of the store never decrease, so the difference
    of two values is exact.
    """
    now, before = _once(name, series(name)), _once(name, f"{series(name)} offset {RANGE}")
    return total(f"clamp_min({now} - ({before} or 0 * {now}), 0)", *by)


def newest(name: str, *matchers: str) -> str:
    """Return a gauge's last value in the dashboard's time range, also if the series has ended."""
    return _once(name, f"last_over_time({series(name, *matchers)}[{RANGE}])")


def total(expression: str, *by: str) -> str:
    """Return the sum of an expression by the named labels."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def per_minute(name: str, *by: str, only: str = "") -> str:
    """Return a counter's rate per minute, for events that are too rare for a rate per second.

    Args:
        only: a further matcher.
    """
    return f"60 * {total(rate(name, *[only] * bool(only)), *by)}"


def quantile(q: float, name: str, *by: str) -> str:
    """Return a quantile of a histogram over the rate interval; no sample instead of NaN if nothing was observed."""
    return f"histogram_quantile({q:g}, {total(rate(name + '_bucket'), 'le', *by)}) >= 0"


def buckets(name: str) -> str:
    """Return a histogram's observations per rate interval, by bucket, for a heatmap."""
    return total(increase(name + "_bucket", window=RATE), "le")


def mean(name: str) -> str:
    """Return the mean of a histogram's observations; no sample if nothing was observed."""
    return f"{total(rate(name + '_sum'))} / ({total(rate(name + '_count'))} > 0)"


def outside(name: str) -> str:
    """Return a series of the exporter's targets that is not in the catalogue, such as `up`."""
    return f"{name}{{{JOB}, {INSTANCE}}}"


def in_state(state: str, *matchers: str) -> str:
    """Return one series for each task that is in a state."""
    return gauge("task_state", f'state="{state}"', *matchers) + " == 1"


def recorded(rule: str, expression: str, *matchers: str) -> str:
    """Return the result of a recording rule; for a job without the rule, the expression itself."""
    return f"{rule}{{{', '.join((JOB, DESTINATION, *matchers))}}} or on (job) ({expression})"


def down(*matchers: str) -> str:
    """Return how long each failed task has been down, in seconds."""
    exits = gauge("task_exit_timestamp_seconds", *matchers)
    return recorded(
        "task:css_relay_down:seconds",
        f"time() - ({exits} and ignoring (code, state) {in_state('failed', *matchers)})",
        *matchers,
    )


def dead_air(*matchers: str) -> str:
    """Return how long each active task has played nothing after a file, in seconds."""
    finish = gauge("task_file_finish_timestamp_seconds", *matchers)
    return recorded("task:css_relay_dead_air:seconds", f"time() - {finish}", *matchers)


def overdue(*matchers: str) -> str:
    """Return how long each file has played beyond 1.1 times its duration, in seconds; negative before that."""
    start = gauge("task_file_start_timestamp_seconds", *matchers)
    length = gauge("task_file_duration_seconds", *matchers)
    return recorded(
        "task:css_relay_file_overdue:seconds", f"time() - {start} - 1.1 * ({length} > 0)", *matchers
    )


def tasks(*matchers: str) -> str:
    """Return the number of tasks, by label set and state."""
    return recorded("fleet:css_relay_tasks:max", gauge("tasks", *matchers), *matchers)


def failed_share() -> str:
    """Return the share of failed tasks among a destination's tasks that should be on air, from 0 to 1."""
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
    """Return the filters of a family; families of the store are the same from every instance and not filtered by it."""
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
