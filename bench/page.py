"""Writes docs/benchmarks.md's tables and plots: `python -m bench.page RESULTS.json...`.

What a run measured takes the place of the same sections in docs/benchmarks.json. The page and the plots are
made of that file alone, to which a test holds them. The prose between the tables is written by hand.
"""

import argparse
import re
import sys
from pathlib import Path

import msgspec

from bench.plots import PLOTS
from bench.program import ROOT
from bench.results import merged, read
from bench.tables import TABLES

DOCS = ROOT / "docs"
RESULTS = DOCS / "benchmarks.json"
PAGE = DOCS / "benchmarks.md"


def text() -> str:
    """Return docs/benchmarks.md with its tables made anew."""
    results = read(RESULTS)
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: found[1] + TABLES[found[2]](results) + found[3],
        PAGE.read_text(),
        flags=re.DOTALL,
    )


def plot(name: str) -> str:
    """Return the plot with that name, as SVG."""
    return PLOTS[name](read(RESULTS))


def main() -> int:
    """Take newer results over, and write; return the exit status, 2 if they do not go together."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description="Write docs/benchmarks.md.")
    parser.add_argument("runs", nargs="*", type=Path, help="what `python -m bench --json` wrote")
    parser.add_argument("--before", type=Path, help="a run of an older checkout, whose budget stands beside")
    options = parser.parse_args()
    before = read(options.before) if options.before else None
    try:
        results = merged(read(RESULTS), [read(run) for run in options.runs], before)
    except ValueError as exc:
        print(f"bench.page: {exc}", file=sys.stderr)
        return 2
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    PAGE.write_text(text())
    for name in PLOTS:
        (DOCS / "pictures" / name).write_text(plot(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
