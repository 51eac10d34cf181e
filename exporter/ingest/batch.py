"""Applies batches to a store's transaction: each callback is folded into its task and counted.

A store may run a batch again after a conflict with another process. Everything here therefore acts only
through the transaction that it is given.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct

from exporter.metrics.catalogue import OTHER
from exporter.protocol.callback import Callback, Ignored
from exporter.relay import (
    FoldSettings,
    Measurement,
    Task,
    Verdict,
    attribute_exit,
    fold,
    is_forgotten,
    next_due,
    settle,
    state_of,
    with_replay_horizon,
)
from exporter.store.protocol import QuarantineEntry, TaskRow, Transaction
from exporter.store.records import labels_of, nameless_key, task_key

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
        transaction.prefetch([_key(item.callback) for item in batch if isinstance(item.callback, Callback)])
        # Summed up first, because one change of the increments for each callback would take more time.
        outcomes: Counter[tuple[str, str]] = Counter()
        latest: dict[str, float] = {}
        for item in batch:
            if item.quarantine_entry is not None:
                transaction.quarantine(item.quarantine_entry)
            if item.callback is not None:
                event, outcome = self._apply_callback(item.callback, item, transaction)
                outcomes[event, outcome] += 1
                latest[event] = max(item.arrival, latest.get(event, 0.0))
        self._count(outcomes, latest, transaction)

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
        event, outcome = self._apply_callback(item.callback, item, transaction)
        self._count({(event, outcome): 1}, {event: item.arrival}, transaction)
        return outcome

    def _apply_callback(
        self, callback: Callback | Ignored, item: BatchItem, transaction: Transaction
    ) -> tuple[str, str]:
        """Apply a callback; return its event and outcome, as label values."""
        if isinstance(callback, Ignored):
            return OTHER, "ignored"
        if callback.task_id:
            verdict = self._fold(callback, callback.task_id, item, transaction)
        else:
            verdict = self._attribute(callback, item, transaction)
        # Redeliveries repeat their fields and would count them again.
        for name in callback.unknown_fields if verdict is Verdict.APPLIED else ():
            transaction.increments.count("unknown_fields_total", _field_label(name))
        return callback.kind.callback_event, verdict.value

    def _fold(self, callback: Callback, task_id: str, item: BatchItem, transaction: Transaction) -> Verdict:
        key, arrival = task_key(callback.appid, task_id), item.arrival
        stored = transaction.task(key)
        # A task that is due for deletion is treated as deleted, even if no sweep has deleted it yet: the
        # result must not depend on when a sweep runs.
        if stored is None or is_forgotten(stored, arrival, self.settings):
            stored = Task(appid=callback.appid, task_id=task_id, first_seen=arrival)
        before = self._with_replay_horizon(stored, callback, item)
        if before is None:
            return Verdict.STALE
        folded = fold(before, callback, arrival, self.settings)
        self._record(transaction, folded.task, folded.measurements, arrival, put=folded.task is not before)
        return folded.verdict

    def _attribute(self, callback: Callback, item: BatchItem, transaction: Transaction) -> Verdict:
        """Fold an exit without a task ID into the task that it belongs to, if only one task is possible."""
        # The nameless task, see `relay.attribution`.
        key, arrival = nameless_key(callback.appid, callback.sources), item.arrival
        stored = transaction.task(key) or Task(appid=callback.appid, task_id="", sources=callback.sources)
        nameless = self._with_replay_horizon(stored, callback, item)
        if nameless is None:
            return Verdict.STALE
        tasks_with_sources = (
            transaction.tasks_with_sources(callback.appid, callback.sources) if callback.sources else []
        )
        attribution = attribute_exit(nameless, tasks_with_sources, callback, arrival, self.settings)
        self._record(transaction, attribution.nameless, (), arrival, put=attribution.nameless is not nameless)
        if attribution.owner is not None:
            return self._fold(callback, attribution.owner.task_id, item, transaction)
        # The exit is counted without a task. The labels still come from the callback, so that it is counted
        # for the right account and destination.
        labelled = Task(
            appid=callback.appid, task_id="", to_host=callback.to_host, source_host=callback.source_host
        )
        self._record(transaction, labelled, attribution.measurements, arrival, put=False)
        return attribution.verdict

    def _with_replay_horizon(self, task: Task, callback: Callback, item: BatchItem) -> Task | None:
        """Return the task to detect redeliveries with, None if a replayed callback is too old for that."""
        if item.replayed_at is None:
            return task
        return with_replay_horizon(task, callback, item.arrival, item.replayed_at, self.settings)

    def _count(
        self, outcomes: Mapping[tuple[str, str], int], latest: Mapping[str, float], transaction: Transaction
    ) -> None:
        for (event, outcome), number in outcomes.items():
            transaction.increments.count("callbacks_total", event, outcome, amount=number)
        for event, arrival in latest.items():
            transaction.increments.set_time("last_callback_timestamp_seconds", event, arrival)

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


def _key(callback: Callback) -> str:
    if callback.task_id:
        return task_key(callback.appid, callback.task_id)
    return nameless_key(callback.appid, callback.sources)


def _field_label(name: str) -> str:
    # Field names come from the sender; these limits keep label values short and safe to display.
    readable = name.isascii() and name.isprintable() and len(name) <= MAX_FIELD_NAME
    return name if readable else "_unprintable"
