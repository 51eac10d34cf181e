"""A step of the shared store: what it reads, with versions, and the commit that it becomes."""

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
Read = Callable[..., list[Any]]


class Bounds(Struct, frozen=True):
    """What has been told apart: it only ever grows, so that what is known of it stays true.

    Args:
        ledgers: numbers of ledgers by their labels.
        seen: label values of families with a limit.
    """

    label_sets: dict[Labels, int]
    seen: dict[str, int]

    def plus(self, commit: "Commit") -> "Bounds":
        """Return them as they are after a commit that found them as they were."""
        if not commit.label_sets and not commit.seen:
            return self
        new = {tuple(json.loads(labels)): number for labels, number, _ in commit.label_sets}
        return Bounds(self.label_sets | new, self.seen | dict.fromkeys(commit.seen, 1))


class Commit(Struct, kw_only=True):
    """What is to be changed, and what must still be as it was read; as `commit.lua` takes it.

    Args:
        client, number: what tells it from every other commit.
        deadline: when it must have begun, microseconds of the server's clock.
        read: keys of tasks with the versions that were read, 0 for none.
        tasks_with_sources: digests of sources with the number of tasks that pull from them.
        label_sets_known, seen_known: how many were told apart; looked at where more are to be.
        ledgers: labels, number and time of new ledgers.
        rows: key, record, rank, ledger, due and sources of tasks.
        increments: label set, and what is added to its values, marks and exemplars.
        bounds: number, bytes and age up to which bodies are kept, if they are to be looked at.
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
    forgotten: list[str]
    increments: list[tuple[int, list[tuple[str, str]], list[tuple[str, str]], list[tuple[str, str]]]]
    seen: list[str]
    released: list[str]
    quarantine_entries: list[tuple[str, str, str, float]]
    bounds: tuple[int, int, float] | bool

    @property
    def changes_something(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.rows or self.forgotten or self.increments or self.released or self.bounds)

    def encoded(self) -> bytes:
        """Return it as the script takes it."""
        return msgspec.msgpack.encode(self)


class ValkeyTransaction(TransactionBase):
    """A transaction of the shared store: reads go to the server, changes wait for the commit.

    Args:
        read, tasks_with_sources, holds: the scripts of these names: arguments in, answer out.
        terms: what is agreed with the store.
        bounds: what was told apart when it was read.
        clock: gives the time, seconds.
    """

    def __init__(
        self,
        *,
        read: Read,
        tasks_with_sources: Read,
        holds: Read,
        options: StoreOptions,
        bounds: Bounds,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self._read_tasks = read
        self._read_tasks_with_sources = tasks_with_sources
        self._holds = holds
        self._options = options
        self._bounds = bounds
        self._clock = clock
        self._tasks: dict[str, Task | None] = {}
        self._versions: dict[str, int] = {}
        self._tasks_with_sources: dict[str, int] = {}
        self._released: list[str] = []
        self._label_sets: dict[Labels, int] = {}

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of what was refused; they may be any bytes, and travel beside the commit."""
        return [refused.body for refused in self._refused]

    def prefetch(self, keys: Sequence[str]) -> None:
        wanted = [key for key in dict.fromkeys(keys) if key not in self._tasks]
        if wanted:
            records, versions, _ = self._read_tasks(*wanted)
            self._take(wanted, records, versions)

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
        self._take(keys, records, versions)
        return self._pulling({key: self._tasks[key] for key in keys}, appid, sources)

    def release(self, digest: str) -> bool:
        if digest in self._released or not self._holds(digest)[0]:
            return False
        self._released.append(digest)
        return True

    def commit(self) -> Commit:
        """Return what is to be committed; to be called once, when all the rest is done."""
        rows = [self._row(key, row) for key, row in self._rows.items() if row is not None]
        self._bound(self._bounds.seen)
        seen = self._take_seen()
        increments = [
            _increments_of(self._label_set(labels), each)
            for labels, each in self.increments.by_labels.items()
        ]
        created = repr(self._clock())
        return Commit(
            read=list(self._versions.items()),
            tasks_with_sources=list(self._tasks_with_sources.items()),
            label_sets_known=len(self._bounds.label_sets),
            seen_known=len(self._bounds.seen),
            label_sets=[(json.dumps(labels), number, created) for labels, number in self._label_sets.items()],
            rows=rows,
            forgotten=[key for key, row in self._rows.items() if row is None],
            increments=increments,
            seen=seen,
            released=self._released,
            quarantine_entries=[_refused(refused) for refused in self._refused],
            bounds=False if self._evict_at is None else self._kept(self._evict_at),
        )

    def _take(self, keys: Sequence[str], records: bytes, versions: bytes) -> None:
        """Keep what was read; what is known already must not change within the step."""
        if not keys:
            return
        lines = records.decode().split("\n")
        for key, record, version in zip(keys, lines, versions.split(), strict=True):
            if key not in self._versions:
                self._versions[key] = int(version)
                self._tasks[key] = decode_task(record) if record else None

    def _row(self, key: str, row: TaskRow) -> tuple[str, str, int, int, str, str]:
        # What is remembered of exits without a task belongs to no ledger.
        label_set = 0 if row.state == NONE else self._label_set(row.labels)
        return key, encode(row.task), RANKS[row.state], label_set, repr(row.due), row.task.sources

    def _label_set(self, labels: Labels) -> int:
        """Return the number of a label set's ledger, made if there is room, or of that of all others."""
        number = self._label_sets.get(labels, self._bounds.label_sets.get(labels))
        if number is not None:
            return number
        known = len(self._bounds.label_sets) + len(self._label_sets)
        beyond = (OVERFLOW,) * len(labels)
        if known - 1 >= self._options.max_label_sets and labels != beyond:
            self.overflow["label_sets"] += 1
            return self._label_set(beyond)
        self._label_sets[labels] = known
        return known

    def _take_seen(self) -> list[str]:
        """Take out of the tally what it has newly told apart."""
        values = self.increments.by_labels[FLEET].values if FLEET in self.increments.by_labels else {}
        return [key for key in list(values) if key.startswith(SEEN_VALUE + SEP) and values.pop(key)]

    def _kept(self, now: float) -> tuple[int, int, float]:
        options = self._options
        since = now - options.max_quarantined_age_seconds
        return options.max_quarantined, options.max_quarantined_bytes, since


def _increments_of(label_set: int, increments: Increments) -> tuple[int, list[Any], list[Any], list[Any]]:
    return (
        label_set,
        [(key, str(amount)) for key, amount in increments.values.items()],
        [(key, str(mark)) for key, mark in increments.times.items()],
        [(key, json.dumps(exemplar)) for key, exemplar in increments.exemplars.items()],
    )


def _refused(refused: QuarantineEntry) -> tuple[str, str, str, float]:
    digest = body_digest(refused.body).hex()
    return digest, refused.reason, refused.source, refused.arrival
