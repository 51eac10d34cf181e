"""The command line: `serve`, and what an operator needs beside it."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import closing

from exporter import __version__, logs
from exporter.errors import ExporterError, SettingsError
from exporter.relay import STATES, state_of
from exporter.schemas import EVENTS, Schemas, schema_folder
from exporter.server import Server, open_store, revision
from exporter.settings import Settings, default_text, flags, read
from exporter.store import Store, Transaction, task_key
from exporter.store.records import decode_task

PAGE = 1000

USAGE = """\
usage: css-relay-exporter COMMAND [--flag value ...]

  serve                         take callbacks, show metrics
  check                         look over settings, schemas and the store, and say what is wrong
  tasks list [STATE]            list the tasks known
  tasks forget APPID TASK_ID    forget a task; its counters stay
  version                       print the version

Flags, each with its environment variable and default:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments`; return its exit status: 2 for settings, 1 for other errors."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except SettingsError as exc:
        print(f"css-relay-exporter: {exc}", file=sys.stderr)
        return 2
    except ExporterError as exc:
        print(f"css-relay-exporter: {exc}", file=sys.stderr)
        return 1


def usage() -> str:
    """Return the help text."""
    rows = [
        f"  --{flag.name} ({flag.variable}, {default_text(field) or 'none'})\n      {flag.help}"
        for field, flag in flags().items()
    ]
    return USAGE + "\n".join(rows) + "\n"


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help") or "--help" in words:
        print(usage(), end="")
        return 0 if words else 2
    commands: dict[str, Callable[[list[str]], int]] = {
        "serve": _serve,
        "check": _check,
        "tasks": _tasks,
        "version": _version,
    }
    command = commands.get(words[0])
    if command is None:
        raise SettingsError(f"unknown command {words[0]}")
    return command(words[1:])


def _settings(words: Sequence[str]) -> Settings:
    settings = read(words, os.environ)
    logs.configure(settings.log_level, settings.log_format)
    return settings


def _serve(words: list[str]) -> int:
    settings = _settings(words)
    # Opened once here, so that what is wrong with it is said in one line before anything listens.
    open_store(settings).close()
    Schemas()
    Server(settings).run()
    return 0


def _check(words: list[str]) -> int:
    settings = _settings(words)
    Schemas()
    print(f"schemas: {len(EVENTS)} events in {schema_folder()}")
    with closing(open_store(settings)) as store:
        store.probe()
        print(f"store: {settings.store_path} can be written")
    return 0


def _tasks(words: list[str]) -> int:
    positional = _leading(words)
    settings = _settings(words[len(positional) :])
    match positional:
        case ["list"]:
            return _list(settings, None)
        case ["list", state] if state in STATES:
            return _list(settings, state)
        case ["forget", appid, task_id] if appid.isdigit():
            return _forget(settings, int(appid), task_id)
    raise SettingsError("expected tasks list [" + "|".join(STATES) + "] or tasks forget APPID TASK_ID")


def _leading(words: list[str]) -> list[str]:
    end = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return words[:end]


def _list(settings: Settings, state: str | None) -> int:
    with closing(open_store(settings)) as store:
        print("APPID\tTASK\tSTATE\tRUNS\tDESTINATION")
        after: int | None = 0
        while after is not None:
            after = _list_page(store, settings, state, after)
    return 0


def _list_page(store: Store, settings: Settings, state: str | None, after: int) -> int | None:
    page = store.listing(state=state, after=after, limit=PAGE)
    for _, record in page:
        task = decode_task(record)
        columns = (
            task.appid,
            _plain(task.task_id),
            state_of(task, settings.windows),
            task.runs,
            _plain(task.to_url),
        )
        print(*columns, sep="\t")
    return page[-1][0] if len(page) == PAGE else None


def _forget(settings: Settings, appid: int, task_id: str) -> int:
    key = task_key(appid, task_id)

    def work(step: Transaction) -> bool:
        known = step.task(key) is not None
        step.forget(key)
        return known

    with closing(open_store(settings)) as store:
        known, _ = store.transact(work)
    print(f"task {appid}/{task_id} " + ("is forgotten" if known else "is not known"))
    return 0 if known else 1


def _version(words: list[str]) -> int:
    if words:
        raise SettingsError(f"version: unknown argument {words[0]}")
    print(f"css-relay-exporter {__version__} (revision {revision()}, Python {platform.python_version()})")
    return 0


def _plain(text: str) -> str:
    """Return `text` without characters that could move the terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)
