"""The dashboard Exporter health: do callbacks arrive, are they valid, does the exporter keep up?"""

from grafana.source import queries as q
from grafana.source.frame import Row, assemble, several
from grafana.source.panels import (
    BAD,
    GOOD,
    PLAIN,
    QUIET,
    WORRY,
    bar_gauge,
    graph,
    heat,
    latest,
    line,
    quantile_graph,
    stat,
    table,
)

OUTCOMES = {"applied": GOOD, "duplicate": PLAIN, "stale": WORRY, "ignored": QUIET}


def dashboard() -> str:
    """Return the text of exporter-health.json."""
    return assemble(
        "css-relay-health",
        "Do callbacks arrive, are they valid, and does the exporter keep up?",
        variables=[
            several("job", "label_values(css_relay_exporter_build_info, job)", everything=".+"),
            several(
                "instance",
                f"label_values(css_relay_exporter_build_info{{{q.JOB}}}, instance)",
                everything=".+",
            ),
        ],
        links=["css-relay-overview", "css-relay-task"],
        rows=[_now(), _callbacks(), _unusable(), _work(), _process()],
        since="now-6h",
    )


def _now() -> Row:
    return "Health now", [
        stat(
            "Exporters up",
            "Exporters that Prometheus can scrape. If there are fewer than you run, check the processes that are missing.",
            q.total(q.outside("up")),
            steps=((None, BAD), (1, GOOD)),
            nothing="no exporter",
        ).span(3),
        stat(
            "Store",
            "Whether every exporter can use its store. While it is DOWN, callbacks get a 503 and the sender sends them again for about 12 minutes.",
            f"min({q.gauge('exporter_store_up')})",
            words={0: ("DOWN", BAD), 1: ("UP", GOOD)},
            nothing="unknown",
        ).span(3),
        stat(
            "Callback listener",
            "OPEN means that anybody who reaches the port can send callbacks. Set a token, require a signature, or set an allow list.",
            f"max({q.gauge('exporter_callback_open')})",
            words={0: ("PROTECTED", GOOD), 1: ("OPEN", WORRY)},
            nothing="unknown",
        ).span(3),
        stat(
            "Last callback",
            "Time since the last callback that was answered with 200. Live sources send no callbacks while all is well: a "
            "long time is not a fault by itself.",
            f"time() - max({q.gauge('last_callback_timestamp_seconds')})",
            unit="s",
            nothing="none yet",
        ).span(3),
        stat(
            "Waiting",
            "Callbacks in the queue for the next commit. A queue that stays long means that the store is slow.",
            q.total(q.gauge("exporter_queued_callbacks")),
            steps=((None, GOOD), (100, WORRY), (1000, BAD)),
            spark=True,
        ).span(3),
        stat(
            "Rejected",
            "Callbacks rejected in the selected time range, for all reasons. The panel Rejections by reason shows them by reason.",
            q.total(q.increase("callbacks_rejected_total")),
            steps=((None, GOOD), (0.5, WORRY)),
        ).span(3),
        stat(
            "In quarantine",
            "Distinct bodies, rejected or with an unknown event, that are kept for inspection and replay. See `css-relay-exporter quarantine list`. Replay "
            "them after an update of the exporter that accepts them.",
            q.total(q.gauge("quarantined_callbacks")),
            steps=((None, GOOD), (1, WORRY)),
        ).span(3),
        stat(
            "Age of the counters",
            "Time since the store was created or restored. After a drop the counters start again, and alerts on increases "
            "do not fire for up to an hour.",
            f"time() - max({q.gauge('store_created_timestamp_seconds')})",
            unit="s",
        ).span(3),
    ]


def _callbacks() -> Row:
    return "Callbacks", [
        graph(
            "Callbacks by event",
            "Callbacks answered with 200, per second, by event. Check an event that stops while the others continue.",
            line(q.total(q.rate("callbacks_total"), "event"), "{{event}}"),
            unit="cps",
            stacked=True,
        ),
        graph(
            "Callbacks by outcome",
            "applied: counted. duplicate: a redelivery; many of them mean that the sender does not receive the answers in time. "
            "stale: too late to be distinguished from a redelivery. ignored: an event that the exporter does not know.",
            line(q.total(q.rate("callbacks_total"), "outcome"), "{{outcome}}"),
            unit="cps",
            stacked=True,
            colours=OUTCOMES,
        ),
        bar_gauge(
            "Last callback, by event",
            "Time since the last callback of each event.",
            latest(
                f"sort(time() - max by (event) ({q.gauge('last_callback_timestamp_seconds')}))", "{{event}}"
            ),
            unit="s",
            nothing="none yet",
        ),
        heat(
            "Delay of the callbacks",
            "Time from the event time to the arrival, as a heatmap. Bright cells far up are callbacks that arrived "
            "minutes late, for example after several attempts.",
            "callback_delay_seconds",
        ),
        quantile_graph(
            "Delay of the callbacks, p50, p95 and p99",
            "Half, 95 % and 99 % of the callbacks arrived sooner than this after their event. A high delay makes durations less exact.",
            "callback_delay_seconds",
        ).span(12),
    ]


