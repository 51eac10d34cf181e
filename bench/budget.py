"""The processor time of a callback: each stage measured in this process, and the total over HTTP.

Processor time does not include other programs on the machine.

The stages are the calls of the exporter, in its order, with the bodies of the wrk script. A batch has as many
callbacks as a commit has under that load. To measure an older checkout, copy this folder into it.
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
from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.protocol.events import EventKind
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.store.transaction import Transaction

T = TypeVar("T")
BATCH = 54
MICROSECONDS = 1e6
#: The stages, in their order. The rest of the total is HTTP, the event loop and thread switches.
STAGES = ("parse and unpack", "validate", "redact", "the rest of parsing", "read", "fold", "write", "commit")
#: The time that the commit waits for the sync: not processor time, and not part of the sum.
DISK = "waiting for the disk"


def measure(
    folder: Path, flags: Sequence[str], *, rounds: int, seconds: int, batches: int
) -> Iterator[Figure]:
    """Measure the stages, then the total, and the bare handler for comparison."""
    parts = stage_costs(folder, batches)
    with running(folder, flags, (BARE_HANDLER, SQLITE)) as contenders:
        in_turns(contenders, 1, WARM_UP_SECONDS, destinations=1)
        costs = total_costs(in_turns(contenders, rounds, seconds, destinations=1))
    yield from figures(parts, costs)


def stage_costs(folder: Path, batches: int) -> dict[str, float]:
    """Return the processor time of each stage, in microseconds per callback: the median of all batches."""
    stages = Stages(folder)
    now = time.time()
    measured = [
        stages.measure_batch([task_start(number, now) for number in range(begin, begin + BATCH)], now)
        for begin in range(0, BATCH * batches, BATCH)
    ]
    stages.store.close()
    return {name: median(parts[name] for parts in measured) / BATCH * MICROSECONDS for name in measured[0]}


def total_costs(rounds: Rounds) -> dict[str, float]:
    """Return the processor time that each contender needs for a callback, in microseconds."""
    return {name: median(measured.cost_us for measured in found) for name, found in rounds.items()}


def figures(parts: Mapping[str, float], costs: Mapping[str, float]) -> Iterator[Figure]:
    """Yield the stages, the total, and the difference of the two."""
    whole, bare = costs[SQLITE], costs[BARE_HANDLER]
    for name, took in parts.items():
        yield Figure(f"budget {name}", took, "us")
    yield Figure("budget everything else", whole - sum(parts[name] for name in STAGES), "us")
    yield Figure("budget total", whole, "us")
    yield Figure("budget bare", bare, "us")
    yield Figure("budget bare / total", bare / whole)


class Stages:
    """The stages of a callback from its bytes to the disk, in this process.

    Args:
        folder: the folder for the store.
    """

    def __init__(self, folder: Path) -> None:
        settings = Settings()
        self.store = opened(StoreUrl(path=str(folder / "parts.db")), settings)
        schemas = Schemas()
        self._is_valid = schemas.events[EventKind.START].is_valid
        self._redactor = Redactor(key=self.store.secret, plain_hosts=settings.redact_plain_hosts)
        self._parser = Parser(schemas=schemas, redactor=self._redactor)
        self._applier = BatchApplier(settings.fold_settings, settings.metrics_labels)

    def measure_batch(self, raw: Sequence[bytes], now: float) -> dict[str, float]:
        """Run the stages for a batch of bodies; return the processor time of each, in seconds."""
        bodies, unpacking = _timed(_unpacked, raw)
        _, validating = _timed(self._is_valid, bodies)
        _, redacting = _timed(self._redact, bodies)
        callbacks, parsing = _timed(self._parser.parse, raw)
        rest = parsing - unpacking - validating - redacting
        committing = self._commit([BatchItem(now, callback) for callback in callbacks])
        return dict(zip((*STAGES, DISK), (unpacking, validating, redacting, rest, *committing), strict=True))

    def _redact(self, body: dict[str, Any]) -> None:
        self._redactor.destination(body["to_url"], body["stream_id"])
        self._redactor.sources(body["source_urls"])

    def _commit(self, batch: Sequence[BatchItem]) -> tuple[float, ...]:
        """Commit a batch; return the seconds to read, fold, write and commit it, and of waiting."""
        keys = [f"{a.callback.appid}/{a.callback.task_id}" for a in batch]  # type: ignore[union-attr]
        marks = [time.thread_time()]

        def work(transaction: Transaction) -> None:
            transaction.prefetch(keys)
            marks.append(time.thread_time())
            self._applier.apply(batch, transaction)
            marks.append(time.thread_time())

        prepared = self.store.begin(work, wait=True)
        marks.append(time.thread_time())
        begun = time.perf_counter()
        prepared.commit()
        elapsed = time.perf_counter() - begun
        marks.append(time.thread_time())
        read, take, write, commit = (after - before for before, after in pairwise(marks))
        # `take` includes a second read of the same tasks: subtract it.
        return read, take - read, write, commit, elapsed - commit


def _unpacked(raw: bytes) -> dict[str, Any]:
    """Return the body with its nested JSON unpacked, as the parser does first."""
    body: dict[str, Any] = orjson.loads(raw)
    body["msg"], body["source_urls"] = orjson.loads(body["msg"]), orjson.loads(body["source_urls"])
    return body


def _timed(work: Callable[[Any], T], items: Sequence[Any]) -> tuple[list[T], float]:
    """Return the results of `work` for the items, and its processor time in seconds."""
    begun = time.thread_time()
    made = [work(item) for item in items]
    return made, time.thread_time() - begun
