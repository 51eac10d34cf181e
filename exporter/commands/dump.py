"""`dump` and `load`: a whole store as lines of JSON, and a store of any kind made of them."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from exporter.commands import Commands, configured, is_terminal
from exporter.errors import StoreError
from exporter.service import store_url
from exporter.store.dump import read_dump, write_dump
from exporter.store.dump_file import dump_file, load_file
from exporter.store.valkey.dump import dump_server, load_server
from exporter.store.whole import explained, finished, refuse_existing, refuse_files_of
from exporter.storeurl import StoreUrl


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
    with explained(Path(name)), open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
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
        with explained(path), open(1, "wb", closefd=False) as file:
            yield file
        return
    refuse_existing(path, replace=replace)
    if url.is_embedded:
        refuse_files_of(Path(url.path), path)
    with explained(path), finished(path) as unfinished, unfinished.open("wb") as file:
        yield file


def add_commands(commands: Commands) -> None:
    """Add `dump` and `load`."""
    text = "Write a store that nobody serves as JSON lines."
    dump = commands.add("dump", dump_command, text, "PATH [--replace]")
    dump.add_argument("path", metavar="PATH", help="file to write; - for standard output")
    dump.add_argument("--replace", action="store_true", help="replace that file if it exists")
    text = "Create a store from a dump; its counters continue."
    load = commands.add("load", load_command, text, "PATH [--replace]")
    load.add_argument("path", metavar="PATH", help="dump to read; - for standard input")
    load.add_argument("--replace", action="store_true", help="replace the store if it exists")