def _unusable() -> Row:
    return "Rejected callbacks and anomalies", [
        graph(
            "Rejections by reason",
            "Callbacks rejected per minute, by reason. schema and json: the protocol has changed, or another sender posts. "
            "signature, address and token: a wrong key, or another sender. rate: over the rate limit. unavailable: the store is "
            "down or the queue is full. Callbacks with the last two reasons are sent again.",
            line(f"{q.per_minute('callbacks_rejected_total', 'reason')} > 0", "{{reason}}"),
            unit="cpm",
            bars=True,
            nothing="nothing was rejected",
        ),
        graph(
            "Anomalies by kind",
            "Anomalies per minute. missed_…: a callback never arrived. unattributed_exit: an exit that matches no single task. "
            "clock_skew, bad_time: the event time does not match the exporter's clock.",
            line(f"{q.per_minute('anomalies_total', 'kind')} > 0", "{{kind}}"),
            unit="cpm",
            bars=True,
            nothing="no anomaly",
        ),
        graph(
            "Into the quarantine, by reason",
            "Distinct bodies put into the quarantine per minute, by reason. evicted: bodies deleted because of the limits on "
            "number, size and age; they cannot be replayed.",
            line(q.per_minute("quarantined_bodies_total", "reason"), "{{reason}}"),
            line(q.per_minute("quarantine_evicted_total"), "evicted"),
            unit="cpm",
            bars=True,
            colours={"evicted": BAD},
        ),
        bar_gauge(
            "Unknown fields in this time range",
            "Fields of callbacks that are in no schema: the protocol was extended. Nothing is lost. Check the "
            "documentation of the service for their meaning.",
            latest(f"sort_desc({q.grown('unknown_fields_total', 'field')} > 0)", "{{field}}"),
            nothing="no unknown field",
        )
        .span(14)
        .height(6),
        bar_gauge(
            "Over a limit on series, in this time range",
            "Values that are shown as `_other`, or tasks without series, because a limit was exceeded. Raise "
            "`--metrics.max-label-sets` or `--metrics.max-tasks`, or use fewer labels.",
            latest(q.total(q.increase("exporter_overflowed_total"), "bound"), "{{bound}}"),
            steps=((None, GOOD), (0.5, WORRY)),
        )
        .span(10)
        .height(6),
    ]


def _work() -> Row:
    return "Speed of the answers", [
        quantile_graph(
            "Time to answer",
            "Time that a callback waits for its answer. The sender stops waiting after 5 to 20 s and sends the callback again.",
            "exporter_request_seconds",
        ).span(6),
        graph(
            "Answers by status",
            "Answers to callbacks, by HTTP status. 200: accepted. 4xx: rejected. 429 and 503: nothing was counted, the sender sends the callback again.",
            line(q.total(q.rate("exporter_request_seconds_count"), "status"), "{{status}}"),
            unit="cps",
            stacked=True,
            colours={"200": GOOD, "503": BAD, "429": WORRY},
        ).span(6),
        quantile_graph(
            "Time to commit a batch",
            "Time that the store needs to commit a batch: mostly the disk's sync (SQLite) or the round trip (Valkey). A "
            "rise is the first sign of a slow disk.",
            "exporter_commit_seconds",
        ).span(6),
        graph(
            "Callbacks per batch",
            "Mean number of callbacks in one commit. It rises with the load.",
            line(q.mean("exporter_batch_callbacks"), "callbacks"),
            unit="short",
            dots=True,
        ).span(6),
    ]


def _process() -> Row:
    each = "{{instance}}"
    return "Scrapes and processes", [
        quantile_graph(
            "Time to render a scrape",
            "Time that the exporter needs to render a scrape.",
            "exporter_render_seconds",
        ).span(6),
        graph(
            "Scrape duration",
            "Duration of a scrape as measured by Prometheus. It must stay well below the scrape timeout (10 s by default).",
            line(q.outside("scrape_duration_seconds"), each),
            unit="s",
        ).span(5),
        graph(
            "Samples per scrape",
            "Number of samples in a scrape. It grows with the number of tasks and label sets, up to their limits.",
            line(q.outside("scrape_samples_scraped"), each),
        ).span(5),
        table(
            "Versions",
            "The version of each exporter. Different versions are normal only during an update.",
            f"max by (instance, version, revision, python) ({q.gauge('exporter_build_info')})",
            {"instance": "Instance", "version": "Version", "revision": "Revision", "python": "Python"},
        ).span(8),
        graph(
            "Processor",
            "Processor time that the worker uses, as a share of one core. At 100 % it cannot accept more callbacks.",
            line(f"rate({q.outside('process_cpu_seconds_total')}[{q.RATE}])", each),
            unit="percentunit",
        ),
        graph(
            "Memory",
            "Resident memory of the worker. It grows with the number of tasks.",
            line(q.outside("process_resident_memory_bytes"), each),
            unit="bytes",
        ),
        graph(
            "Open files",
            "Open file descriptors as a share of the limit. Each connection needs one; at 100 % no new connection is accepted.",
            line(f"{q.outside('process_open_fds')} / {q.outside('process_max_fds')}", each),
            unit="percentunit",
        ),
    ]
