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
    Tale,
    Task,
    Verdict,
    Windows,
    attribute,
    fold,
    is_forgotten,
    next_due,
    recalled,
    settle,
    state_of,
)
from exporter.store.protocol import Refused, Row, Transaction
from exporter.store.records import labels_of, nameless_key, task_key

MAX_FIELD_NAME = 64


class Arrived(Struct, frozen=True, gc=False):
    """Something to be committed: a callback, or a body for the quarantine, or both for an unknown event.

    Args:
        arrival: when it came, seconds.
        callback: what it says, None for a body that says nothing.
        refused: what is to be kept for a look.
        replayed: when it was taken out of the quarantine again, seconds; None if it came just now.
    """

    arrival: float
    callback: Callback | Ignored | None = None
    refused: Refused | None = None
    replayed: float | None = None


class BatchFolder:
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
                event, outcome = self._take(arrived.callback, arrived, step)
                outcomes[event, outcome] += 1
                newest[event] = max(arrived.arrival, newest.get(event, 0.0))
        self._count(outcomes, newest, step)

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

    def replay(self, digest: str, arrived: Arrived, step: Transaction) -> str | None:
        """Move a body from the quarantine into its task; return its outcome, None if it is not there."""
        if arrived.callback is None or not step.release(digest):
            return None
        event, outcome = self._take(arrived.callback, arrived, step)
        self._count({(event, outcome): 1}, {event: arrived.arrival}, step)
        return outcome

    def _take(self, callback: Callback | Ignored, arrived: Arrived, step: Transaction) -> tuple[str, str]:
        """Take a callback; return its event and what became of it."""
        if isinstance(callback, Ignored):
            return OTHER, "ignored"
        if callback.task_id:
            verdict = self._fold(callback, callback.task_id, arrived, step)
        else:
            verdict = self._attribute(callback, arrived, step)
        for name in callback.unknown_fields if verdict is Verdict.APPLIED else ():
            step.tally.count("unknown_fields_total", _field_label(name))
        return callback.kind.callback_event, verdict.value

    def _fold(self, callback: Callback, task_id: str, arrived: Arrived, step: Transaction) -> Verdict:
        key, arrival = task_key(callback.appid, task_id), arrived.arrival
        known = step.task(key)
        if known is None or is_forgotten(known, arrival, self.windows):
            known = Task(appid=callback.appid, task_id=task_id, first_seen=arrival)
        before = self._recalled(known, callback, arrived)
        if before is None:
            return Verdict.STALE
        folded = fold(before, callback, arrival, self.windows)
        self._keep(step, folded.task, folded.tales, arrival, put=folded.task is not before)
        return folded.verdict

    def _attribute(self, callback: Callback, arrived: Arrived, step: Transaction) -> Verdict:
        """Fold an exit that names no task into its owner, if that can be told."""
        key, arrival = nameless_key(callback.appid, callback.sources), arrived.arrival
        known = step.task(key) or Task(appid=callback.appid, task_id="", sources=callback.sources)
        nameless = self._recalled(known, callback, arrived)
        if nameless is None:
            return Verdict.STALE
        siblings = step.siblings(callback.appid, callback.sources) if callback.sources else []
        attribution = attribute(nameless, siblings, callback, arrival, self.windows)
        self._keep(step, attribution.nameless, (), arrival, put=attribution.nameless is not nameless)
        if attribution.owner is not None:
            return self._fold(callback, attribution.owner.task_id, arrived, step)
        shown = Task(
            appid=callback.appid, task_id="", to_host=callback.to_host, source_host=callback.source_host
        )
        self._keep(step, shown, attribution.tales, arrival, put=False)
        return attribution.verdict

    def _recalled(self, task: Task, callback: Callback, arrived: Arrived) -> Task | None:
        """Return the task as a callback is judged by it; None if no task could tell."""
        if arrived.replayed is None:
            return task
        return recalled(task, callback, arrived.arrival, arrived.replayed, self.windows)

    def _count(
        self, outcomes: Mapping[tuple[str, str], int], newest: Mapping[str, float], step: Transaction
    ) -> None:
        for (event, outcome), number in outcomes.items():
            step.tally.count("callbacks_total", event, outcome, amount=number)
        for event, arrival in newest.items():
            step.tally.mark("last_callback_timestamp_seconds", event, arrival)

    def _keep(self, step: Transaction, task: Task, tales: Sequence[Tale], now: float, *, put: bool) -> None:
        """Tell what there is to tell of a task, and put it into the store if it has changed."""
        labels = labels_of(task, self.labels)
        if tales:
            step.tally.tell(tales, labels, task.task_id, now)
        if put:
            step.put(Row(task, labels, state_of(task, self.windows), next_due(task, self.windows)))


def _key(callback: Callback) -> str:
    if callback.task_id:
        return task_key(callback.appid, callback.task_id)
    return nameless_key(callback.appid, callback.sources)


def _field_label(name: str) -> str:
    readable = name.isascii() and name.isprintable() and len(name) <= MAX_FIELD_NAME
    return name if readable else "_unprintable"
