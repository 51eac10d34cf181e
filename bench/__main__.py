"""The command of `make bench`: measure, print a table, write JSON. `--help` lists the options."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import orjson

from bench import arrivals, budget, burst, growth, memory, replicas, scrapes, throughput
from bench.report import Figure, document, table

IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
BURST = 10_000
SCRAPES = 5
CALLBACKS = 1_000
BATCHES = 400
#: Sections that take many minutes; they run only if `--only` names them.
LONG = ("growth",)

Section = Callable[[Path, Sequence[str]], Iterator[Figure]]


def main() -> int:
    """Measure the selected sections; return the exit status: with `--check`, 1 if a target is missed."""
    options = _options()
    sections = _sections(options)
    wanted = options.only or [name for name in sections if name not in LONG]
    if set(wanted) - sections.keys():
        print(f"bench: --only: expected some of {', '.join(sections)}", file=sys.stderr)
        return 2
    disk = options.folder or _disk()
    figures = [
        figure for name in sections if name in wanted for figure in _run(sections[name], disk, options.flag)
    ]
    print(table(figures), end="")
    if options.json:
        options.json.write_bytes(
            orjson.dumps(document(figures, _filesystem(disk)), option=orjson.OPT_INDENT_2)
        )
    return 1 if options.check and not all(figure.is_met for figure in figures) else 0


def _sections(options: argparse.Namespace) -> Mapping[str, Section]:
    rounds = {"rounds": options.rounds, "seconds": options.seconds}
    spread = {"destinations": options.destinations}
    return {
        "callbacks": partial(throughput.measure, **rounds, **spread),
        "arrivals": partial(arrivals.measure, seconds=2 * options.seconds, **spread),
        "replicas": partial(replicas.measure, **rounds, **spread),
        "burst": partial(burst.measure, callbacks=BURST, **spread),
        "scrape": partial(scrapes.measure, fleets=options.fleets, times=SCRAPES),
        "memory": partial(memory.measure, tasks=max(options.fleets), callbacks=CALLBACKS),
        "budget": partial(budget.measure, **rounds, batches=BATCHES),
        "growth": partial(growth.measure, marks=options.marks),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the exporter.")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        help="sections, with commas between them: callbacks, arrivals, replicas, burst, scrape, memory, "
        "budget, growth (default: all but growth)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of callbacks, default 3")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of a round, default 5")
    parser.add_argument("--destinations", type=int, default=1, help="destinations of the tasks, default 1")
    parser.add_argument(
        "--fleets",
        type=_numbers,
        default=scrapes.FLEETS,
        help="numbers of active tasks for scrape, with commas between them; memory uses the largest",
    )
    parser.add_argument(
        "--marks",
        type=_numbers,
        default=(1_000_000, 2_000_000, 4_000_000),
        help="numbers of callbacks after which growth measures, multiples of 10000 with commas between them",
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="create the stores in this folder; it must be on a disk")
    parser.add_argument("--flag", action="append", default=[], help="an additional flag of `serve`")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _run(section: Section, disk: Path, flags: Sequence[str]) -> list[Figure]:
    with tempfile.TemporaryDirectory(dir=disk, prefix="bench-") as folder:
        figures = []
        for figure in section(Path(folder), flags):
            _progress(figure.name)
            figures.append(figure)
        _progress("")
        return figures


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _disk() -> Path:
    """Return a folder for temporary files on a disk; in a memory file system a sync would cost nothing."""
    candidates = (Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd())
    return next(folder for folder in candidates if _filesystem(folder) not in IN_MEMORY)


def _filesystem(folder: Path) -> str:
    """Return the type of the file system that `folder` is on."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    known = {fields[1]: fields[2] for fields in mounts}
    path = os.path.realpath(folder)
    while path not in known:
        path = os.path.dirname(path)
    return known[path]


if __name__ == "__main__":
    sys.exit(main())
