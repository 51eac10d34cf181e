"""A transaction: what it has read of the store, and the changes that wait to be written."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from exporter.metrics.values import BatchIncrements
from exporter.relay import Task, key_of


class TaskRow(Struct, frozen=True, gc=False):
    """A task to write to the store.

    Args:
        labels: its values of `--metrics.labels`.
        state: its state, one of `relay.STATES` or NONE.
        due: when the next sweep must check it, seconds.
    """

    task: Task
    labels: tuple[str, ...]
    state: str
    due: float


class QuarantineEntry(Struct, frozen=True, gc=False):
    """A body to add to the quarantine.

    Args:
        reason: one of `catalogue.QUARANTINE_REASONS`.
        body: the bytes as they were received.
        source: the address of the sender.
        arrival: when the body was received, seconds.
    """

    reason: str
    body: bytes
    source: str
    arrival: float


class Transaction(ABC):
    """An atomic transaction: all of its changes are committed, or none.

    A store may run the same work again if another process changed the same tasks. So the work must have no
    effect outside of this object. Each kind of store adds how it reads and how it writes.
    """

    def __init__(self) -> None:
        #: What to add to the values of label sets.
        self.increments = BatchIncrements()
        #: How much was left out by each limit.
        self.overflow: Counter[str] = Counter()
        #: The tasks that were read or changed here, by key; None for a task that does not exist.
        self._tasks: dict[str, Task | None] = {}
        #: The changed tasks, by key; None for a task that is deleted.
        self._rows: dict[str, TaskRow | None] = {}
        self._quarantine_entries: list[QuarantineEntry] = []
        self._deleted_bodies: list[str] = []
        #: UNIX time of the eviction to make in this transaction, seconds; None for none.
        self._evict_now: float | None = None

    def prefetch(self, keys: Sequence[str]) -> None:
        """Read these tasks in one request, before `task` returns them one by one."""
        missing = dict.fromkeys(keys).keys() - self._tasks.keys()
        if missing:
            self._tasks |= dict.fromkeys(missing) | self._read_tasks(sorted(missing))

    def task(self, key: str) -> Task | None:
        """Return the task with this key, including changes of this transaction."""
        if key not in self._tasks:
            self.prefetch([key])
        return self._tasks[key]

    def tasks_with_sources(self, appid: int, sources: str) -> list[Task]:
        """Return the tasks of an account that pull from these sources."""
        self._tasks = self._read_tasks_with_sources(sources) | self._tasks
        # Without nameless tasks, see `relay.attribution`.
        found = [task for task in self._tasks.values() if task is not None and task.task_id]
        return [task for task in found if (task.appid, task.sources) == (appid, sources)]

    def put(self, row: TaskRow) -> None:
        """Write a task with its labels and state, and when it is due."""
        key = key_of(row.task)
        self._rows[key], self._tasks[key] = row, row.task

    def delete(self, key: str) -> None:
        """Delete a task; a key without a task is ignored."""
        self._rows[key] = self._tasks[key] = None

    def quarantine(self, entry: QuarantineEntry) -> None:
        """Add a body to the quarantine; only increase its count if it is there already."""
        self._quarantine_entries.append(entry)
        # A new body may exceed a limit of the quarantine.
        self.evict(entry.arrival)

    def delete_body(self, digest: str) -> bool:
        """Delete a body from the quarantine; return whether it was there."""
        if digest in self._deleted_bodies or not self._has_body(digest):
            return False
        self._deleted_bodies.append(digest)
        return True

    def evict(self, now: float) -> None:
        """Delete and count the bodies above the limits at `now` (seconds), the longest unseen first."""
        self._evict_now = now

    @abstractmethod
    def _read_tasks(self, keys: Sequence[str]) -> dict[str, Task | None]:
        """Return the tasks with these keys; a task that does not exist may be missing."""

    @abstractmethod
    def _read_tasks_with_sources(self, sources: str) -> dict[str, Task | None]:
        """Return the tasks that pull from these sources, by key; also nameless ones."""

    @abstractmethod
    def _has_body(self, digest: str) -> bool:
        """Return whether the quarantine has this body."""
