"""The tables of docs/benchmarks.md, generated from results."""

from collections.abc import Callable, Iterable, Sequence

from bench.arrivals import RATE
from bench.budget import DISK, STAGES
from bench.contenders import SIDE_BY_SIDE
from bench.results import Results, brief, targets
from bench.scrapes import ALL, DEFAULT, FORMS
from bench.stores import STORES

#: The names of the contenders on the page.
NAMES = {
    "bare": "bare handler",
    "sqlite": "exporter, SQLite",
    "valkey": "exporter, Valkey",
    "valkey 2 replicas": "2 exporters, Valkey",
    "plain": "plain way, 2 workers",
    "pushgateway": "Pushgateway",
}
#: Patterns for the names of the figures in the table of targets, in their order.
TARGETS = (
    r"callbacks sqlite / .*",
    r"callbacks rejected or failed|callbacks answered 200 and not counted",
    r"arrivals .* p99",
    r"replicas 2 / 1.*",
    r"burst .*",
    r"scrape \w+ \d+ tasks, .*, text gzip",
    r"memory \w+ peak",
    r"growth .*",
)

Cells = Sequence[str]


def targets_table(results: Results) -> str:
    """Return the table of targets."""
    rows = [(f.name, str(f), f.target, "yes" if f.met else "**no**") for f in targets(results, TARGETS)]
    return _table(("figure", "measured", "target", "met"), rows)


def machine_table(results: Results) -> str:
    """Return the table of the machine and the package versions."""
    return _table(("", ""), [(name, str(value)) for name, value in results.machine.items()])


def callbacks_table(results: Results) -> str:
    """Return the table of the closed loop."""
    kinds = ("", " p50", " p99", " longest", ", processor time")
    rows = [
        (NAMES[name], *(str(results[f"callbacks {name}{kind}"]) for kind in kinds)) for name in SIDE_BY_SIDE
    ]
    return _table(("", "callbacks per second", "p50", "p99", "longest", "processor time per callback"), rows)


def ratios_table(results: Results) -> str:
    """Return the table of ratios of the exporter on SQLite to the other contenders."""
    rows = [
        (
            NAMES[name],
            *(brief(results[f"callbacks sqlite / {name}{kind}"].value) for kind in ("", *_EXTREMES)),
        )
        for name in ("bare", "plain", "pushgateway")
    ]
    return _table(("exporter on SQLite, as a multiple of", "median", "lowest round", "highest round"), rows)


_EXTREMES = (", lowest round", ", highest round")


def arrivals_table(results: Results) -> str:
    """Return the table of the open loop."""
    kinds = ("p50", "p95", "p99", "longest", "dropped")
    rows = [
        (NAMES[name], *(str(results[f"arrivals {name} {kind}"]) for kind in kinds)) for name in SIDE_BY_SIDE
    ]
    return _table((f"at {RATE:,} callbacks per second", *kinds), rows)


def replicas_table(results: Results) -> str:
    """Return the table of one and two replicas."""
    kinds = ("", ", processor time", ", processor time of Valkey", ", processor time of the load")
    rows = [
        (f"{replicas}", *(str(results[f"replicas {replicas}{kind}"]) for kind in kinds))
        for replicas in (1, 2)
    ]
    times = ("of the replicas", "of Valkey", "of the load generator")
    head = ("replicas", "callbacks per second", *(f"processor time {time} per callback" for time in times))
    return _table(head, rows)


def budget_table(results: Results) -> str:
    """Return the table of the processor time of a callback, by stage."""
    rows = []
    for name in (*STAGES, "everything else", "total", "bare", DISK):
        earlier = results.earlier(f"budget {name}")
        rows.append((_label(name), str(earlier or "–"), str(results[f"budget {name}"])))
    return _table(("stage", "before", "now"), rows)


def _label(name: str) -> str:
    return {
        "everything else": "everything else: HTTP, event loop, thread switches, answer",
        "total": "**total**",
        "bare": "total of the bare handler",
        DISK: "waiting for the disk (not processor time)",
    }.get(name, name)


def scrape_table(results: Results) -> str:
    """Return the table of the time and size of scrapes."""
    rows = []
    for store in STORES:
        for tasks in results.numbers_in(rf"scrape {store} (\d+) tasks, {DEFAULT}, text"):
            for shown in (DEFAULT, ALL):
                name = f"scrape {store} {tasks} tasks, {shown}"
                if results.numbers_in(rf"scrape {store} ({tasks}) tasks, {shown}, text"):
                    rows.append((store, f"{tasks:,}", shown, *_scrape_cells(results, name)))
    return _table(("store", "active tasks", "", "size", "gzip", "first scrape", *FORMS, "peak memory"), rows)


def _scrape_cells(results: Results, name: str) -> Cells:
    kinds = ("text, size", "text gzip, size", "first scrape", *FORMS, "peak memory")
    return [str(results[f"{name}, {kind}"]) for kind in kinds]


def memory_table(results: Results) -> str:
    """Return the table of start time and memory with many tasks."""
    kinds = (
        *("size", "start to first 200", "start to ready", "at the start", "first scrape", "second scrape"),
        *("after callbacks", "peak"),
    )
    rows = [(kind, *(str(results[f"memory {store} {kind}"]) for store in STORES)) for kind in kinds]
    return _table((f"{results['memory tasks']} tasks", *STORES), rows)


def growth_table(results: Results) -> str:
    """Return the table of scrape time, memory and store over millions of callbacks."""
    kinds = ("scrape", "memory", "store", "rate")
    marks = results.numbers_in(r"growth (\d+) scrape")
    rows = [(f"{mark:,}", *(str(results[f"growth {mark} {kind}"]) for kind in kinds)) for mark in marks]
    head = ("callbacks so far", "scrape", "memory of the worker", "store", "callbacks per second")
    return _table(head, rows)


def burst_table(results: Results) -> str:
    """Return the table of the burst."""
    kinds = ("callbacks", "callbacks lost", "callbacks miscounted", "time", "p50", "p99", "longest")
    return _table(kinds, [[str(results[f"burst {kind}"]) for kind in kinds]])


TABLES: dict[str, Callable[[Results], str]] = {
    "targets": targets_table,
    "machine": machine_table,
    "callbacks": callbacks_table,
    "ratios": ratios_table,
    "arrivals": arrivals_table,
    "replicas": replicas_table,
    "burst": burst_table,
    "budget": budget_table,
    "scrape": scrape_table,
    "memory": memory_table,
    "growth": growth_table,
}


def _table(head: Cells, rows: Iterable[Cells]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
