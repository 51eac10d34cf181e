"""Write the tables and plots of docs/benchmarks.md: `python -m bench.page RESULTS.json...`.

The sections of a run replace the same sections in docs/benchmarks.json. The tables and plots are generated
from that file only; a test checks this. The text between the tables is written by hand.
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
    """Return docs/benchmarks.md with newly generated tables."""
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
    """Merge newer results and write the page; return the exit status: 2 if the machines differ."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description="Write docs/benchmarks.md.")
    parser.add_argument("runs", nargs="*", type=Path, help="files of `python -m bench --json`")
    parser.add_argument(
        "--before", type=Path, help="a run of an older checkout, to show its budget in a column"
    )
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
