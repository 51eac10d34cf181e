"""Applies batches to a store's transaction: each callback is folded into its task and counted.

A store may run a batch again after a conflict with another process. Everything here therefore acts only
through the transaction that it is given.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from exporter.metrics.catalogue import OTHER
from exporter.metrics.values import labels_of
from exporter.protocol.callback import Callback, Ignored
from exporter.relay import (
    FoldSettings,
    Measurement,
    Task,
    Verdict,
    attribute_exit,
    fold,
    is_forgotten,
    key_of,
    next_due,
    settle,
    state_of,
    with_replay_horizon,
)
from exporter.store.transaction import QuarantineEntry, TaskRow, Transaction

#: Longer names of unknown fields are not used as label values.
MAX_FIELD_NAME = 64


class BatchItem(Struct, frozen=True, gc=False):
    """One thing to commit: a callback, a body for the quarantine, or both for an unknown event.

    Args:
        arrival: when it was received, UNIX seconds.
        callback: the parsed callback, None for a body that was rejected.
        quarantine_entry: the body to quarantine, None for none.
        replayed_at: when it is replayed from the quarantine, UNIX seconds; None if it was just received.
    """

    arrival: float
    callback: Callback | Ignored | None = None
    quarantine_entry: QuarantineEntry | None = None
    replayed_at: float | None = None


class BatchApplier:
    """Applies batches to a store's transaction. It has no state, so that a store may run a batch again.

    Args:
        labels: label names of the families that are counted by label set, `--metrics.labels`.
    """

    def __init__(self, settings: FoldSettings, labels: tuple[str, ...]) -> None:
        self.settings = settings
        self.labels = labels

    def apply(self, batch: Sequence[BatchItem], transaction: Transaction) -> None:
        """Apply a batch in the order of arrival."""
        # One read for all tasks of the batch: on a shared store each read is a round trip.
        callbacks = [item.callback for item in batch if isinstance(item.callback, Callback)]
        transaction.prefetch(list(map(key_of, callbacks)))
        for item in batch:
            if item.quarantine_entry is not None:
                transaction.quarantine(item.quarantine_entry)
            if item.callback is not None:
                self._apply_callback(item.callback, item, transaction)

    def sweep(self, keys: Sequence[str], now: float, transaction: Transaction) -> None:
        """Settle the tasks with these keys, mark lost ones and delete forgotten ones.

        Sweeping the same tasks again at the same time changes nothing.

        Args:
            keys: keys of the tasks that are due.
            now: UNIX time, seconds.
            transaction: reads the tasks and records the changes.
        """
        transaction.prefetch(keys)
        for key in keys:
            task = transaction.task(key)
            # Another process may have deleted the task since the list of due tasks was read.
            if task is None:
                continue
            settled = settle(task, now, self.settings)
            forgotten = is_forgotten(settled.task, now, self.settings)
            # The measurements of a task's last settling are recorded also where the task is deleted.
            self._record(transaction, settled.task, settled.measurements, now, put=not forgotten)
            if forgotten:
                transaction.delete(key)

    def replay(self, digest: str, item: BatchItem, transaction: Transaction) -> str | None:
        """Apply a quarantined body and delete it from the quarantine.

        Args:
            item: the callback in it, as of its first arrival.
            transaction: reads the task and records the changes.

        Returns:
            The outcome, or None if the body is not in the quarantine or has no callback.
        """
        # Deleted in the transaction that counts it, so that two replays can't count it twice.
        if item.callback is None or not transaction.delete_body(digest):
            return None
        return self._apply_callback(item.callback, item, transaction)

    def _apply_callback(self, callback: Callback | Ignored, item: BatchItem, transaction: Transaction) -> str:
        """Apply and count a callback; return its outcome, as a label value."""
        event, outcome, increments = OTHER, "ignored", transaction.increments
        if isinstance(callback, Callback):
            apply = self._fold if callback.task_id else self._attribute
            event, outcome = callback.kind.callback_event, apply(callback, item, transaction).value
            # Redeliveries repeat their fields and would count them again.
            for name in callback.unknown_fields if outcome == Verdict.APPLIED.value else ():
                # The sender chooses the names: these limits keep label values short and safe to display.
                is_readable = name.isascii() and name.isprintable() and len(name) <= MAX_FIELD_NAME
                increments.count("unknown_fields_total", name if is_readable else "_unprintable")
        increments.count("callbacks_total", event, outcome)
        increments.set_time("last_callback_timestamp_seconds", event, item.arrival)
        return outcome

    def _fold(self, callback: Callback, item: BatchItem, transaction: Transaction) -> Verdict:
        key, arrival = key_of(callback), item.arrival
        task = transaction.task(key)
        # A task that is due for deletion is treated as deleted, even if no sweep has deleted it yet: the
        # result must not depend on when a sweep runs.
        if task is None or is_forgotten(task, arrival, self.settings):
            task = Task(appid=callback.appid, task_id=callback.task_id, first_seen=arrival)
        if item.replayed_at is not None:
            task = with_replay_horizon(task, callback, arrival, item.replayed_at, self.settings)
            if task is None:
                return Verdict.STALE
        folded = fold(task, callback, arrival, self.settings)
        self._record(transaction, folded.task, folded.measurements, arrival, put=folded.task is not task)
        return folded.verdict

    def _attribute(self, callback: Callback, item: BatchItem, transaction: Transaction) -> Verdict:
        """Fold an exit without a task ID into the task that it belongs to, if only one task is possible."""
        appid, sources, arrival = callback.appid, callback.sources, item.arrival
        # The nameless task, see `relay.attribution`.
        nameless = transaction.task(key_of(callback))
        nameless = nameless or Task(appid=appid, task_id="", sources=sources)
        if item.replayed_at is not None:
            nameless = with_replay_horizon(nameless, callback, arrival, item.replayed_at, self.settings)
            if nameless is None:
                return Verdict.STALE
        candidates = transaction.tasks_with_sources(appid, sources) if sources else []
        attribution = attribute_exit(nameless, candidates, callback, arrival, self.settings)
        self._record(transaction, attribution.nameless, (), arrival, put=attribution.nameless is not nameless)
        if attribution.owner is not None:
            return self._fold(replace(callback, task_id=attribution.owner.task_id), item, transaction)
        # The exit is counted without a task. The labels still come from the callback, so that it is counted
        # for the right account and destination.
        labelled = Task(appid=appid, task_id="", to_host=callback.to_host, source_host=callback.source_host)
        self._record(transaction, labelled, attribution.measurements, arrival, put=False)
        return attribution.verdict

    def _record(
        self,
        transaction: Transaction,
        task: Task,
        measurements: Sequence[Measurement],
        now: float,
        *,
        put: bool,
    ) -> None:
        """Record the measurements of a task, and with `put` write the task itself."""
        labels = labels_of(task, self.labels)
        if measurements:
            transaction.increments.record(measurements, labels, task.task_id, now)
        if put:
            transaction.put(
                TaskRow(task, labels, state_of(task, self.settings), next_due(task, self.settings))
            )
