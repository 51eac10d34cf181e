"""Group commit: callbacks that arrive while a commit is under way form the next batch.

Each batch is one atomic step: every callback in it is folded, all of it is made durable with one sync, and
only then are their senders answered. A sweep settles what time alone decides.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from msgspec import Struct

from exporter.callback import Callback, Ignored
from exporter.catalogue import OTHER
from exporter.errors import StoreUnavailable, WouldWait
from exporter.relay import (
    Tale,
    Task,
    Verdict,
    Windows,
    attribute,
    fold,
    is_forgotten,
    next_due,
    settle,
    state_of,
)
from exporter.store import Refused, Row, Store, Transaction, labels_of, nameless_key, task_key
from exporter.telemetry import Telemetry

R = TypeVar("R")
log = logging.getLogger(__name__)

MAX_FIELD_NAME = 64
SWEEP_SECONDS = 0.5
SWEEP_TASKS = 100
#: A commit that takes less is made in place; after a slower one the next go to a thread.
QUICK_SECONDS = 0.01


class Arrived(Struct, frozen=True, gc=False):
    """Something to be committed: a callback, or a body for the quarantine, or both for an unknown event."""

    arrival: float
    callback: Callback | Ignored | None = None
    refused: Refused | None = None


Waiting = tuple[Arrived, "asyncio.Future[None]"]


class Folder:
    """Folds what arrived into a store's transaction; a store may ask it to do so more than once.

    Args:
        windows: how long the fold waits and remembers.
        labels: names of the labels of the fleet's families.
    """

    def __init__(self, windows: Windows, labels: tuple[str, ...]) -> None:
        self.windows = windows
        self.labels = labels

    def take(self, batch: Sequence[Arrived], step: Transaction) -> None:
        """Take a batch into the step, in the order of arrival."""
        step.prefetch([_key(a.callback) for a in batch if isinstance(a.callback, Callback)])
        outcomes: Counter[tuple[str, str]] = Counter()
        newest: dict[str, float] = {}
        for arrived in batch:
            if arrived.refused is not None:
                step.quarantine(arrived.refused)
            if arrived.callback is not None:
                event, outcome = self._take(arrived.callback, arrived.arrival, step)
                outcomes[event, outcome] += 1
                newest[event] = max(arrived.arrival, newest.get(event, 0.0))
        for (event, outcome), number in outcomes.items():
            step.tally.count("callbacks_total", event, outcome, amount=number)
        for event, arrival in newest.items():
            step.tally.mark("last_callback_timestamp_seconds", event, arrival)

    def sweep(self, keys: Sequence[str], now: float, step: Transaction) -> None:
        """Settle the tasks with these keys as far as time allows; doing it again changes nothing."""
        step.prefetch(keys)
        for key in keys:
            task = step.task(key)
            if task is None:
                continue
            settled = settle(task, now, self.windows)
            forgotten = is_forgotten(settled.task, now, self.windows)
            self._keep(step, settled.task, settled.tales, now, put=not forgotten)
            if forgotten:
                step.forget(key)

    def _take(self, callback: Callback | Ignored, arrival: float, step: Transaction) -> tuple[str, str]:
        """Take a callback; return its event and what became of it."""
        if isinstance(callback, Ignored):
            return OTHER, "ignored"
        if callback.task_id:
            verdict = self._fold(callback, callback.task_id, arrival, step)
        else:
            verdict = self._attribute(callback, arrival, step)
        for name in callback.unknown_fields if verdict is Verdict.APPLIED else ():
            step.tally.count("unknown_fields_total", _field_label(name))
        return callback.event.name, verdict.value

    def _fold(self, callback: Callback, task_id: str, arrival: float, step: Transaction) -> Verdict:
        key = task_key(callback.appid, task_id)
        before = step.task(key)
        if before is None or is_forgotten(before, arrival, self.windows):
            before = Task(appid=callback.appid, task_id=task_id, first_seen=arrival)
        folded = fold(before, callback, arrival, self.windows)
        self._keep(step, folded.task, folded.tales, arrival, put=folded.task is not before)
        return folded.verdict

    def _attribute(self, callback: Callback, arrival: float, step: Transaction) -> Verdict:
        """Fold an exit that names no task into its owner, if that can be told."""
        key = nameless_key(callback.appid, callback.sources)
        nameless = step.task(key) or Task(appid=callback.appid, task_id="", sources=callback.sources)
        siblings = step.siblings(callback.appid, callback.sources) if callback.sources else []
        attribution = attribute(nameless, siblings, callback, arrival, self.windows)
        self._keep(step, attribution.nameless, (), arrival, put=attribution.nameless is not nameless)
        if attribution.owner is not None:
            return self._fold(callback, attribution.owner.task_id, arrival, step)
        shown = Task(
            appid=callback.appid, task_id="", to_host=callback.to_host, source_host=callback.source_host
        )
        self._keep(step, shown, attribution.tales, arrival, put=False)
        return attribution.verdict

    def _keep(self, step: Transaction, task: Task, tales: Sequence[Tale], now: float, *, put: bool) -> None:
        """Tell what there is to tell of a task, and put it into the store if it has changed."""
        labels = labels_of(task, self.labels)
        if tales:
            step.tally.tell(tales, labels, task.task_id, now)
        if put:
            step.put(Row(task, labels, state_of(task, self.windows), next_due(task, self.windows)))


class Ingest:
    """Commits what arrives, in batches, and sweeps.

    Args:
        store: where it is kept; only this object writes to it.
        folder: what it means.
        telemetry: what is told of the work itself.
        max_queued: how much may wait; past it callers are turned away.
        max_batch: how much is committed at once.
        clock: gives the time, seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        folder: Folder,
        telemetry: Telemetry,
        max_queued: int = 10_000,
        max_batch: int = 512,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._folder = folder
        self._telemetry = telemetry
        self._max_queued = max_queued
        self._max_batch = max_batch
        self._clock = clock
        self._queue: list[Waiting] = []
        self._work = asyncio.Event()
        self._closing = False
        self._turn = asyncio.Lock()
        self._is_quick = True
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._tasks: list[asyncio.Task[None]] = []
        telemetry.queued.set_function(lambda: len(self._queue))

    def start(self) -> None:
        """Begin to commit and to sweep, in the running event loop."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._commit_for_ever()), loop.create_task(self._sweep_for_ever())]

    def commit(self, arrived: Arrived) -> "asyncio.Future[None]":
        """Return what is done when `arrived` is durable.

        Raises:
            StoreUnavailable: it was not kept, and nothing of it was counted; awaiting it may raise it too.
        """
        if len(self._queue) >= self._max_queued:
            raise StoreUnavailable("too many callbacks wait for the store")
        if self._closing:
            raise StoreUnavailable("the exporter is stopping")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((arrived, future))
        self._work.set()
        return future

    async def probe(self) -> None:
        """Return when the store has proved that it can be written.

        Raises:
            StoreUnavailable: it can't.
        """
        async with self._turn:
            await self._in_thread(self._store.probe)

    async def stop(self) -> None:
        """Commit what waits, then let go of the store."""
        self._closing = True
        self._work.set()
        committer, sweeper = self._tasks
        sweeper.cancel()
        await asyncio.gather(committer, sweeper, return_exceptions=True)
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
            await self._transact(partial(self._folder.take, [arrived for arrived, _ in batch]))
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
        while True:
            try:
                full = await self._sweep()
            except StoreUnavailable as exc:
                log.warning("sweep: %s", exc)
                full = False
            except Exception:
                log.exception("a sweep failed; it is tried again")
                full = False
            await asyncio.sleep(0 if full else SWEEP_SECONDS)

    async def _sweep(self) -> bool:
        """Settle what is due; return whether there may be more."""
        now = self._clock()
        async with self._turn:
            keys = await self._in_thread(partial(self._store.due, now, SWEEP_TASKS))
        if keys:
            await self._transact(partial(self._folder.sweep, keys, now))
        return len(keys) == SWEEP_TASKS

    async def _transact(self, work: Callable[[Transaction], None]) -> None:
        """Run `work` in one step of the store and make it durable.

        Python's part is done here, where no thread contends with it; so is the commit as long as the disk is
        quick. What has to wait, for another process or for a slow disk, waits in the thread.
        """
        async with self._turn:
            end = await self._prepare(work)
            begun = time.perf_counter()
            overflow = (self._in_place(end) if self._is_quick else await self._in_thread(end))[1]
            self._is_quick = time.perf_counter() - begun < QUICK_SECONDS
        for bound, amount in overflow.items():
            self._telemetry.overflowed.labels(bound).inc(amount)

    async def _prepare(
        self, work: Callable[[Transaction], None]
    ) -> Callable[[], tuple[None, dict[str, int]]]:
        try:
            return self._in_place(partial(self._store.prepare, work, wait=False))
        except WouldWait:
            return await self._in_thread(partial(self._store.prepare, work, wait=True))

    def _in_place(self, work: Callable[[], R]) -> R:
        with self._watched():
            return work()

    async def _in_thread(self, work: Callable[[], R]) -> R:
        with self._watched():
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Tell whether the store answers."""
        try:
            yield
        except StoreUnavailable:
            self._telemetry.store_up.set(0)
            raise
        self._telemetry.store_up.set(1)


def _key(callback: Callback) -> str:
    if callback.task_id:
        return task_key(callback.appid, callback.task_id)
    return nameless_key(callback.appid, callback.sources)


def _field_label(name: str) -> str:
    readable = name.isascii() and name.isprintable() and len(name) <= MAX_FIELD_NAME
    return name if readable else "_unprintable"
