"""The command line: which commands there are, and how a failure is told."""

import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from exporter import __version__
from exporter.commands import configured
from exporter.commands.copies import backup_command, restore_command
from exporter.commands.dump import dump_command, load_command
from exporter.commands.quarantine import quarantine
from exporter.commands.tasks import tasks
from exporter.errors import ExporterError, SettingsError
from exporter.listeners import read_listeners
from exporter.protocol.events import EventKind
from exporter.schemas import Schemas, schema_folder
from exporter.server import Server
from exporter.service import open_store, revision, signatures_of, tokens_of
from exporter.settings import default_text, flags
from exporter.simulator import options as simulation
from exporter.simulator.command import simulate
from exporter.store.copies import verify

USAGE = """\
usage: css-relay-exporter COMMAND [--flag value ...]

  serve                                      take callbacks, show metrics
  check                                      look over settings, schemas and the store, and say what is wrong
  simulate --target URL                      send what a fleet would, and print the totals to expect
  tasks list [STATE]                         list the tasks known
  tasks forget APPID TASK_ID                 forget a task; its counters stay
  quarantine list [REASON]                   list refused bodies and unknown events, and what is wrong now
  quarantine show DIGEST [--raw]             show one without its secrets, or as it came
  quarantine replay DIGEST|--all [REASON]    count those that are valid today, as of when they came
  quarantine purge DIGEST|--all [REASON]     give them up
  backup PATH [--replace]                    copy the store while it is served
  restore PATH [--replace]                   make a store of a backup; its counters begin at 0
  dump PATH [--replace]                      write the store, while it is not served, as JSON lines
  load PATH [--replace]                      make a store of any kind of a dump; its counters go on
  version                                    print the version

Flags, each with its environment variable and default:
"""

SIMULATION_USAGE = """\
usage: css-relay-exporter simulate --target URL [--flag value ...]

Sends what a fleet would, with what goes wrong on the way, and prints the totals to expect of an exporter
that nobody else sends to. Flags, each with its default:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments`; return its status: 2 for settings, 1 for errors, 130 if stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except SettingsError as exc:
        print(f"css-relay-exporter: {exc}", file=sys.stderr)
        return 2
    except ExporterError as exc:
        print(f"css-relay-exporter: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def usage() -> str:
    """Return the help text."""
    rows = [
        f"  --{flag.name} ({flag.variable}, {default_text(field) or 'none'})\n      {flag.help}"
        for field, flag in flags().items()
    ]
    return USAGE + "\n".join(rows) + "\n"


def simulation_usage() -> str:
    """Return the help text of `simulate`."""
    rows = [
        f"  --{flag.name} ({simulation.default_text(field) or 'none'})\n      {flag.help}"
        for field, flag in simulation.options().items()
    ]
    return SIMULATION_USAGE + "\n".join(rows) + "\n"


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help") or "--help" in words:
        print(simulation_usage() if words[:1] == ["simulate"] else usage(), end="")
        return 0 if words else 2
    commands: dict[str, Callable[[list[str]], int]] = {
        "serve": _serve,
        "simulate": _simulate,
        "check": _check,
        "tasks": tasks,
        "quarantine": quarantine,
        "backup": backup_command,
        "restore": restore_command,
        "dump": dump_command,
        "load": load_command,
        "version": _version,
    }
    command = commands.get(words[0])
    if command is None:
        raise SettingsError(f"unknown command {words[0]}")
    return command(words[1:])


def _serve(words: list[str]) -> int:
    Server(configured(words)).run()
    return 0


def _simulate(words: list[str]) -> int:
    return simulate(simulation.read(words))


def _check(words: list[str]) -> int:
    settings = configured(words)
    read_listeners(settings)
    Schemas()
    tokens_of(settings)
    signatures_of(settings)
    print(f"schemas: {len(EventKind)} events in {schema_folder()}")
    url = settings.store_url
    path = Path(url.path)
    if url.is_embedded and path.exists() and path.stat().st_size:
        verify(path)  # before anything is written to it
        print(f"store: {path} is undamaged")
    with closing(open_store(settings)) as store:
        store.probe()
        print(f"store: {path if url.is_embedded else url} can be written")
    return 0


def _version(words: list[str]) -> int:
    if words:
        raise SettingsError(f"version: unknown argument {words[0]}")
    print(f"css-relay-exporter {__version__} (revision {revision()}, Python {platform.python_version()})")
    return 0
