"""Group commit: one commit for callbacks that arrive together; no callback is lost if a batch fails."""

import asyncio
import gc
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from math import inf
from pathlib import Path

import pytest

from exporter.errors import StoreUnavailable
from exporter.ingest import group_commit as module
from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.ingest.group_commit import Ingest
from exporter.metrics.process import Telemetry
from exporter.metrics.values import LabelSetValues, series
from exporter.protocol.callback import Ignored
from exporter.store.protocol import StoreOptions, decode_label_set
from exporter.store.sqlite import store as sqlite_store
from exporter.store.sqlite.store import SqliteStore
from exporter.store.transaction import QuarantineEntry, Transaction
from tests.support import until
from tests.unit.histories import SETTINGS, T0, callback

LABELS = ("appid", "to_host")


class FailingApplier(BatchApplier):
    """A batch folder that raises for one task."""

    def apply(self, batch: Sequence[BatchItem], transaction: Transaction) -> None:
        """Raise if the batch has the task named poison."""
        if any(getattr(arrived.callback, "task_id", "") == "poison" for arrived in batch):
            raise ZeroDivisionError
        super().apply(batch, transaction)


def run(path: Path, work: Callable[[Ingest, Telemetry], Awaitable[None]], **settings: int) -> LabelSetValues:
    """Run `work` with an ingest on the store in `path`, stop it, and return the fleet's values."""
    telemetry = Telemetry(version="", revision="")

    async def main() -> None:
        store = SqliteStore(path, StoreOptions())
        ingest = Ingest(
            store=store,
            applier=FailingApplier(SETTINGS, LABELS),
            telemetry=telemetry,
            clock=lambda: T0 + 1.0,
            **settings,
        )
        ingest.start()
        try:
            await work(ingest, telemetry)
        finally:
            await ingest.stop()

    asyncio.run(main())
    store = SqliteStore(path, StoreOptions())
    numbers = decode_label_set(store.snapshot(1).fleet)
    store.close()
    return numbers


def start(task_id: str) -> BatchItem:
    """Return a TaskStart that has arrived."""
    return BatchItem(T0 + 1.0, callback("S", T0, task_id=task_id))


