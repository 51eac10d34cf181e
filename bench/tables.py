"""The tables of docs/benchmarks.md, each made from results."""

from collections.abc import Callable, Iterable, Sequence

from bench.arrivals import RATE
from bench.budget import DISK, PARTS
from bench.contenders import SIDE_BY_SIDE
from bench.results import Results, brief, targets
from bench.scrapes import ALL, DEFAULT, FORMS
from bench.stores import STORES

#: As the page names those that are measured.
NAMES = {
    "bare": "bare handler",
    "sqlite": "exporter, SQLite",
    "valkey": "exporter, Valkey",
    "valkey 2 replicas": "2 exporters, Valkey",
    "plain": "plain way, 2 workers",
    "pushgateway": "Pushgateway",
}
#: What is asked of the exporter, as patterns of names.
ASKED = (
    r"callbacks sqlite / .*",
    r"callbacks refused or broken|callbacks answered 200 and not counted",
    r"arrivals .* p99",
    r"replicas 2 / 1.*",
    r"burst .*",
    r"scrape \w+ \d+ tasks, .*, text gzip",
    r"memory \w+ at its highest",
    r"growth .*",
)

Cells = Sequence[str]


def targets_table(results: Results) -> str:
    """What is asked, and whether it is so."""
    rows = [(f.name, str(f), f.target, "yes" if f.met else "**no**") for f in targets(results, ASKED)]
    return _table(("figure", "measured", "asked", "met"), rows)


def machine_table(results: Results) -> str:
    """What all of it was measured on."""
    return _table(("", ""), [(name, str(value)) for name, value in results.machine.items()])


def callbacks_table(results: Results) -> str:
    """The closed loop."""
    kinds = ("", " p50", " p99", " longest", ", processor time each")
    rows = [
        (NAMES[name], *(str(results[f"callbacks {name}{kind}"]) for kind in kinds)) for name in SIDE_BY_SIDE
    ]
    return _table(("", "callbacks a second", "p50", "p99", "longest", "processor time a callback"), rows)


def ratios_table(results: Results) -> str:
    """The exporter on SQLite against the others."""
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
    """The open loop."""
    kinds = ("p50", "p95", "p99", "longest", "dropped")
    rows = [
        (NAMES[name], *(str(results[f"arrivals {name} {kind}"]) for kind in kinds)) for name in SIDE_BY_SIDE
    ]
    return _table((f"at {RATE:,} callbacks a second", *kinds), rows)


def replicas_table(results: Results) -> str:
    """One and two replicas."""
    kinds = ("", ", processor time each", ", Valkey's each", ", the load's each")
    rows = [
        (f"{replicas}", *(str(results[f"replicas {replicas}{kind}"]) for kind in kinds))
        for replicas in (1, 2)
    ]
    head = ("replicas", "callbacks a second", "replicas' time a callback", "Valkey's", "the load's")
    return _table(head, rows)


def budget_table(results: Results) -> str:
    """Where the time of a callback goes."""
    rows = []
    for name in (*PARTS, "everything else", "the whole", "bare", DISK):
        earlier = results.earlier(f"budget {name}")
        rows.append((_label(name), str(earlier or "–"), str(results[f"budget {name}"])))
    return _table(("part", "before", "now"), rows)


def _label(name: str) -> str:
    return {
        "everything else": "everything else: HTTP, event loop, waking up, answer",
        "the whole": "**the whole**",
        "bare": "the bare handler",
        DISK: "waiting for the disk, while nothing else is done",
    }.get(name, name)


def scrape_table(results: Results) -> str:
    """Time and size of scrapes."""
    rows = []
    for store in STORES:
        for tasks in results.numbers_in(rf"scrape {store} (\d+) tasks, {DEFAULT}, text"):
            for shown in (DEFAULT, ALL):
                name = f"scrape {store} {tasks} tasks, {shown}"
                if results.numbers_in(rf"scrape {store} ({tasks}) tasks, {shown}, text"):
                    rows.append((store, f"{tasks:,}", shown, *_scrape_cells(results, name)))
    return _table(("store", "active tasks", "", "size", "gzip", "first of all", *FORMS, "memory"), rows)


def _scrape_cells(results: Results, name: str) -> Cells:
    kinds = ("text, size", "text gzip, size", "the first of all", *FORMS, "memory at its highest")
    return [str(results[f"{name}, {kind}"]) for kind in kinds]


def memory_table(results: Results) -> str:
    """Start-up and memory with many tasks."""
    kinds = (
        *("size", "start to first 200", "start to ready", "at the start", "first scrape", "second scrape"),
        *("after callbacks", "at its highest"),
    )
    rows = [(kind, *(str(results[f"memory {store} {kind}"]) for store in STORES)) for kind in kinds]
    return _table((f"{results['memory tasks']} tasks", *STORES), rows)


def growth_table(results: Results) -> str:
    """What stays as it is over millions of callbacks."""
    kinds = ("scrape", "memory", "store", "rate")
    marks = results.numbers_in(r"growth (\d+) scrape")
    rows = [(f"{mark:,}", *(str(results[f"growth {mark} {kind}"]) for kind in kinds)) for mark in marks]
    return _table(("callbacks so far", "scrape", "memory of the worker", "store", "callbacks a second"), rows)


def burst_table(results: Results) -> str:
    """A burst."""
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
