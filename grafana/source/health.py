"""Exporter health: does the exporter get its callbacks, understand them, and keep up."""

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
        "Does the exporter get its callbacks, understand them, and keep up?",
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
    return "Is it well?", [
        stat(
            "Exporters up",
            "Exporters that Prometheus can scrape. Below their number, callbacks are answered by fewer, or by none.",
            q.total(q.outside("up")),
            steps=((None, BAD), (1, GOOD)),
            nothing="none is known",
        ).span(3),
        stat(
            "Store",
            "Whether every exporter reaches its store. Down means that callbacks are refused with 503, and sent again later.",
            f"min({q.gauge('exporter_store_up')})",
            words={0: ("DOWN", BAD), 1: ("UP", GOOD)},
            nothing="unknown",
        ).span(3),
        stat(
            "Callback listener",
            "Open means that anybody who finds the port may send callbacks: set a token, a signature key or an allow list.",
            f"max({q.gauge('exporter_callback_open')})",
            words={0: ("PROTECTED", GOOD), 1: ("OPEN", WORRY)},
            nothing="unknown",
        ).span(3),
        stat(
            "Last callback",
            "How long ago any callback was taken in. Live sources send none while all is well, so that a quiet fleet "
            "is not a fault by itself.",
            f"time() - max({q.gauge('last_callback_timestamp_seconds')})",
            unit="s",
            nothing="none yet",
        ).span(3),
        stat(
            "Waiting",
            "Callbacks that wait for their commit. More than a moment's worth means that the store is slow.",
            q.total(q.gauge("exporter_queued_callbacks")),
            steps=((None, GOOD), (100, WORRY), (1000, BAD)),
            spark=True,
        ).span(3),
        stat(
            "Rejected",
            "Callbacks refused in the time range above, for whatever reason. See below for which.",
            q.total(q.increase("callbacks_rejected_total")),
            steps=((None, GOOD), (0.5, WORRY)),
        ).span(3),
        stat(
            "In quarantine",
            "Distinct bodies kept because they could not be used: callbacks the sender or the protocol got wrong. They can "
            "be looked at, and sent again once the exporter understands them.",
            q.total(q.gauge("quarantined_callbacks")),
            steps=((None, GOOD), (1, WORRY)),
        ).span(3),
        stat(
            "Age of the counters",
            "How long ago the store was made. A drop is a new or restored store: the counters begin again there, and "
            "alerts on rates are silent for a while.",
            f"time() - max({q.gauge('store_created_timestamp_seconds')})",
            unit="s",
        ).span(3),
    ]


def _callbacks() -> Row:
    return "Callbacks", [
        graph(
            "Callbacks by event",
            "Callbacks taken in, by event. A kind that stops while the others go on is worth a look.",
            line(q.total(q.rate("callbacks_total"), "event"), "{{event}}"),
            unit="cps",
            stacked=True,
        ),
        graph(
            "Callbacks by outcome",
            "Applied ones counted. Duplicates were sent again: many mean that we answer late. Stale ones came too late "
            "to be told from duplicates. Ignored ones are of no use here.",
            line(q.total(q.rate("callbacks_total"), "outcome"), "{{outcome}}"),
            unit="cps",
            stacked=True,
            colours=OUTCOMES,
        ),
        bar_gauge(
            "Last callback, by event",
            "How long ago the last callback of each event came.",
            latest(
                f"sort(time() - max by (event) ({q.gauge('last_callback_timestamp_seconds')}))", "{{event}}"
            ),
            unit="s",
            nothing="none yet",
        ),
        heat(
            "Delay of the callbacks",
            "From the time a callback states to its arrival, as a heatmap. Bright cells far up are callbacks that were "
            "sent again after minutes.",
            "callback_delay_seconds",
        ),
        quantile_graph(
            "Delay of the callbacks, p50, p95 and p99",
            "Half, 95 % and 99 % of the callbacks came sooner than this. Durations measured between arrivals are only as good as it.",
            "callback_delay_seconds",
        ).span(12),
    ]


