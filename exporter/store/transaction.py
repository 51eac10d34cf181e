"""What a step of any store has been told to change, until it is written."""

from collections import Counter
from collections.abc import Mapping

from exporter.metrics.values import BatchIncrements
from exporter.relay import Task
from exporter.store.protocol import QuarantineEntry, TaskRow
from exporter.store.records import key_of


class TransactionBase:
    """The changes of a step. A store adds how it reads, and how it writes them."""

    def __init__(self) -> None:
        self.increments = BatchIncrements()
        self.overflow: Counter[str] = Counter()
        self._rows: dict[str, TaskRow | None] = {}
        self._refused: list[QuarantineEntry] = []
        self._evict_at: float | None = None

    def put(self, row: TaskRow) -> None:
        self._rows[key_of(row.task)] = row

    def forget(self, key: str) -> None:
        self._rows[key] = None

    def quarantine(self, refused: QuarantineEntry) -> None:
        self._refused.append(refused)
        self.evict(refused.arrival)

    def evict(self, now: float) -> None:
        self._evict_at = now

    def _pulling(self, found: Mapping[str, Task | None], appid: int, sources: str) -> list[Task]:
        """Return the tasks that pull from an account's `sources`, of those that were found or are changed."""
        changed = {key: row.task if row else None for key, row in self._rows.items()}
        tasks = [task for task in {**found, **changed}.values() if task is not None and task.task_id]
        return [task for task in tasks if (task.appid, task.sources) == (appid, sources)]

    def _bound(self, seen: Mapping[str, int]) -> None:
        """Put what is past a limit of the catalogue together, and count it."""
        beyond = self.increments.apply_limits(seen)
        self.overflow += Counter(codes=beyond["tasks_exited_total"], fields=beyond["unknown_fields_total"])
