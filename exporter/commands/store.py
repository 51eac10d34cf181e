"""Commands about the store: `check`, `backup` and `restore`, `dump` and `load`."""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from exporter.app import open_store, store_url
from exporter.commands import Commands, configured, is_terminal
from exporter.config.store_url import StoreUrl
from exporter.errors import StoreError
from exporter.protocol.events import EventKind
from exporter.protocol.schemas import Schemas, schema_folder
from exporter.store.dump import read_dump, write_dump
from exporter.store.sqlite.backup import back_up, restore, verify
from exporter.store.sqlite.dump import dump_file, load_file
from exporter.store.sqlite.file import atomic_write, refuse_existing, refuse_files_of, store_errors
from exporter.store.valkey.dump import dump_server, load_server
from exporter.watched_files import WatchedFiles


def check(given: Namespace) -> int:
    """Say what is well.

    Raises:
        ExporterError: something is wrong; the text says what.
    """
    settings = configured(given)
    files = WatchedFiles(settings)
    Schemas()
    print(f"schemas: {len(EventKind)} events in {schema_folder()}")
    url = settings.store_url
    path = Path(url.path)
    with store_errors(path):
        if url.is_embedded and path.exists() and path.stat().st_size:
            verify(path)  # before anything is written to it
            print(f"store: {path} is undamaged")
    with closing(open_store(settings, passwords=files.store_passwords)) as store:
        store.probe()
        print(f"store: {path if url.is_embedded else url} can be written")
    return 0


def backup_command(given: Namespace) -> int:
    """Copy the store to a path; return the exit status."""
    store = _file(given)
    back_up(store, Path(given.path), replace=given.replace)
    print(f"{given.path}: a backup of {store}")
    return 0


def restore_command(given: Namespace) -> int:
    """Make the store of the backup at a path; return the exit status."""
    store = _file(given)
    restore(Path(given.path), store, replace=given.replace, now=round(time.time(), 3))
    print(f"{store}: made of {given.path}; its counters begin at 0")
    return 0


def _file(given: Namespace) -> Path:
    url = configured(given).store_url
    if not url.is_embedded:
        raise StoreError(
            "backup and restore are for an embedded store, sqlite:PATH: copy the files of the server at "
            f"{url} by its own means (see docs/scaling.md)"
        )
    return Path(url.path)


def dump_command(given: Namespace) -> int:
    """Write the store to a path as lines; return the exit status."""
    name, url = given.path, store_url(configured(given))
    with _to_write(name, url, replace=given.replace) as file:
        contents = write_dump(dump_file(Path(url.path)) if url.is_embedded else dump_server(url), file)
    print(f"dumped {url} to {name}: {contents}", file=sys.stderr if name == "-" else sys.stdout)
    return 0


def load_command(given: Namespace) -> int:
    """Make a store of the lines at a path; return the exit status."""
    name, settings = given.path, configured(given)
    url = store_url(settings)
    with store_errors(Path(name)), open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
        lines = partial(read_dump, file, name, settings.metrics_labels)
        if file.seekable():
            # Nobody is to lose the store that is replaced to a dump that is not whole.
            for _ in lines():
                pass
            file.seek(0)
        if url.is_embedded:
            load_file(Path(url.path), lines(), replace=given.replace)
        else:
            load_server(url, lines(), replace=given.replace)
    print(f"loaded {name} into {url}; its counters continue")
    return 0


@contextmanager
def _to_write(name: str, url: StoreUrl, *, replace: bool) -> Iterator[BinaryIO]:
    """Yield a file for a dump, which gets its name when it is whole; or standard output."""
    path = Path(name)
    if name == "-":
        if is_terminal():
            raise StoreError("a dump holds secrets: write it to a file")
        with store_errors(path), open(1, "wb", closefd=False) as file:
            yield file
        return
    refuse_existing(path, replace=replace)
    if url.is_embedded:
        refuse_files_of(Path(url.path), path)
    with store_errors(path), atomic_write(path) as unatomic_write, unatomic_write.open("wb") as file:
        yield file


def add_commands(commands: Commands) -> None:
    """Add what copies a store; `check` stands further up in the help."""
    backup = commands.add("backup", backup_command, "Copy the store while it is served.", "PATH [--replace]")
    backup.add_argument("path", metavar="PATH", help="file to write")
    backup.add_argument("--replace", action="store_true", help="replace that file if it exists")
    restore = commands.add(
        "restore",
        restore_command,
        "Create a store from a backup; its counters start at 0.",
        "PATH [--replace]",
    )
    restore.add_argument("path", metavar="PATH", help="backup to read")
    restore.add_argument("--replace", action="store_true", help="replace the store if it exists")
    text = "Write a store that nobody serves as JSON lines."
    dump = commands.add("dump", dump_command, text, "PATH [--replace]")
    dump.add_argument("path", metavar="PATH", help="file to write; - for standard output")
    dump.add_argument("--replace", action="store_true", help="replace that file if it exists")
    text = "Create a store from a dump; its counters continue."
    load = commands.add("load", load_command, text, "PATH [--replace]")
    load.add_argument("path", metavar="PATH", help="dump to read; - for standard input")
    load.add_argument("--replace", action="store_true", help="replace the store if it exists")
