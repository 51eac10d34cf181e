"""What every store can do, and in which values it is asked and answers.

A store knows tasks, ledgers and the quarantine, and how to change them in one atomic step. What the
changes mean is decided above it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from exporter.errors import StoreError
from exporter.metrics.values import BatchIncrements
from exporter.relay import STATES, Task

T = TypeVar("T")


class StoreOptions(Struct, frozen=True, kw_only=True):
    """What is agreed with a store when it is opened.

    Args:
        labels: `--metrics.labels`; fixed when a store is made.
        fold_settings_fingerprint: the settings that decide what is counted, as flags. When they change, all
            tasks become due.
        as_guest: use a store that another process serves. It must exist, with the same fold settings.
        max_label_sets: label sets told apart; past it all are one.
        max_quarantined, max_quarantined_bytes, max_quarantined_age_seconds: how much the quarantine keeps.
    """

    labels: tuple[str, ...] = ("appid", "to_host")
    fold_settings_fingerprint: str = ""
    as_guest: bool = False
    max_label_sets: int = 1000
    max_quarantined: int = 1000
    max_quarantined_bytes: int = 16 * 1024 * 1024
    max_quarantined_age_seconds: float = 30 * 86400.0

    def agree(self, meta: Mapping[str, str], name: object, elsewhere: str) -> bool:
        """Return whether a store's tasks were judged by the same settings.

        Args:
            meta: what the store called `name` says of itself.
            elsewhere: where a store with other labels could be.

        Raises:
            StoreError: the store is not to be served so; the text says how to go on.
        """
        labels, fold_settings_fingerprint = ",".join(self.labels), meta.get("judged_by", "")
        if "moved" in meta:  # by an earlier version; it may have been served elsewhere since
            to = meta["moved"].split(" ", 2)[2]
            raise StoreError(
                f"store {name} was moved to {to}, or was about to be: give --store.url={to}; "
                "if no store is there, `dump` this one and `load` it"
            )
        if meta["labels"] != labels:
            raise StoreError(
                f"store {name} was made with --metrics.labels={meta['labels']}, not {labels}: "
                f"start with those labels, or give --store.url {elsewhere} (its counters begin at 0)"
            )
        if self.as_guest and fold_settings_fingerprint not in ("", self.fold_settings_fingerprint):
            differing = set(fold_settings_fingerprint.split(" ")) - set(
                self.fold_settings_fingerprint.split(" ")
            )
            raise StoreError(f"store {name} is served with other settings: add {' '.join(sorted(differing))}")
        return meta.get("judged_by") == self.fold_settings_fingerprint


class TaskRow(Struct, frozen=True, gc=False):
    """A task as it is put into the store.

    Args:
        task: the task.
        labels: its values of `--metrics.labels`.
        state: its state, one of `relay.STATES` or NONE.
        due: when a sweep is to look at it next, seconds.
    """

    task: Task
    labels: tuple[str, ...]
    state: str
    due: float


class QuarantineEntry(Struct, frozen=True, gc=False):
    """A body for the quarantine.

    Args:
        reason: one of `catalogue.QUARANTINE_REASONS`.
        body: the bytes as they came.
        source: the address they came from.
        arrival: when they came, seconds.
    """

    reason: str
    body: bytes
    source: str
    arrival: float


class QuarantinedBody(Struct, frozen=True):
    """A body in the quarantine.

    Args:
        digest: 32 hexadecimal characters that it is known by.
        reason: one of `catalogue.QUARANTINE_REASONS`.
        body: the bytes as they came.
        source: the address that they came from last.
        count: how often they came.
        first, last: when they came first and last, seconds.
    """

    digest: str
    reason: str
    body: bytes
    source: str
    count: int
    first: float
    last: float


class Snapshot(Struct, frozen=True):
    """The store at one moment.

    Args:
        created: when the store was made, seconds.
        fleet: the record of the fleet's ledger, encoded.
        ledgers: the labels and the encoded records of all the others.
        counts: labels, state and number of the tasks known; a number of 0 may be missing.
        tasks: the encoded records of as many tasks as were asked for.
        left_out: how many tasks are known beside them.
        quarantined: how many bodies are in the quarantine.
    """

    created: float
    fleet: str
    label_sets: Sequence[tuple[tuple[str, ...], str]]
    counts: Sequence[tuple[tuple[str, ...], str, int]]
    tasks: Sequence[str]
    left_out: int
    quarantined: int

    @property
    def count_by_state(self) -> Counter[str]:
        """The number of tasks known by state."""
        counts: Counter[str] = Counter()
        for _, state, number in self.counts:
            counts[state] += number
        return counts


class Transaction(Protocol):
    """One atomic step: what is read is what is changed, and all of it is kept or nothing.

    A store may run a step again when another process came in between, so that it must have no effect but
    through this object.
    """

    increments: BatchIncrements

    def prefetch(self, keys: Sequence[str]) -> None:
        """Read these tasks at once, before they are asked for: it saves time, and changes nothing."""
        ...

    def task(self, key: str) -> Task | None:
        """Return the task with that key as it stands in this step."""
        ...

    def tasks_with_sources(self, appid: int, sources: str) -> list[Task]:
        """Return the tasks of an account that pull from these sources."""
        ...

    def put(self, row: TaskRow) -> None:
        """Keep a task."""
        ...

    def forget(self, key: str) -> None:
        """Drop a task; dropping one that is not there changes nothing."""
        ...

    def quarantine(self, refused: QuarantineEntry) -> None:
        """Keep a body for a look; one that is there already is only counted again."""
        ...

    def release(self, digest: str) -> bool:
        """Take a body out of the quarantine; return whether it was there."""
        ...

    def evict(self, now: float) -> None:
        """Give up bodies past the bounds at `now` (seconds), those longest not seen first, and count them."""
        ...


class PreparedCommit(Struct, Generic[T], frozen=True):
    """A transaction whose work is done.

    Args:
        commit: makes it durable; returns the result of the work, and how much each limit left out.
    """

    commit: Callable[[], tuple[T, dict[str, int]]]


class Store(Protocol):
    """Keeps tasks, ledgers and the quarantine.

    Every method may raise StoreUnavailable: then nothing was changed. `begin` with its commit, `transact`,
    `due` and `probe` are called one at a time, from any thread; `snapshot`, `listing`, `find` and `bodies`
    at any time.
    """

    @property
    def secret(self) -> bytes:
        """The key of the digests that stand for secrets; made with the store."""
        ...

    def begin(self, work: Callable[[Transaction], T], *, wait: bool) -> PreparedCommit[T]:
        """Run `work` in a transaction; nothing of it can be seen before it is committed.

        Raises:
            WouldBlock: not without `wait`: another process is at it, or the store is beyond a network.
        """
        ...

    def transact(self, work: Callable[[Transaction], T]) -> tuple[T, dict[str, int]]:
        """Run `work` in a transaction and commit it, waiting as long as it takes."""
        ...

    def due(self, now: float, limit: int) -> list[str]:
        """Return the keys of tasks that a sweep is to look at, those due longest first."""
        ...

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        """Return the store with every finished step.

        Args:
            max_tasks: how many tasks are read at most.
            states: in which order: where there are too many, those of the last state are left out first.
        """
        ...

    def listing(self, *, state: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        """Return tasks with a state, as position and record, from after a position on."""
        ...

    def find(self, key: str) -> str | None:
        """Return the record of the task with that key."""
        ...

    def bodies(
        self, *, limit: int, reason: str | None = None, prefix: str = "", after: QuarantinedBody | None = None
    ) -> list[QuarantinedBody]:
        """Return bodies in the quarantine by first arrival, from after one on.

        Those of a reason alone, and those whose digest begins with `prefix`, if that is given.
        """
        ...

    def probe(self) -> None:
        """Write something durable and read it back."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...
