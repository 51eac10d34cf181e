"""`check`: look over the settings, the files that they name, the schemas and the store."""

from argparse import Namespace
from contextlib import closing
from pathlib import Path

from exporter.commands import configured
from exporter.listeners import read_listeners
from exporter.protocol.events import EventKind
from exporter.schemas import Schemas, schema_folder
from exporter.service import open_store, signatures_of, tokens_of
from exporter.store.copies import verify


def check(given: Namespace) -> int:
    """Say what is well.

    Raises:
        ExporterError: something is wrong; the text says what.
    """
    settings = configured(given)
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
