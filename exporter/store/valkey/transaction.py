"""A transaction of the shared store: how it reads tasks with their versions, and the commit that it makes."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from exporter.metrics.catalogue import OVERFLOW
from exporter.metrics.values import FLEET, SEEN_VALUE, SEP, Increments
from exporter.relay import NONE, Task
from exporter.store.protocol import QuarantineEntry, StoreOptions, TaskRow
from exporter.store.records import RANKS, body_digest, decode_task, encode
from exporter.store.transaction import TransactionBase

Labels = tuple[str, ...]
RunCommand = Callable[..., list[Any]]


class SeenLabels(Struct, frozen=True):
    """The label sets and label values that the store has seen. Nothing is ever deleted from it.

    Args:
        label_sets: the numbers of label sets.
        values: the label values that have series of their own, as keys; `apply_limits` needs a mapping.
    """

    label_sets: dict[Labels, int]
    values: dict[str, int]

    def plus(self, commit: "Commit") -> "SeenLabels":
        """Return the seen labels after a successful commit."""
        if not commit.label_sets and not commit.seen:
            return self
        new = {tuple(json.loads(labels)): number for labels, number, _ in commit.label_sets}
        return SeenLabels(self.label_sets | new, self.values | dict.fromkeys(commit.seen, 1))


class Commit(Struct, kw_only=True):
    """The argument of `commit.lua`: what to change, and what must not have changed since it was read.

    Args:
        client, number: the client and the number of its commit; together they identify the commit.
        deadline: the latest time to run it, microseconds of the server's clock.
        read: keys of tasks with the versions that were read; 0 for a task that does not exist.
        tasks_with_sources: digests of sources with their number of tasks.
        label_sets_known, seen_known: the sizes of SeenLabels; compared only if the commit adds to them.
        label_sets: labels, number and creation time of new label sets.
        rows: key, record, rank, label set, due time and sources of tasks.
        deleted: keys of tasks.
        increments: label set, and the increments of its values, times and exemplars.
        seen: label values that were not seen before.
        deleted_bodies: digests of bodies to delete from the quarantine.
        quarantine_entries: digest, reason, source and arrival of bodies.
        quarantine_limits: number, bytes and oldest arrival; False for no eviction.
    """

    client: str = ""
    number: str = ""
    deadline: int = 0
    read: list[tuple[str, int]]
    tasks_with_sources: list[tuple[str, int]]
    label_sets_known: int
    seen_known: int
    label_sets: list[tuple[str, int, str]]
    rows: list[tuple[str, str, int, int, str, str]]
    deleted: list[str]
    increments: list[tuple[int, list[tuple[str, str]], list[tuple[str, str]], list[tuple[str, str]]]]
    seen: list[str]
    deleted_bodies: list[str]
    quarantine_entries: list[tuple[str, str, str, float]]
    quarantine_limits: tuple[int, int, float] | bool

    @property
    def changes_something(self) -> bool:
        """Whether there is anything to commit."""
        changes = self.rows, self.deleted, self.increments, self.deleted_bodies, self.quarantine_limits
        return any(changes)

    def encoded(self) -> bytes:
        """Return the commit as MessagePack, which the script decodes."""
        return msgspec.msgpack.encode(self)


class ValkeyTransaction(TransactionBase):
    """A transaction of the shared store: it reads from the server immediately, and collects its changes.

    The methods are documented in `exporter.store.protocol`.

    Args:
        read_tasks, tasks_with_sources, has_body: run the command with this name in `commands.lua`.
        seen: the seen labels when the transaction began.
        clock: returns the time, seconds.
    """

    def __init__(
        self,
        *,
        read_tasks: RunCommand,
        tasks_with_sources: RunCommand,
        has_body: RunCommand,
        options: StoreOptions,
        seen: SeenLabels,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self._read_tasks = read_tasks
        self._read_tasks_with_sources = tasks_with_sources
        self._has_body = has_body
        self._options = options
        self._seen = seen
        self._clock = clock
        self._tasks: dict[str, Task | None] = {}
        self._versions: dict[str, int] = {}
        # The number of tasks by sources, as it was read.
        self._tasks_with_sources: dict[str, int] = {}
        self._deleted_bodies: list[str] = []
        # New ones, with the numbers they will have.
        self._label_sets: dict[Labels, int] = {}

    @property
    def bodies(self) -> list[bytes]:
        """The bodies to add to the quarantine, in the order of the commit's entries."""
        return [entry.body for entry in self._quarantine_entries]

    def prefetch(self, keys: Sequence[str]) -> None:
        wanted = [key for key in dict.fromkeys(keys) if key not in self._tasks]
        if wanted:
            records, versions, _ = self._read_tasks(*wanted)
            self._add_tasks(wanted, records, versions)

    def task(self, key: str) -> Task | None:
        if key in self._rows:
            row = self._rows[key]
            return row.task if row else None
        self.prefetch([key])
        return self._tasks[key]

    def tasks_with_sources(self, appid: int, sources: str) -> list[Task]:
        names, records, versions = self._read_tasks_with_sources(sources)
        self._tasks_with_sources.setdefault(sources, len(names))
        keys = [name.decode() for name in names]
        self._add_tasks(keys, records, versions)
        return self._filter_by_sources({key: self._tasks[key] for key in keys}, appid, sources)

    def delete_body(self, digest: str) -> bool:
        if digest in self._deleted_bodies or not self._has_body(digest)[0]:
            return False
        self._deleted_bodies.append(digest)
        return True

    def build_commit(self) -> Commit:
        """Return the commit. Call this once, after all changes."""
        rows = [self._row(key, row) for key, row in self._rows.items() if row is not None]
        self._limit_label_values(self._seen.values)
        newly_seen = self._pop_newly_seen()
        increments = [
            _increments_of(self._label_set(labels), each)
            for labels, each in self.increments.by_labels.items()
        ]
        created = repr(self._clock())
        return Commit(
            read=list(self._versions.items()),
            tasks_with_sources=list(self._tasks_with_sources.items()),
            label_sets_known=len(self._seen.label_sets),
            seen_known=len(self._seen.values),
            label_sets=[(json.dumps(labels), number, created) for labels, number in self._label_sets.items()],
            rows=rows,
            deleted=[key for key, row in self._rows.items() if row is None],
            increments=increments,
            seen=newly_seen,
            deleted_bodies=self._deleted_bodies,
            quarantine_entries=[_columns(entry) for entry in self._quarantine_entries],
            quarantine_limits=False if self._evict_now is None else self._quarantine_limits(self._evict_now),
        )

    def _add_tasks(self, keys: Sequence[str], records: bytes, versions: bytes) -> None:
        """Add tasks that were read. A task that was read before stays the same within the transaction."""
        if not keys:
            return
        lines = records.decode().split("\n")
        for key, record, version in zip(keys, lines, versions.split(), strict=True):
            if key not in self._versions:
                self._versions[key] = int(version)
                self._tasks[key] = decode_task(record) if record else None

    def _row(self, key: str, row: TaskRow) -> tuple[str, str, int, int, str, str]:
        # A nameless task has no state and belongs to no label set, see `relay.attribution`.
        label_set = 0 if row.state == NONE else self._label_set(row.labels)
        return key, encode(row.task), RANKS[row.state], label_set, repr(row.due), row.task.sources

    def _label_set(self, labels: Labels) -> int:
        """Return a label set's number; a new one, or that of all further ones if the limit is reached."""
        number = self._label_sets.get(labels, self._seen.label_sets.get(labels))
        if number is not None:
            return number
        known = len(self._seen.label_sets) + len(self._label_sets)
        overflow = (OVERFLOW,) * len(labels)
        # The fleet has a number, but is no label set of --metrics.labels.
        if known - 1 >= self._options.max_label_sets and labels != overflow:
            self.overflow["label_sets"] += 1
            return self._label_set(overflow)
        self._label_sets[labels] = known
        return known

    def _pop_newly_seen(self) -> list[str]:
        """Remove the newly seen label values from the fleet's increments, and return them."""
        values = self.increments.by_labels[FLEET].values if FLEET in self.increments.by_labels else {}
        return [key for key in list(values) if key.startswith(SEEN_VALUE + SEP) and values.pop(key)]

    def _quarantine_limits(self, now: float) -> tuple[int, int, float]:
        options = self._options
        since = now - options.max_quarantined_age_seconds
        return options.max_quarantined, options.max_quarantined_bytes, since


def _increments_of(number: int, increments: Increments) -> tuple[int, list[Any], list[Any], list[Any]]:
    return (
        number,
        [(key, str(amount)) for key, amount in increments.values.items()],
        [(key, str(time)) for key, time in increments.times.items()],
        [(key, json.dumps(exemplar)) for key, exemplar in increments.exemplars.items()],
    )


def _columns(entry: QuarantineEntry) -> tuple[str, str, str, float]:
    return body_digest(entry.body).hex(), entry.reason, entry.source, entry.arrival