def applied(numbers: LabelSetValues) -> int:
    """Return the number of TaskStarts with the outcome `applied`."""
    return numbers.values.get(series("callbacks_total", "TaskStart", "applied"), 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a store."""
    return tmp_path / "relay.db"


def test_callbacks_that_arrive_together_are_committed_together(path: Path) -> None:
    """One commit for a hundred callbacks."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        # All hundred are queued before the first commit starts.
        await asyncio.gather(*(ingest.submit(start(str(n))) for n in range(100)))
        commits = telemetry.registry.get_sample_value("css_relay_exporter_commit_seconds_count")
        assert commits == 1

    assert applied(run(path, work)) == 100


def test_a_batch_has_a_limit(path: Path) -> None:
    """A burst takes several commits."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        await asyncio.gather(*(ingest.submit(start(str(n))) for n in range(50)))
        largest = telemetry.registry.get_sample_value(
            "css_relay_exporter_batch_callbacks_bucket", {"le": "16.0"}
        )
        assert largest == telemetry.registry.get_sample_value("css_relay_exporter_batch_callbacks_count")

    assert applied(run(path, work, max_batch=10)) == 50


def test_a_callback_that_cannot_be_folded_does_not_fail_its_batch(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only this callback is answered 503; the rest of its batch is counted once."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        names = [*map(str, range(10)), "poison", *map(str, range(10, 20))]
        results = await asyncio.gather(*(ingest.submit(start(n)) for n in names), return_exceptions=True)
        assert [isinstance(r, StoreUnavailable) for r in results] == [name == "poison" for name in names]

    assert applied(run(path, work)) == 20
    assert "callback could not be processed and is answered 503" in caplog.text


def test_a_full_queue_refuses_callbacks(path: Path) -> None:
    """The number of queued callbacks is exported."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        waiting = [ingest.submit(start(str(n))) for n in range(5)]
        assert telemetry.registry.get_sample_value("css_relay_exporter_queued_callbacks") == 5
        with pytest.raises(StoreUnavailable, match="too many"):
            ingest.submit(start("late"))
        await asyncio.gather(*waiting)
        await ingest.submit(start("after"))

    assert applied(run(path, work, max_queued=5)) == 6


def test_a_half_full_queue_is_reported(path: Path) -> None:
    """A load balancer then uses another replica. The report ends when the queue is empty."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        waiting = [ingest.submit(start(str(n))) for n in range(5)]
        assert not ingest.is_queue_half_full
        waiting.append(ingest.submit(start("6")))
        assert ingest.is_queue_half_full
        await asyncio.gather(*waiting)
        assert not ingest.is_queue_half_full

    run(path, work, max_queued=10)


def test_rejected_bodies_that_wait_are_limited_in_bytes(path: Path) -> None:
    """Any caller may send them, and they are kept whole. The limit does not apply to callbacks."""

    def rejected(number: int) -> BatchItem:
        return BatchItem(T0, quarantine_entry=QuarantineEntry("json", b"%1000d" % number, "192.0.2.1", T0))

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        waiting = [ingest.submit(rejected(n)) for n in range(3)]
        with pytest.raises(StoreUnavailable, match="rejected bodies"):
            ingest.submit(rejected(4))
        waiting.append(ingest.submit(start("good")))
        await asyncio.gather(*waiting)
        await ingest.submit(rejected(5))

    run(path, work, max_queued_body_bytes=3500)


def test_a_stop_commits_the_queue_and_accepts_nothing_more(path: Path) -> None:
    """Waiting callers are answered."""

    async def late(ingest: Ingest) -> None:
        with pytest.raises(StoreUnavailable, match="stopping"):
            ingest.submit(start("late"))

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        waiting = [ingest.submit(start(str(n))) for n in range(30)]
        await asyncio.gather(ingest.stop(), late(ingest))  # both begin, in this order
        assert all(future.done() and future.exception() is None for future in waiting)

    assert applied(run(path, work)) == 30


def test_a_slow_disk_moves_commits_to_the_thread_and_a_fast_one_moves_them_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits count the same in the thread and on the event loop."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        for quick_seconds, number in ((0.0, 1), (0.0, 2), (inf, 3), (inf, 4)):
            monkeypatch.setattr(module, "FAST_SECONDS", quick_seconds)
            await ingest.submit(start(str(number)))
            assert ingest._is_disk_fast == (quick_seconds > 0)

    assert applied(run(path, work)) == 4


def test_other_events_are_counted_as_ignored(path: Path) -> None:
    """The time of arrival is recorded too."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        await ingest.submit(BatchItem(T0 + 1.0, Ignored(is_quarantined=False)))

    numbers = run(path, work)
    assert numbers.values[series("callbacks_total", "other", "ignored")] == 1
    assert numbers.times[series("last_callback_timestamp_seconds", "other")] == (T0 + 1) * 1_000_000


def test_an_exit_without_a_task_id_is_attributed_within_its_batch(path: Path) -> None:
    """Its redelivery is not attributed to another task."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        sources = {"sources": "ab"}
        exit_ = BatchItem(T0 + 2.0, callback("E", None, "-22", task_id="", to_host="", **sources))
        begin = BatchItem(T0 + 1.0, callback("S", T0, task_id="1", **sources))
        await asyncio.gather(*(ingest.submit(a) for a in (begin, exit_, exit_)))

    numbers = run(path, work)
    assert numbers.values[series("callbacks_total", "TaskExit", "applied")] == 1
    assert numbers.values[series("callbacks_total", "TaskExit", "duplicate")] == 1
    assert series("anomalies_total", "unattributed_exit") not in numbers.values


def test_old_quarantined_bodies_are_deleted_without_new_callbacks(path: Path) -> None:
    """A sweep checks the quarantine regularly."""
    store = SqliteStore(path, StoreOptions())
    for body, arrival in ((b"old", T0 - 31 * 86400.0), (b"new", T0 - 29 * 86400.0)):
        kept = QuarantineEntry("json", body, "::1", arrival)
        store.transact(lambda transaction, kept=kept: transaction.quarantine(kept))

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        await asyncio.to_thread(until, lambda: len(store.bodies(limit=9)) == 1, "the old body is deleted")

    numbers = run(path, work)
    assert [stored.body for stored in store.bodies(limit=9)] == [b"new"]
    assert numbers.values["quarantine_evicted_total"] == 1
    store.close()


def test_a_successful_read_of_a_sweep_does_not_report_the_store_as_writable(path: Path) -> None:
    """The read may have waited for the lock behind a write that failed."""

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        telemetry.is_writable = False
        with ingest._reporting_state(writes=False):
            pass
        assert not telemetry.is_writable
        with ingest._reporting_state():
            pass
        assert telemetry.is_writable

    run(path, work)


def test_a_failed_probe_whose_callers_timed_out_leaves_no_traceback(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store stays locked for longer than a readiness check waits."""
    monkeypatch.setattr(sqlite_store, "BUSY_MS", 50)
    reported: list[object] = []

    async def work(ingest: Ingest, telemetry: Telemetry) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ingest.probe(), 0.001)
            assert ingest._running_probe is not None
            await asyncio.wait([ingest._running_probe])
        assert not telemetry.is_writable
        ingest._running_probe = None
        gc.collect()

    run(path, work)
    assert reported == []
