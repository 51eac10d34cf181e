"""Group commit: callbacks that arrive during a commit form the next batch.

A batch is one transaction. All its callbacks are folded and made durable with one fsync. Only then are their
senders answered. A periodic sweep settles tasks, marks lost ones and deletes forgotten ones.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from exporter.errors import StoreUnavailable, WouldBlock
from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.metrics.process import Telemetry
from exporter.store.protocol import Store
from exporter.store.transaction import Transaction

R = TypeVar("R")
log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.5
#: Maximum number of tasks in one sweep. A larger sweep would delay the callbacks that arrive during it.
SWEEP_TASKS = 100
EVICT_SECONDS = 60.0
#: A commit shorter than this may run on the event loop; after a longer one the next runs in the thread.
FAST_SECONDS = 0.01

#: An item in the queue, and the future that its sender awaits.
Queued = tuple[BatchItem, "asyncio.Future[None]"]


class Ingest:
    """Queues items, commits them in batches, and sweeps.

    All methods but the constructor run on one event loop.

    Args:
        store: the store; within this process only this object writes to it.
        applier: applies batches to transactions.
        telemetry: receives the queue's length, batch sizes, commit times and the store's state.
        max_queued: maximum number of items in the queue; above it `submit` raises StoreUnavailable.
        max_batch: maximum number of items in one transaction.
        max_queued_body_bytes: maximum total size of the bodies that wait to be quarantined, bytes.
        clock: returns UNIX time, seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        applier: BatchApplier,
        telemetry: Telemetry,
        max_queued: int = 10_000,
        max_batch: int = 512,
        max_queued_body_bytes: int = 16 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._applier = applier
        self._telemetry = telemetry
        self._max_queued = max_queued
        self._max_batch = max_batch
        self._max_queued_body_bytes = max_queued_body_bytes
        self._queued_body_bytes = 0
        self._clock = clock
        self._queue: list[Queued] = []
        self._has_work = asyncio.Event()
        self._is_closing = False
        #: Held during each use of the store: its writing methods must be called one at a time.
        self._store_lock = asyncio.Lock()
        self._running_probe: asyncio.Task[None] | None = None
        #: Ends the pause between two sweeps when the exporter stops.
        self._stopping = asyncio.Event()
        self._is_disk_fast = True
        self._next_eviction_at = 0.0
        # One thread only: SQLite's connection and its transaction must not be used by two at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._loops: list[asyncio.Task[None]] = []
        telemetry.queued.set_function(lambda: len(self._queue))

    def start(self) -> None:
        """Start to commit and to sweep, on the running event loop."""
        loop = self._loop = asyncio.get_running_loop()
        self._loops = [loop.create_task(self._commit_loop()), loop.create_task(self._sweep_loop())]

    def submit(self, item: BatchItem) -> "asyncio.Future[None]":
        """Queue an item; return a future that is done when the item is durable.

        Raises:
            StoreUnavailable: the queue is full, or the exporter is stopping. The future raises it if the
                commit fails. In the first two cases nothing was counted. A failed commit may have been made,
                if its answer was lost.
        """
        if len(self._queue) >= self._max_queued:
            raise StoreUnavailable("too many callbacks are waiting for the store")
        if self._is_closing:
            raise StoreUnavailable("the exporter is stopping")
        # Parsed callbacks are small, but bodies are kept whole, and anybody may send them. Without this limit
        # a full queue of them could use up the memory.
        size_bytes = len(item.quarantine_entry.body) if item.quarantine_entry else 0
        if size_bytes and self._queued_body_bytes + size_bytes > self._max_queued_body_bytes:
            raise StoreUnavailable("too many rejected bodies are waiting for the store")
        self._queued_body_bytes += size_bytes
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.append((item, future))
        self._has_work.set()
        return future

    @property
    def is_queue_half_full(self) -> bool:
        """Whether the queue is more than half full; a load balancer should then use other replicas."""
        return len(self._queue) > self._max_queued // 2

    async def probe(self) -> None:
        """Check that the store can be written; concurrent calls share one check.

        Raises:
            StoreUnavailable: the store can't be written.
        """
        if self._running_probe is None or self._running_probe.done():
            self._running_probe = asyncio.get_running_loop().create_task(self._probe())
            # Read the exception: if every request has timed out, nothing else does, and asyncio would log it.
            self._running_probe.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Shielded: a request that times out must not cancel the check. The thread would keep using the store,
        # but the lock would be free for others.
        await asyncio.shield(self._running_probe)

    async def _probe(self) -> None:
        async with self._store_lock:
            with self._reporting_state():
                await self._in_thread(self._store.probe)

    async def stop(self) -> None:
        """Commit what is queued, then close the store."""
        self._is_closing = True
        # Both loops may be waiting. Each event wakes one of them, so that it ends.
        self._has_work.set()
        self._stopping.set()
        await asyncio.gather(*self._loops)
        self._thread.shutdown()
        self._store.close()

    async def _commit_loop(self) -> None:
        while self._queue or not self._is_closing:
            await self._has_work.wait()
            self._has_work.clear()
            # Let the event loop run until no more callbacks are ready, or the batch is full. One fsync costs
            # the same for one callback as for many, so a few loop turns for a larger batch pay off.
            queued = 0
            while queued < len(self._queue) < self._max_batch:
                queued = len(self._queue)
                await asyncio.sleep(0)
            while self._queue:
                batch, self._queue = self._queue[: self._max_batch], self._queue[self._max_batch :]
                await self._commit_batch(batch)
                for item, _ in batch:
                    if item.quarantine_entry is not None:
                        self._queued_body_bytes -= len(item.quarantine_entry.body)

    async def _commit_batch(self, batch: Sequence[Queued]) -> None:
        """Commit a batch and complete its futures; an item that can't be folded fails alone."""
        begun = time.perf_counter()
        items, futures = zip(*batch, strict=True)
        error: StoreUnavailable | None = None
        try:
            await self._transact(partial(self._applier.apply, items))
        except StoreUnavailable as exc:
            error = exc
        except Exception as exc:
            # A bug in the fold. The transaction was rolled back, so each item is tried alone, and only the
            # item that causes the error fails.
            if len(batch) > 1:
                for queued in batch:
                    await self._commit_batch([queued])
                return
            log.exception("callback could not be processed and is answered 503; report this as a bug")
            error = StoreUnavailable(f"the callback could not be processed: {type(exc).__name__}")
        self._telemetry.batch.observe(len(batch))
        self._telemetry.commit.observe(time.perf_counter() - begun)
        for future in futures:
            if not future.done():  # its sender may have disconnected, which cancels the future
                future.set_exception(error) if error else future.set_result(None)

    async def _sweep_loop(self) -> None:
        while not self._is_closing:
            try:
                has_more = await self._sweep()
            except StoreUnavailable as exc:
                log.debug("sweep failed; it is tried again: %s", exc)  # _reporting_state has logged it
                has_more = False
            except Exception:
                # The loop must continue: without sweeps no task is settled, marked lost or deleted.
                log.exception("sweep failed; it is tried again")
                has_more = False
            with suppress(TimeoutError):
                async with asyncio.timeout(0 if has_more else SWEEP_SECONDS):
                    await self._stopping.wait()

    async def _sweep(self) -> bool:
        """Sweep the due tasks, and apply the limits of the quarantine; return whether more may be due."""
        # If no callbacks arrive, only this check notices that a failed store works again.
        if not self._telemetry.is_writable:
            await self.probe()
        now = self._clock()
        async with self._store_lock:
            with self._reporting_state(writes=False):
                keys = await self._in_thread(partial(self._store.due_keys, now, SWEEP_TASKS))
        if keys:
            await self._transact(partial(self._applier.sweep, keys, now))
        await self._evict(now)
        return len(keys) == SWEEP_TASKS

    async def _evict(self, now: float) -> None:
        """Delete quarantined bodies above the limits, every EVICT_SECONDS."""
        uptime = time.monotonic()
        if uptime >= self._next_eviction_at:
            await self._transact(lambda transaction: transaction.evict(now))
            self._next_eviction_at = uptime + EVICT_SECONDS

    async def _transact(self, work: Callable[[Transaction], None]) -> None:
        """Run `work` in a transaction and make it durable.

        The work runs on the event loop: in a thread it would compete with the loop for the interpreter lock.
        The commit runs there too, while the disk is fast. Whatever has to wait for another process or for a
        slow disk runs in the thread.
        """
        async with self._store_lock:
            with self._reporting_state():
                try:
                    prepared = self._store.begin(work, wait=False)
                except WouldBlock:
                    # Nothing was changed, so that the work can be run again from the start.
                    _, overflow = await self._in_thread(partial(self._store.transact, work))
                else:
                    begun, is_fast = time.perf_counter(), self._is_disk_fast
                    _, overflow = prepared.commit() if is_fast else await self._in_thread(prepared.commit)
                    self._is_disk_fast = time.perf_counter() - begun < FAST_SECONDS
        for bound, amount in overflow.items():
            self._telemetry.overflowed.labels(bound).inc(amount)

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @contextmanager
    def _reporting_state(self, *, writes: bool = True) -> Iterator[None]:
        """Report whether the store can be written, to the telemetry and, when that changes, to the log.

        Args:
            writes: whether the store is written; a successful read does not prove that it can be.
        """
        try:
            yield
        except StoreUnavailable as exc:
            if self._telemetry.is_writable:
                # Without a traceback: the text of the exception is enough.
                log.error("store can't be written, callbacks are answered 503: %s", exc)  # noqa: TRY400
            self._telemetry.is_writable = False
            raise
        if writes and not self._telemetry.is_writable:
            log.warning("store can be written again")
            self._telemetry.is_writable = True
