"""`check`: look over the settings, the files that they name, the schemas and the store."""

from argparse import Namespace
from contextlib import closing
from pathlib import Path

from exporter.commands import configured
from exporter.protocol.events import EventKind
from exporter.schemas import Schemas, schema_folder
from exporter.service import open_store
from exporter.store.copies import verify
from exporter.store.whole import explained
from exporter.watched import WatchedFiles


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
    with explained(path):
        if url.is_embedded and path.exists() and path.stat().st_size:
            verify(path)  # before anything is written to it
            print(f"store: {path} is undamaged")
    with closing(open_store(settings, passwords=files.store_passwords)) as store:
        store.probe()
        print(f"store: {path if url.is_embedded else url} can be written")
    return 0
