"""`backup` and `restore`: copies of the embedded store."""

import time
from argparse import Namespace
from pathlib import Path

from exporter.commands import Commands, configured
from exporter.errors import StoreError
from exporter.store.copies import back_up, restore


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


def add_commands(commands: Commands) -> None:
    """Add `backup` and `restore`."""
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
