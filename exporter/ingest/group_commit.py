"""Group commit: callbacks that arrive while a commit is under way form the next batch.

Each batch is one atomic step: every callback in it is folded, all of it is made durable with one sync, and
only then are their senders answered. A sweep settles what time alone decides.
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
from exporter.ingest.batch import BatchFolder, BatchItem
from exporter.metrics.process import Telemetry
from exporter.store.protocol import Store, Transaction

R = TypeVar("R")
log = logging.getLogger(__name__)

SWEEP_SECONDS = 0.5
SWEEP_TASKS = 100
EVICT_SECONDS = 60.0
#: A commit that takes less is made in place; after a slower one the next go to a thread.
QUICK_SECONDS = 0.01

Waiting = tuple[BatchItem, "asyncio.Future[None]"]


class Ingest:
    """Commits what arrives, in batches, and sweeps.

    Args:
        store: where it is kept; only this object writes to it.
        folder: what it means.
        telemetry: what is told of the work itself.
        max_queued: how much may wait; past it callers are turned away.
        max_batch: how much is committed at once.
        max_refused_bytes: how much of what is to be put into the quarantine may wait.
        clock: gives the time, seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        folder: BatchFolder,
        telemetry: Telemetry,
        max_queued: int = 10_000,
        max_batch: int = 512,
        max_refused_bytes: int = 16 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._folder = folder
        self._telemetry = telemetry
        self._max_queued = max_queued
        self._max_batch = max_batch
        self._max_refused_bytes = max_refused_bytes
        self._refused_bytes = 0
        self._clock = clock
        self._queue: list[Waiting] = []
        self._work = asyncio.Event()
        self._closing = False
        self._turn = asyncio.Lock()
        self._probing: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._is_quick = True
        self._evict_at = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._tasks: list[asyncio.Task[None]] = []
        telemetry.queued.set_function(lambda: len(self._queue))

    def start(self) -> None:
        """Begin to commit and to sweep, in the running event loop."""
        loop = self._loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._commit_for_ever()), loop.create_task(self._sweep_for_ever())]

    def commit(self, item: BatchItem) -> "asyncio.Future[None]":
        """Return what is done when `arrived` is durable.

        Raises:
            StoreUnavailable: it was not kept, and nothing of it was counted; awaiting it may raise it too.
        """
        if len(self._queue) >= self._max_queued:
            raise StoreUnavailable("too many callbacks wait for the store")
        if self._closing:
            raise StoreUnavailable("the exporter is stopping")
        future: asyncio.Future[None] = self._loop.create_future()
        if item.quarantine_entry is not None:
            self._hold(len(item.quarantine_entry.body), future)
        self._queue.append((item, future))
        self._work.set()
        return future

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits that others should be asked instead."""
        return len(self._queue) > self._max_queued // 2

    def _hold(self, size_bytes: int, done: "asyncio.Future[None]") -> None:
        """Make room for a body until it is put away: they are kept whole, and anybody may send them."""
        if self._refused_bytes + size_bytes > self._max_refused_bytes:
            raise StoreUnavailable("too many refused bodies wait for the store")
        self._refused_bytes += size_bytes
        done.add_done_callback(lambda _: self._let_go(size_bytes))

    def _let_go(self, size_bytes: int) -> None:
        self._refused_bytes -= size_bytes

    async def probe(self) -> None:
        """Return when the store has proved that it can be written.

        Raises:
            StoreUnavailable: it can't.
        """
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._probe())
        # One who gives up must not cancel it: the thread would go on with the store, out of turn.
        await asyncio.shield(self._probing)

    async def _probe(self) -> None:
        async with self._turn:
            with self._watched():
                await self._in_thread(self._store.probe)

    async def stop(self) -> None:
        """Commit what waits, then let go of the store."""
        self._closing = True
        self._work.set()
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        self._thread.shutdown()
        self._store.close()

    async def _commit_for_ever(self) -> None:
        while self._queue or not self._closing:
            await self._work.wait()
            self._work.clear()
            await self._gather()
            while self._queue:
                batch, self._queue = self._queue[: self._max_batch], self._queue[self._max_batch :]
                await self._commit_batch(batch)

    async def _gather(self) -> None:
        """Let what is arriving at this moment into the batch: a sync costs the same for one as for many."""
        waiting = 0
        while waiting < len(self._queue) < self._max_batch:
            waiting = len(self._queue)
            await asyncio.sleep(0)

    async def _commit_batch(self, batch: Sequence[Waiting]) -> None:
        """Commit a batch and answer it; what can't be folded does not make the rest suffer."""
        begun = time.perf_counter()
        error: StoreUnavailable | None = None
        try:
            await self._transact(partial(self._folder.take, [item for item, _ in batch]))
        except StoreUnavailable as exc:
            error = exc
        except Exception as exc:
            if len(batch) > 1:
                for waiting in batch:
                    await self._commit_batch([waiting])
                return
            log.exception("a callback could not be folded; it is answered 503")
            error = StoreUnavailable(f"the callback could not be folded: {type(exc).__name__}")
        self._telemetry.batch.observe(len(batch))
        self._telemetry.commit.observe(time.perf_counter() - begun)
        for _, future in batch:
            if not future.done():
                future.set_exception(error) if error else future.set_result(None)

    async def _sweep_for_ever(self) -> None:
        while not self._closing:
            try:
                full = await self._sweep()
            except StoreUnavailable as exc:
                log.debug("sweep: %s", exc)  # that the store is down has been said
                full = False
            except Exception:
                log.exception("a sweep failed; it is tried again")
                full = False
            with suppress(TimeoutError):
                async with asyncio.timeout(0 if full else SWEEP_SECONDS):
                    await self._stopping.wait()

    async def _sweep(self) -> bool:
        """Settle what is due; return whether there may be more. A store that failed is tried first."""
        if not self._telemetry.is_writable:
            await self.probe()
        now = self._clock()
        async with self._turn:
            with self._watched(writes=False):
                keys = await self._in_thread(partial(self._store.due, now, SWEEP_TASKS))
        if keys:
            await self._transact(partial(self._folder.sweep, keys, now))
        await self._evict(now)
        return len(keys) == SWEEP_TASKS

    async def _evict(self, now: float) -> None:
        """Let the quarantine give up what is too old, now and then."""
        uptime = time.monotonic()
        if uptime >= self._evict_at:
            await self._transact(lambda transaction: transaction.evict(now))
            self._evict_at = uptime + EVICT_SECONDS

    async def _transact(self, work: Callable[[Transaction], None]) -> None:
        """Run `work` in one step of the store and make it durable.

        Python's part is done here, where no thread contends with it; so is the commit as long as the disk is
        quick. What has to wait, for another process or for a slow disk, waits in the thread.
        """
        async with self._turn:
            with self._watched():
                try:
                    prepared = self._store.begin(work, wait=False)
                except WouldBlock:
                    overflow = (await self._in_thread(partial(self._store.transact, work)))[1]
                else:
                    overflow = (await self._commit_prepared(prepared.commit))[1]
        for bound, amount in overflow.items():
            self._telemetry.overflowed.labels(bound).inc(amount)

    async def _commit_prepared(self, commit: Callable[[], R]) -> R:
        begun = time.perf_counter()
        result = commit() if self._is_quick else await self._in_thread(commit)
        self._is_quick = time.perf_counter() - begun < QUICK_SECONDS
        return result

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @contextmanager
    def _watched(self, *, writes: bool = True) -> Iterator[None]:
        """Tell whether the store can be written; a read can show that it is down, not that it is up."""
        try:
            yield
        except StoreUnavailable as exc:
            if self._telemetry.is_writable:
                log.error("callbacks are answered 503: %s", exc)  # noqa: TRY400 - the text says it all
            self._telemetry.record_store_access("write", succeeded=False)
            raise
        if not writes:
            return
        if not self._telemetry.is_writable:
            log.warning("the store can be written again")
        self._telemetry.record_store_access("write", succeeded=True)
