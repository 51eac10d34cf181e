"""A transaction of the shared store: how it reads tasks with their versions, and the commit that it makes."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from exporter.metrics.catalogue import OVERFLOW
from exporter.metrics.values import FLEET, SEEN_VALUE, SEP, Increments
from exporter.relay import NONE, Task
from exporter.store.protocol import RANKS, StoreOptions, body_digest, decode_task, encode
from exporter.store.transaction import Transaction

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


class ValkeyTransaction(Transaction):
    """A transaction of the shared store: it reads from the server immediately, and collects its changes.

    Args:
        run: runs the command with this name in `commands.lua`.
        seen: the seen labels when the transaction began.
        clock: returns the time, seconds.
    """

    def __init__(
        self,
        run: RunCommand,
        *,
        options: StoreOptions,
        seen: SeenLabels,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self._run = run
        self._options = options
        self._seen = seen
        self._clock = clock
        self._versions: dict[str, int] = {}
        # The number of tasks by sources, as it was read.
        self._tasks_with_sources: dict[str, int] = {}
        # New ones, with the numbers they will have.
        self._label_sets: dict[Labels, int] = {}

    @property
    def bodies(self) -> list[bytes]:
        """The bodies to add to the quarantine, in the order of the commit's entries."""
        return [entry.body for entry in self._quarantine_entries]

    def build_commit(self) -> Commit:
        """Return the commit. Call this once, after all changes."""
        rows = []
        for key, row in self._rows.items():
            if row is not None:
                # A nameless task has no state and belongs to no label set, see `relay.attribution`.
                number = 0 if row.state == NONE else self._label_set(row.labels)
                indexed = RANKS[row.state], number, repr(row.due), row.task.sources
                rows.append((key, encode(row.task).decode(), *indexed))
        self.overflow += self.increments.apply_limits(self._seen.values)
        newly_seen = self._pop_newly_seen()
        increments = [
            _increments_of(self._label_set(labels), each)
            for labels, each in self.increments.by_labels.items()
        ]
        created, entries = repr(self._clock()), self._quarantine_entries
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
            quarantine_entries=[(body_digest(e.body).hex(), e.reason, e.source, e.arrival) for e in entries],
            quarantine_limits=False if self._evict_now is None else self._quarantine_limits(self._evict_now),
        )

    def _quarantine_limits(self, now: float) -> tuple[int, int, float]:
        options = self._options
        since = now - options.max_quarantined_age_seconds
        return options.max_quarantined, options.max_quarantined_bytes, since

    def _read_tasks(self, keys: Sequence[str]) -> dict[str, Task | None]:
        records, versions, _ = self._run("read_tasks", *keys)
        return self._decoded(keys, records, versions)

    def _read_tasks_with_sources(self, sources: str) -> dict[str, Task | None]:
        names, records, versions = self._run("tasks_with_sources", sources)
        self._tasks_with_sources.setdefault(sources, len(names))
        return self._decoded([name.decode() for name in names], records, versions) if names else {}

    def _decoded(self, keys: Sequence[str], records: bytes, versions: bytes) -> dict[str, Task | None]:
        """Return tasks that were read, and remember their versions. The first version of a task counts."""
        lines = records.decode().split("\n")
        self._versions = dict(zip(keys, map(int, versions.split()), strict=True)) | self._versions
        return {key: decode_task(line) if line else None for key, line in zip(keys, lines, strict=True)}

    def _has_body(self, digest: str) -> bool:
        return bool(self._run("has_body", digest)[0])

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


def _increments_of(number: int, increments: Increments) -> tuple[int, list[Any], list[Any], list[Any]]:
    return (
        number,
        [(key, str(amount)) for key, amount in increments.values.items()],
        [(key, str(time)) for key, time in increments.times.items()],
        [(key, json.dumps(exemplar)) for key, exemplar in increments.exemplars.items()],
    )
