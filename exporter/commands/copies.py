"""`backup` and `restore`: copies of the embedded store."""

import time
from pathlib import Path

from exporter.commands import Words, confused
from exporter.errors import StoreError
from exporter.settings import Settings
from exporter.store.copies import back_up, restore


def backup_command(words: list[str]) -> int:
    """Run `backup` with these words; return its status."""
    given = Words(words, "--replace")
    match given.leading:
        case [path]:
            store = _file(given.settings())
            back_up(store, Path(path), replace=bool(given.switches))
            print(f"{path}: a backup of {store}")
            return 0
    raise confused("backup PATH [--replace]")


def restore_command(words: list[str]) -> int:
    """Run `restore` with these words; return its status."""
    given = Words(words, "--replace")
    match given.leading:
        case [path]:
            store = _file(given.settings())
            restore(Path(path), store, replace=bool(given.switches), now=round(time.time(), 3))
            print(f"{store}: made of {path}; its counters begin at 0")
            return 0
    raise confused("restore PATH [--replace]")


def _file(settings: Settings) -> Path:
    url = settings.store_url
    if not url.is_embedded:
        raise StoreError(
            "backup and restore are for an embedded store, sqlite:PATH: copy the files of the server at "
            f"{url} by its own means (see docs/scaling.md)"
        )
    return Path(url.path)
