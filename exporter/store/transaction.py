"""The part of a transaction that all stores share: the changes that wait to be written."""

from collections import Counter
from collections.abc import Mapping

from exporter.metrics.values import BatchIncrements
from exporter.relay import Task
from exporter.store.protocol import QuarantineEntry, TaskRow
from exporter.store.records import key_of


class TransactionBase:
    """The changes of a transaction. Each store adds how it reads and how it writes.

    The methods are documented in `exporter.store.protocol`.
    """

    def __init__(self) -> None:
        self.increments = BatchIncrements()
        self.overflow: Counter[str] = Counter()
        # By key; None for a task that is deleted.
        self._rows: dict[str, TaskRow | None] = {}
        self._quarantine_entries: list[QuarantineEntry] = []
        # UNIX time of the eviction to make in this transaction, seconds; None for none.
        self._evict_now: float | None = None

    def put(self, row: TaskRow) -> None:
        self._rows[key_of(row.task)] = row

    def delete(self, key: str) -> None:
        self._rows[key] = None

    def quarantine(self, entry: QuarantineEntry) -> None:
        self._quarantine_entries.append(entry)
        # A new body may exceed a limit of the quarantine.
        self.evict(entry.arrival)

    def evict(self, now: float) -> None:
        self._evict_now = now

    def _filter_by_sources(self, found: Mapping[str, Task | None], appid: int, sources: str) -> list[Task]:
        """Return the tasks of an account with these `sources`, among those found and those changed here."""
        changed = {key: row.task if row else None for key, row in self._rows.items()}
        # Without nameless tasks, see `relay.attribution`.
        tasks = [task for task in {**found, **changed}.values() if task is not None and task.task_id]
        return [task for task in tasks if (task.appid, task.sources) == (appid, sources)]

    def _limit_label_values(self, seen: Mapping[str, int]) -> None:
        """Count label values above a family's limit as one value, and count how many there were."""
        merged = self.increments.apply_limits(seen)
        self.overflow += Counter(codes=merged["tasks_exited_total"], fields=merged["unknown_fields_total"])
