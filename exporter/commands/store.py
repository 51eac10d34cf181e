"""The commands for the store: `check`, `backup`, `restore`, `dump` and `load`."""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from exporter.app import open_store, store_url
from exporter.commands import Commands, load_settings
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


def check(args: Namespace) -> int:
    """Check settings, files, schemas and the store, and print the results; return the exit status."""
    settings = load_settings(args)
    files = WatchedFiles(settings)
    Schemas()  # raises an error if a schema can't be compiled
    print(f"schemas: {len(EventKind)} events in {schema_folder()}")
    url = settings.store_url
    path = Path(url.path)
    with store_errors(path):
        if url.is_embedded and path.exists() and path.stat().st_size:
            verify(path)  # before open_store, which may write to the file
            print(f"store: {path} passed the integrity check")
    with closing(open_store(settings, passwords=files.store_passwords)) as store:
        store.probe()
        print(f"store: {path if url.is_embedded else url} is writable")
    return 0


def backup_command(args: Namespace) -> int:
    """Back up the store to a file; return the exit status."""
    store = _file(args)
    back_up(store, Path(args.path), replace=args.replace)
    print(f"backed up {store} to {args.path}")
    return 0


def restore_command(args: Namespace) -> int:
    """Create the store from a backup; return the exit status."""
    store = _file(args)
    restore(Path(args.path), store, replace=args.replace, now=round(time.time(), 3))
    print(f"restored {args.path} into {store}; the counters start at 0")
    return 0


def _file(args: Namespace) -> Path:
    url = load_settings(args).store_url
    if not url.is_embedded:
        raise StoreError(
            "backup and restore need an embedded store (sqlite:PATH); use `dump` and `load`, or copy the "
            f"files of the server at {url} (see docs/scaling.md)"
        )
    return Path(url.path)


def dump_command(args: Namespace) -> int:
    """Dump the store to a file as JSON lines; return the exit status."""
    name, url = args.path, store_url(load_settings(args))
    with _to_write(name, url, replace=args.replace) as file:
        contents = write_dump(dump_file(Path(url.path)) if url.is_embedded else dump_server(url), file)
    # Standard output may be the dump itself.
    print(f"dumped {url} to {name}: {contents}", file=sys.stderr if name == "-" else sys.stdout)
    return 0


def load_command(args: Namespace) -> int:
    """Create a store from a dump; return the exit status."""
    name, settings = args.path, load_settings(args)
    url = store_url(settings)
    with store_errors(Path(name)), open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
        lines = partial(read_dump, file, name, settings.metrics_labels)
        if file.seekable():  # standard input may be a pipe
            # Read all of the dump once, so that an incomplete one does not replace a store.
            for _ in lines():
                pass
            file.seek(0)
        if url.is_embedded:
            load_file(Path(url.path), lines(), replace=args.replace)
        else:
            load_server(url, lines(), replace=args.replace)
    print(f"loaded {name} into {url}; the counters continue")
    return 0


@contextmanager
def _to_write(name: str, url: StoreUrl, *, replace: bool) -> Iterator[BinaryIO]:
    """Yield a file for a dump, or standard output. The file gets its name when it is complete."""
    path = Path(name)
    if name == "-":
        if sys.stdout.isatty():
            raise StoreError("a dump holds secrets; redirect the output to a file")
        with store_errors(path), open(1, "wb", closefd=False) as file:
            yield file
        return
    refuse_existing(path, replace=replace)
    # Even with --replace, a dump must not overwrite the files of the store that it reads.
    if url.is_embedded:
        refuse_files_of(Path(url.path), path)
    with store_errors(path), atomic_write(path) as temporary, temporary.open("wb") as file:
        yield file


def add_commands(commands: Commands) -> None:
    """Add the commands that copy a store; `check` is added elsewhere, because the help lists it earlier."""
    text = "Back up the store; the exporter may be running."
    backup = commands.add("backup", backup_command, text, "PATH [--replace]")
    backup.add_argument("path", metavar="PATH", help="the file to write")
    backup.add_argument("--replace", action="store_true", help="replace the file if it exists")
    text = "Create a store from a backup; counters start at 0."
    restore = commands.add("restore", restore_command, text, "PATH [--replace]")
    restore.add_argument("path", metavar="PATH", help="the backup to read")
    restore.add_argument("--replace", action="store_true", help="replace the store if it exists")
    text = "Write a store as JSON lines; stop the exporter first."
    dump = commands.add("dump", dump_command, text, "PATH [--replace]")
    dump.add_argument("path", metavar="PATH", help="the file to write; - is standard output")
    dump.add_argument("--replace", action="store_true", help="replace the file if it exists")
    text = "Create a store from a dump; counters continue."
    load = commands.add("load", load_command, text, "PATH [--replace]")
    load.add_argument("path", metavar="PATH", help="the dump to read; - is standard input")
    load.add_argument("--replace", action="store_true", help="replace the store if it exists")
