"""Where a callback's time goes: each part of its way measured in this process, the whole over HTTP.

All of it is processor time, so that what else runs on the machine is not in it.

The parts are what the exporter calls, in its order, with the bodies that wrk sends and as many in a batch
as come together under that load. It runs on an older checkout, too, with this folder copied into it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import orjson

from bench.contenders import BARE_HANDLER, SQLITE, running
from bench.fleet import task_start
from bench.report import Figure
from bench.stores import opened
from bench.throughput import WARM_UP_SECONDS, Rounds, in_turns
from exporter.config.settings import Settings
from exporter.config.store_url import StoreUrl
from exporter.ingest.batch import BatchFolder, BatchItem
from exporter.protocol.events import EventKind
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.store.protocol import Transaction

T = TypeVar("T")
BATCH = 54
MICROSECONDS = 1e6
#: The parts of the way, in its order. What is left of the whole is HTTP, the event loop, waking up.
PARTS = ("parse and unpack", "validate", "redact", "the rest of parsing", "read", "fold", "write", "commit")
#: No processor time, and no part of the sum: the commit's share of the sync.
DISK = "waiting for the disk"


def measure(
    folder: Path, flags: Sequence[str], *, rounds: int, seconds: int, batches: int
) -> Iterator[Figure]:
    """Measure the parts, then the whole beside the bare handler."""
    parts = parts_of(folder, batches)
    with running(folder, flags, (BARE_HANDLER, SQLITE)) as contenders:
        in_turns(contenders, 1, WARM_UP_SECONDS, destinations=1)
        costs = costs_of(in_turns(contenders, rounds, seconds, destinations=1))
    yield from figures(parts, costs)


def parts_of(folder: Path, batches: int) -> dict[str, float]:
    """Return the processor time of each part, microseconds a callback: the median of so many batches."""
    way = Way(folder)
    now = time.time()
    measured = [
        way.of_batch([task_start(number, now) for number in range(begin, begin + BATCH)], now)
        for begin in range(0, BATCH * batches, BATCH)
    ]
    way.store.close()
    return {name: median(parts[name] for parts in measured) / BATCH * MICROSECONDS for name in measured[0]}


def costs_of(rounds: Rounds) -> dict[str, float]:
    """Return the processor time that each contender needs for a callback, microseconds."""
    return {name: median(measured.cost for measured in found) for name, found in rounds.items()}


def figures(parts: Mapping[str, float], costs: Mapping[str, float]) -> Iterator[Figure]:
    """Yield the parts, the whole, and what the parts leave of it."""
    whole, bare = costs[SQLITE], costs[BARE_HANDLER]
    for name, took in parts.items():
        yield Figure(f"budget {name}", took, "us")
    yield Figure("budget everything else", whole - sum(parts[name] for name in PARTS), "us")
    yield Figure("budget the whole", whole, "us")
    yield Figure("budget bare", bare, "us")
    yield Figure("budget bare / the whole", bare / whole)


class Way:
    """The way of a callback from its bytes to the disk, in this process.

    Args:
        folder: where its store is.
    """

    def __init__(self, folder: Path) -> None:
        settings = Settings()
        self.store = opened(StoreUrl(path=str(folder / "parts.db")), settings)
        schemas = Schemas()
        self._is_valid = schemas.events[EventKind.START].is_valid
        self._redactor = Redactor(key=self.store.secret, plain_hosts=settings.redact_plain_hosts)
        self._parser = Parser(schemas=schemas, redactor=self._redactor)
        self._folder = BatchFolder(settings.fold_settings, settings.metrics_labels)

    def of_batch(self, raw: Sequence[bytes], now: float) -> dict[str, float]:
        """Take callbacks through it, and return the processor time of each part, seconds."""
        bodies, unpacking = _timed(_unpacked, raw)
        _, validating = _timed(self._is_valid, bodies)
        _, redacting = _timed(self._redact, bodies)
        callbacks, parsing = _timed(self._parser.parse, raw)
        rest = parsing - unpacking - validating - redacting
        committing = self._commit([BatchItem(now, callback) for callback in callbacks])
        return dict(zip((*PARTS, DISK), (unpacking, validating, redacting, rest, *committing), strict=True))

    def _redact(self, body: dict[str, Any]) -> None:
        self._redactor.destination(body["to_url"], body["stream_id"])
        self._redactor.sources(body["source_urls"])

    def _commit(self, batch: Sequence[BatchItem]) -> tuple[float, ...]:
        """Commit a batch; return the time it took to read, fold, write and commit it, and that it waited."""
        keys = [f"{a.callback.appid}/{a.callback.task_id}" for a in batch]  # type: ignore[union-attr]
        marks = [time.thread_time()]

        def work(transaction: Transaction) -> None:
            transaction.prefetch(keys)
            marks.append(time.thread_time())
            self._folder.apply(batch, transaction)
            marks.append(time.thread_time())

        prepared = self.store.begin(work, wait=True)
        marks.append(time.thread_time())
        begun = time.perf_counter()
        prepared.commit()
        elapsed = time.perf_counter() - begun
        marks.append(time.thread_time())
        read, take, write, commit = (after - before for before, after in pairwise(marks))
        return read, take - read, write, commit, elapsed - commit  # taking a batch reads it once more


def _unpacked(raw: bytes) -> dict[str, Any]:
    """Do what the parser does first."""
    body: dict[str, Any] = orjson.loads(raw)
    body["msg"], body["source_urls"] = orjson.loads(body["msg"]), orjson.loads(body["source_urls"])
    return body


def _timed(work: Callable[[Any], T], items: Sequence[Any]) -> tuple[list[T], float]:
    """Return what `work` makes of the items, and the processor time of it, seconds."""
    begun = time.thread_time()
    made = [work(item) for item in items]
    return made, time.thread_time() - begun
