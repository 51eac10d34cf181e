"""`move`: a store to another place, with all that it holds."""

import os
import time
from argparse import Namespace
from contextlib import closing
from pathlib import Path

from exporter.commands import Commands, configured
from exporter.errors import SettingsError
from exporter.store.moving import Arrival, Departure, move, stay
from exporter.store.moving_file import FileArrival, FileDeparture
from exporter.store.valkey.moving import ServerArrival, ServerDeparture
from exporter.storeurl import StoreUrl, parse_store

#: For a URL with a password: a command line can be read by others of the machine.
VARIABLE = "CSS_RELAY_MOVE_TO"
USAGE = f"move URL [--replace], with the URL in {VARIABLE} if it holds a password, or move --undo"


def move_command(given: Namespace) -> int:
    """Move the store, or undo a move; return the exit status."""
    environment = dict(os.environ)
    named = environment.pop(VARIABLE, "")
    settings = configured(given, environment)
    match given.url, given.undo, given.replace:
        case None, True, False:
            with closing(departure(settings.store_url)) as source:
                stay(source)
            print(f"{source.name}: goes on; start the exporter again")
            return 0
        case None, False, _ if named:
            url = _url(named, VARIABLE)
        case str(word), False, _:
            url = _url(word, "move")
        case _:
            raise SettingsError(f"expected {USAGE}")
    return _move(settings.store_url, url, settings.metrics_labels, replace=given.replace)


def _move(source_url: StoreUrl, target_url: StoreUrl, labels: tuple[str, ...], *, replace: bool) -> int:
    if str(source_url) == str(target_url):
        raise SettingsError(f"move: expected another place than {source_url}")
    begun = time.monotonic()
    with closing(departure(source_url)) as source, closing(arrival(target_url)) as target:
        contents = move(source, target, labels=labels, replace=replace)
    if contents is None:
        print(f"{target.name}: all of {source.name} was there already")
    else:
        print(f"{target.name}: all of {source.name}, {contents}, in {time.monotonic() - begun:.1f} s")
    print(f"give --store.url={target.name} to every exporter; {source.name} is not served any more")
    return 0


def departure(url: StoreUrl) -> Departure:
    """Return the store at `url`, which is to leave.

    Raises:
        StoreError: it can't; the text says how to go on.
    """
    return FileDeparture(Path(url.path)) if url.is_embedded else ServerDeparture(url)


def arrival(url: StoreUrl) -> Arrival:
    """Return the place at `url`, which a store is moved to."""
    return FileArrival(Path(url.path)) if url.is_embedded else ServerArrival(url)


def _url(text: str, name: str) -> StoreUrl:
    try:
        return parse_store(text)
    except ValueError as exc:
        raise SettingsError(f"{name}: {exc}") from None  # its text names no password


def add_commands(commands: Commands) -> None:
    """Add `move`."""
    move = commands.add(
        "move", move_command, "Move the store to another place, a file or a server.", "URL [--replace]"
    )
    move.add_argument("url", nargs="?", metavar="URL", help=f"where to; in {VARIABLE} if it holds a password")
    move.add_argument("--replace", action="store_true", help="replace a store that is there")
    move.add_argument("--undo", action="store_true", help="go on with a store whose move was cut off")