def _unusable() -> Row:
    return "What could not be used", [
        graph(
            "Rejections by reason",
            "Callbacks refused, by reason. schema and json: the sender changed something, or it is no sender of ours; "
            "signature, address and token: somebody else knocks; rate and unavailable: we are too slow, and it is sent again.",
            line(f"{q.per_minute('callbacks_rejected_total', 'reason')} > 0", "{{reason}}"),
            unit="cpm",
            bars=True,
            nothing="nothing was rejected",
        ),
        graph(
            "Anomalies by kind",
            "What the histories of tasks lacked: missed_… are callbacks that never came, unattributed_exit an exit that "
            "fits no task, clock_skew and bad_time are clocks that differ.",
            line(f"{q.per_minute('anomalies_total', 'kind')} > 0", "{{kind}}"),
            unit="cpm",
            bars=True,
            nothing="no anomaly",
        ),
        graph(
            "Into the quarantine, by reason",
            "Distinct bodies taken into the quarantine, and those given up for room or age: these are gone.",
            line(q.per_minute("quarantined_bodies_total", "reason"), "{{reason}}"),
            line(q.per_minute("quarantine_evicted_total"), "given up"),
            unit="cpm",
            bars=True,
            colours={"given up": BAD},
        ),
        bar_gauge(
            "Unknown fields in this time range",
            "Fields of callbacks that no schema names: the protocol has grown. Nothing is lost, but read the service's "
            "documentation.",
            latest(f"sort_desc({q.grown('unknown_fields_total', 'field')} > 0)", "{{field}}"),
            nothing="no unknown field",
        )
        .span(14)
        .height(6),
        bar_gauge(
            "Cut off by a bound, in this time range",
            "What was shown as `_other`, or not at all, because a bound on the number of series was reached: raise "
            "`--metrics.max-label-sets` or `--metrics.max-tasks`, or choose fewer labels.",
            latest(q.total(q.increase("exporter_overflowed_total"), "bound"), "{{bound}}"),
            steps=((None, GOOD), (0.5, WORRY)),
        )
        .span(10)
        .height(6),
    ]


def _work() -> Row:
    return "Does it keep up?", [
        quantile_graph(
            "Time to answer",
            "How long a callback waits for its answer. The sender gives up after some seconds and sends it again.",
            "exporter_request_seconds",
        ).span(6),
        graph(
            "Answers by status",
            "Answers to callbacks, by HTTP status: 200 is counted, 4xx is refused, 429 and 503 will be sent again.",
            line(q.total(q.rate("exporter_request_seconds_count"), "status"), "{{status}}"),
            unit="cps",
            stacked=True,
            colours={"200": GOOD, "503": BAD, "429": WORRY},
        ).span(6),
        quantile_graph(
            "Time to commit a batch",
            "How long the store takes to make a batch durable. It is a disk's sync or a round trip: a rise is the "
            "first sign of a slow disk.",
            "exporter_commit_seconds",
        ).span(6),
        graph(
            "Callbacks a batch",
            "How many callbacks a commit carries, on average. It grows by itself under load.",
            line(q.mean("exporter_batch_callbacks"), "callbacks"),
            unit="short",
            dots=True,
        ).span(6),
    ]


def _process() -> Row:
    each = "{{instance}}"
    return "Scrapes and processes", [
        quantile_graph(
            "Time to render a scrape", "How long the exporter works on a scrape.", "exporter_render_seconds"
        ).span(6),
        graph(
            "Scrape duration",
            "How long a scrape takes as Prometheus sees it. It must stay well below the scrape timeout.",
            line(q.outside("scrape_duration_seconds"), each),
            unit="s",
        ).span(5),
        graph(
            "Samples a scrape",
            "How many samples a scrape holds: it grows with tasks and label sets, up to their bounds.",
            line(q.outside("scrape_samples_scraped"), each),
        ).span(5),
        table(
            "Versions",
            "What runs where. Different versions side by side are an update under way.",
            f"max by (instance, version, revision, python) ({q.gauge('exporter_build_info')})",
            {"instance": "Instance", "version": "Version", "revision": "Revision", "python": "Python"},
        ).span(8),
        graph(
            "Processor",
            "Share of one processor that the process which serves callbacks uses. At 100 % it cannot take more.",
            line(f"rate({q.outside('process_cpu_seconds_total')}[{q.RATE}])", each),
            unit="percentunit",
        ),
        graph(
            "Memory",
            "Resident memory of the process that serves callbacks. It follows the number of tasks, and is bounded with it.",
            line(q.outside("process_resident_memory_bytes"), each),
            unit="bytes",
        ),
        graph(
            "Open files",
            "File descriptors in use over those allowed. Each connection is one; at 100 % new ones are refused.",
            line(f"{q.outside('process_open_fds')} / {q.outside('process_max_fds')}", each),
            unit="percentunit",
        ),
    ]
