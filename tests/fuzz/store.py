"""Fuzz the store, the batches and the scrape with impossible histories."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.metrics.catalogue import CATALOGUE
from exporter.metrics.process import Telemetry
from exporter.store.protocol import Snapshot, StoreOptions, decode_label_set
from exporter.store.sqlite.store import SqliteStore
from exporter.web.scrape import Exposition
from tests.fuzz.fold import WINDOWS, Arrived, callbacks_in
from tests.support import parse

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
OPTIONS = StoreOptions(max_label_sets=3)
LABELS = OPTIONS.labels
TASKS = 3
BATCH = 3
MAX_BATCHES = 30

Counters = Mapping[tuple[str, ...], Mapping[str, int]]


def check_store(data: bytes) -> None:
    """Commit the callbacks in `data`, and check the invariants of the store.

    Raises:
        AssertionError: an invariant does not hold.
    """
    arrived = list(callbacks_in(data, TASKS))[: BATCH * MAX_BATCHES]
    with TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "store.db"
        shown = _commit_all(SqliteStore(path, OPTIONS), arrived)
        again = SqliteStore(path, OPTIONS)
        assert again.snapshot(10) == shown  # the same state after a restart
        again.close()
    telemetry = Telemetry(version="0", revision="0")
    for openmetrics in (False, True):
        text = Exposition(
            openmetrics=openmetrics, labels=LABELS, fold_settings=WINDOWS, telemetry=telemetry
        ).write(shown)
        assert openmetrics or parse(text.decode())


def _commit_all(store: SqliteStore, arrived: Sequence[Arrived]) -> Snapshot:
    applier, numbers = BatchApplier(WINDOWS, LABELS), _counters(store.snapshot(10))
    for begin in range(0, len(arrived), BATCH):
        batch = [BatchItem(each.arrival, each.callback) for each in arrived[begin : begin + BATCH]]
        store.transact(partial(applier.apply, batch))
        numbers = _check(store, numbers)
        keys = store.due_keys(batch[-1].arrival, 100)
        store.transact(partial(applier.sweep, keys, batch[-1].arrival))
        numbers = _check(store, numbers)
    shown = store.snapshot(10)
    store.close()
    return shown


def _check(store: SqliteStore, before: Counters) -> Counters:
    """Check that no counter decreases and that the states add up to the known tasks; return the counters."""
    snapshot = store.snapshot(10)
    known = store.list_tasks(state=None, after=0, limit=100)
    assert sum(number for _, _, number in snapshot.counts) == len(known) == len(snapshot.tasks)
    numbers = _counters(snapshot)
    for labels, values in before.items():
        for key, number in values.items():
            assert numbers[labels].get(key, 0) >= number, (labels, key)
    assert len(numbers) <= OPTIONS.max_label_sets + 2
    return numbers


def _counters(snapshot: Snapshot) -> Counters:
    label_sets = [
        decode_label_set(record)
        for record in (snapshot.fleet, *(record for _, record in snapshot.label_sets))
    ]
    for label_set in label_sets:
        assert all(key.split(" ")[0] in CATALOGUE or key.startswith("seen ") for key in label_set.values)
    return {label_set.labels: label_set.values for label_set in label_sets}
