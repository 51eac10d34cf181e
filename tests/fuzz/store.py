"""The store, the batches and the scrape under histories that no sender would tell."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from exporter.ingest.batch import BatchFolder, BatchItem
from exporter.metrics.catalogue import CATALOGUE
from exporter.metrics.process import Telemetry
from exporter.store.protocol import Snapshot, StoreOptions
from exporter.store.records import decode_label_set
from exporter.store.sqlite.store import SqliteStore
from exporter.web.scrape import Exposition
from tests.fuzz.fold import WINDOWS, Came, told
from tests.support import parse

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
TERMS = StoreOptions(max_label_sets=3)
LABELS = TERMS.labels
TASKS = 3
BATCH = 3
MAX_BATCHES = 30

Numbers = Mapping[tuple[str, ...], Mapping[str, int]]


def check_store(data: bytes) -> None:
    """Commit what `data` tells, and hold the store to what must always be true.

    Raises:
        AssertionError: something is not.
    """
    came = list(told(data, TASKS))[: BATCH * MAX_BATCHES]
    with TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "store.db"
        shown = _commit_all(SqliteStore(path, TERMS), came)
        again = SqliteStore(path, TERMS)
        assert again.snapshot(10) == shown  # a restart shows what was there
        again.close()
    telemetry = Telemetry(version="0", revision="0")
    for openmetrics in (False, True):
        text = Exposition(
            openmetrics=openmetrics, labels=LABELS, fold_settings=WINDOWS, telemetry=telemetry
        ).write(shown)
        assert openmetrics or parse(text.decode())


def _commit_all(store: SqliteStore, came: Sequence[Came]) -> Snapshot:
    folder, numbers = BatchFolder(WINDOWS, LABELS), _numbers(store.snapshot(10))
    for begin in range(0, len(came), BATCH):
        batch = [BatchItem(each.arrival, each.callback) for each in came[begin : begin + BATCH]]
        store.transact(partial(folder.apply, batch))
        numbers = _check(store, numbers)
        keys = store.due(batch[-1].arrival, 100)
        store.transact(partial(folder.sweep, keys, batch[-1].arrival))
        numbers = _check(store, numbers)
    shown = store.snapshot(10)
    store.close()
    return shown


def _check(store: SqliteStore, before: Numbers) -> Numbers:
    """Counters never go down, each callback has one outcome, and the states add up to the tasks known."""
    snapshot = store.snapshot(10)
    known = store.listing(state=None, after=0, limit=100)
    assert sum(number for _, _, number in snapshot.counts) == len(known) == len(snapshot.tasks)
    numbers = _numbers(snapshot)
    for labels, values in before.items():
        for key, number in values.items():
            assert numbers[labels].get(key, 0) >= number, (labels, key)
    assert len(numbers) <= TERMS.max_label_sets + 2
    return numbers


def _numbers(snapshot: Snapshot) -> Numbers:
    ledgers = [
        decode_label_set(record)
        for record in (snapshot.fleet, *(record for _, record in snapshot.label_sets))
    ]
    for ledger in ledgers:
        assert all(key.split(" ")[0] in CATALOGUE or key.startswith("seen ") for key in ledger.values)
    return {ledger.labels: ledger.values for ledger in ledgers}
