"""The plots of docs/benchmarks.md as SVG; the same results give the same bytes, for comparison in a test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.arrivals import LIMIT_MS, RATE
from bench.contenders import DURABLE, SIDE_BY_SIDE
from bench.results import Results
from bench.scrapes import ALL, DEFAULT, DEFAULT_SERIES, LIMITS_MS
from bench.stores import STORES
from bench.tables import NAMES

STYLE = {
    "svg.hashsalt": "css-relay-exporter",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
}
OURS, OTHERS, LIMIT = "#1f6fb4", "#9aa3ad", "#c0392b"
STORE_COLOURS = {"sqlite": OURS, "valkey": "#d9822b"}
STORE_NAMES = {"sqlite": "SQLite", "valkey": "Valkey"}
SERIES = {DEFAULT: f"series for {DEFAULT_SERIES:,} tasks", ALL: "series for all"}
PERCENTILES = {"p50": "o", "p95": "s", "p99": "D", "longest": "|"}
THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")
PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")


def throughput(results: Results) -> str:
    """Return the plot of callbacks per second of all contenders."""
    with _drawn(3.0) as drawing:
        axes = drawing.subplots()
        names = sorted(SIDE_BY_SIDE, key=lambda name: results[f"callbacks {name}"].value)
        rates = [results[f"callbacks {name}"].value for name in names]
        bars = axes.barh([NAMES[n] for n in names], rates, color=[_colour(n) for n in names], height=0.65)
        axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4)
        axes.set_title("Callbacks per second, 64 connections (blue: durable)")
        axes.set_xlabel("callbacks per second")
        axes.xaxis.set_major_formatter(THOUSANDS)
        axes.set_xlim(0, max(rates) * 1.12)
        axes.grid(visible=False, axis="y")
    return _svg(drawing)


def latency(results: Results) -> str:
    """Return the plot of percentiles of the time to an answer, at a fixed rate."""
    with _drawn(3.3) as drawing:
        axes = drawing.subplots()
        names = list(reversed(SIDE_BY_SIDE))
        for row, name in enumerate(names):
            times = [results[f"arrivals {name} {percentile}"].value for percentile in PERCENTILES]
            axes.plot([times[0], times[-1]], [row, row], color=_colour(name), linewidth=1, alpha=0.5)
            for time, marker in zip(times, PERCENTILES.values(), strict=True):
                axes.plot(time, row, marker, color=_colour(name), markersize=7, markeredgewidth=2)
        for percentile, marker in PERCENTILES.items():
            axes.plot([], [], marker, color="#444444", markersize=7, markeredgewidth=2, label=percentile)
        axes.axvline(
            LIMIT_MS, color=LIMIT, linestyle="--", linewidth=1, label=f"target for p99, {LIMIT_MS} ms"
        )
        axes.set_yticks(range(len(names)), [NAMES[n] for n in names])
        axes.set_title(f"Time to an answer at {RATE:,} callbacks per second")
        _log(axes, "x", "milliseconds")
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _svg(drawing)


def scrapes(results: Results) -> str:
    """Return the plot of the scrape time by number of active tasks."""
    with _drawn(3.8) as drawing:
        axes = drawing.subplots()
        for store in STORES:
            for shown, line in ((DEFAULT, "-"), (ALL, "--")):
                tasks = results.numbers_in(rf"scrape {store} (\d+) tasks, {shown}, text")
                times = [results[f"scrape {store} {n} tasks, {shown}, text gzip"].value for n in tasks]
                label = f"{STORE_NAMES[store]}, {SERIES[shown]}"
                axes.plot(tasks, times, line, marker="o", color=STORE_COLOURS[store], label=label)
        axes.plot(*zip(*LIMITS_MS.items(), strict=True), "v", color=LIMIT, label="target", markersize=8)
        axes.set_title("Scrape time (text, gzip)")
        _log(axes, "x", "active tasks")
        _log(axes, "y", "milliseconds")
        axes.legend(loc="upper left")
    return _svg(drawing)


def growth(results: Results) -> str:
    """Return the plot of scrape time and memory over millions of callbacks."""
    marks = results.numbers_in(r"growth (\d+) scrape")
    with _drawn(3.8) as drawing:
        upper, lower = drawing.subplots(2, 1, sharex=True)
        for axes, kind, unit in ((upper, "scrape", "milliseconds"), (lower, "memory", "MiB")):
            values = [results[f"growth {mark} {kind}"].value for mark in marks]
            axes.plot([mark / 1e6 for mark in marks], values, marker="o", color=OURS)
            axes.set_ylim(0, max(values) * 1.3)
            axes.set_ylabel(unit)
        upper.set_title("Scrape time, 1,000 active tasks")
        lower.set_title("Memory of the worker")
        lower.set_xlabel("accepted callbacks, millions")
        lower.set_xlim(left=0)
        drawing.align_ylabels()
    return _svg(drawing)


PLOTS: dict[str, Callable[[Results], str]] = {
    "benchmark-throughput.svg": throughput,
    "benchmark-latency.svg": latency,
    "benchmark-scrapes.svg": scrapes,
    "benchmark-growth.svg": growth,
}


def _colour(name: str) -> str:
    return OURS if name in DURABLE else OTHERS


def _log(axes: Axes, which: str, label: str) -> None:
    axes.set(**{f"{which}scale": "log", f"{which}label": label})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())


@contextmanager
def _drawn(height_inches: float) -> Iterator[Figure]:
    with mpl.rc_context(STYLE):
        yield Figure(figsize=(7.6, height_inches), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def _svg(drawing: Figure) -> str:
    with mpl.rc_context(STYLE):
        text = StringIO()
        FigureCanvasSVG(drawing).print_svg(text, metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
