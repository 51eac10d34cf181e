"""What a batch means to the store: each callback in it is folded into its task, and told.

A store may run a batch again when another process came in between, so that it has no effect but through
the transaction.
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
    attribute,
    fold,
    is_forgotten,
    next_due,
    settle,
    state_of,
    with_replay_horizon,
)
from exporter.store.protocol import QuarantineEntry, TaskRow, Transaction
from exporter.store.records import labels_of, nameless_key, task_key

MAX_FIELD_NAME = 64


class BatchItem(Struct, frozen=True, gc=False):
    """Something to be committed: a callback, or a body for the quarantine, or both for an unknown event.

    Args:
        arrival: when it came, seconds.
        callback: what it says, None for a body that says nothing.
        quarantine_entry: what is to be kept for a look.
        replayed: when it was taken out of the quarantine again, seconds; None if it came just now.
    """

    arrival: float
    callback: Callback | Ignored | None = None
    quarantine_entry: QuarantineEntry | None = None
    replayed: float | None = None


class BatchFolder:
    """Folds what arrived into a store's transaction; a store may ask it to do so more than once.

    Args:
        windows: how long the fold waits and remembers.
        labels: names of the labels of the fleet's families.
    """

    def __init__(self, settings: FoldSettings, labels: tuple[str, ...]) -> None:
        self.settings = settings
        self.labels = labels

    def take(self, batch: Sequence[BatchItem], transaction: Transaction) -> None:
        """Take a batch into the step, in the order of arrival."""
        transaction.prefetch([_key(a.callback) for a in batch if isinstance(a.callback, Callback)])
        outcomes: Counter[tuple[str, str]] = Counter()
        newest: dict[str, float] = {}
        for item in batch:
            if item.quarantine_entry is not None:
                transaction.quarantine(item.quarantine_entry)
            if item.callback is not None:
                event, outcome = self._take(item.callback, item, transaction)
                outcomes[event, outcome] += 1
                newest[event] = max(item.arrival, newest.get(event, 0.0))
        self._count(outcomes, newest, transaction)

    def sweep(self, keys: Sequence[str], now: float, transaction: Transaction) -> None:
        """Settle the tasks with these keys as far as time allows; doing it again changes nothing."""
        transaction.prefetch(keys)
        for key in keys:
            task = transaction.task(key)
            if task is None:
                continue
            settled = settle(task, now, self.settings)
            forgotten = is_forgotten(settled.task, now, self.settings)
            self._keep(transaction, settled.task, settled.measurements, now, put=not forgotten)
            if forgotten:
                transaction.delete(key)

    def replay(self, digest: str, item: BatchItem, transaction: Transaction) -> str | None:
        """Move a body from the quarantine into its task; return its outcome, None if it is not there."""
        if item.callback is None or not transaction.release(digest):
            return None
        event, outcome = self._take(item.callback, item, transaction)
        self._count({(event, outcome): 1}, {event: item.arrival}, transaction)
        return outcome

    def _take(
        self, callback: Callback | Ignored, item: BatchItem, transaction: Transaction
    ) -> tuple[str, str]:
        """Take a callback; return its event and what became of it."""
        if isinstance(callback, Ignored):
            return OTHER, "ignored"
        if callback.task_id:
            verdict = self._fold(callback, callback.task_id, item, transaction)
        else:
            verdict = self._attribute(callback, item, transaction)
        for name in callback.unknown_fields if verdict is Verdict.APPLIED else ():
            transaction.increments.count("unknown_fields_total", _field_label(name))
        return callback.kind.callback_event, verdict.value

    def _fold(self, callback: Callback, task_id: str, item: BatchItem, transaction: Transaction) -> Verdict:
        key, arrival = task_key(callback.appid, task_id), item.arrival
        known = transaction.task(key)
        if known is None or is_forgotten(known, arrival, self.settings):
            known = Task(appid=callback.appid, task_id=task_id, first_seen=arrival)
        before = self._with_replay_horizon(known, callback, item)
        if before is None:
            return Verdict.STALE
        folded = fold(before, callback, arrival, self.settings)
        self._keep(transaction, folded.task, folded.measurements, arrival, put=folded.task is not before)
        return folded.verdict

    def _attribute(self, callback: Callback, item: BatchItem, transaction: Transaction) -> Verdict:
        """Fold an exit that names no task into its owner, if that can be told."""
        key, arrival = nameless_key(callback.appid, callback.sources), item.arrival
        known = transaction.task(key) or Task(appid=callback.appid, task_id="", sources=callback.sources)
        nameless = self._with_replay_horizon(known, callback, item)
        if nameless is None:
            return Verdict.STALE
        tasks_with_sources = (
            transaction.tasks_with_sources(callback.appid, callback.sources) if callback.sources else []
        )
        attribution = attribute(nameless, tasks_with_sources, callback, arrival, self.settings)
        self._keep(transaction, attribution.nameless, (), arrival, put=attribution.nameless is not nameless)
        if attribution.owner is not None:
            return self._fold(callback, attribution.owner.task_id, item, transaction)
        shown = Task(
            appid=callback.appid, task_id="", to_host=callback.to_host, source_host=callback.source_host
        )
        self._keep(transaction, shown, attribution.measurements, arrival, put=False)
        return attribution.verdict

    def _with_replay_horizon(self, task: Task, callback: Callback, item: BatchItem) -> Task | None:
        """Return the task as a callback is judged by it; None if no task could tell."""
        if item.replayed is None:
            return task
        return with_replay_horizon(task, callback, item.arrival, item.replayed, self.settings)

    def _count(
        self, outcomes: Mapping[tuple[str, str], int], newest: Mapping[str, float], transaction: Transaction
    ) -> None:
        for (event, outcome), number in outcomes.items():
            transaction.increments.count("callbacks_total", event, outcome, amount=number)
        for event, arrival in newest.items():
            transaction.increments.set_time("last_callback_timestamp_seconds", event, arrival)

    def _keep(
        self,
        transaction: Transaction,
        task: Task,
        measurements: Sequence[Measurement],
        now: float,
        *,
        put: bool,
    ) -> None:
        """Tell what there is to tell of a task, and put it into the store if it has changed."""
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
    readable = name.isascii() and name.isprintable() and len(name) <= MAX_FIELD_NAME
    return name if readable else "_unprintable"
