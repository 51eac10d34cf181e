"""The interface of a store, and the values that go in and out of it.

A store keeps tasks, the values of label sets and the quarantine. It changes them in atomic transactions.
The caller decides what the changes mean.

The record of a task or of a label set is a JSON array on one line, so that operators can read it with any
tool, and many records can be sent as one text. New fields are only added at the end of an array, so that a
program can read records of earlier versions.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from exporter.errors import StoreError
from exporter.metrics.values import LabelSetValues
from exporter.relay import NONE, STATES, Task
from exporter.store.transaction import Transaction

T = TypeVar("T")

#: A state is stored as its position in this order. Never change the order: stores have it on disk.
STORED_STATES = (*STATES, NONE)
RANKS = {state: rank for rank, state in enumerate(STORED_STATES)}

_tasks = msgspec.json.Decoder(Task)

#: Returns the record of a task or of a label set, in UTF-8.
encode: Callable[[Task | LabelSetValues], bytes] = msgspec.json.Encoder().encode
#: Return the task or the label set of a record, and the tasks in several lines.
decode_task: Callable[[str | bytes], Task] = _tasks.decode
decode_tasks: Callable[[str | bytes], list[Task]] = _tasks.decode_lines
decode_label_set: Callable[[str | bytes], LabelSetValues] = msgspec.json.Decoder(LabelSetValues).decode


def body_digest(body: bytes) -> bytes:
    """Return the identifier of a body in the quarantine, 16 bytes."""
    return blake2b(body, digest_size=16).digest()


def task_key(appid: int, task_id: str) -> str:
    """Return the key of a task, as `relay.key_of` does for a task that is known."""
    return f"{appid}/{task_id}"


class StoreOptions(Struct, frozen=True, kw_only=True):
    """The options that a store is opened with.

    Args:
        labels: `--metrics.labels`; fixed when a store is created.
        fold_settings_fingerprint: the settings that decide what is counted, as flags. When they change, all
            tasks become due.
        attach_only: do not create the store; it must exist, and its fold settings must be those of these
            options.
        max_label_sets: maximum number of separate label sets; all further ones are counted together.
        max_quarantined, max_quarantined_bytes, max_quarantined_age_seconds: limits of the quarantine.
    """

    labels: tuple[str, ...] = ("appid", "to_host")
    fold_settings_fingerprint: str = ""
    attach_only: bool = False
    max_label_sets: int = 1000
    max_quarantined: int = 1000
    max_quarantined_bytes: int = 16 * 1024 * 1024
    max_quarantined_age_seconds: float = 30 * 86400.0

    def check_meta(self, meta: Mapping[str, str], name: object, elsewhere: str) -> bool:
        """Check that a store can be used with these options; return whether its fold settings are the same.

        Args:
            meta: what the store states about itself: its ID, labels, secret, and the start of its counters.
            name: the store, for error messages.
            elsewhere: where a store with other labels could be created, for error messages.

        Raises:
            StoreError: the store has other labels or other fold settings, or an earlier version moved it.
        """
        labels, fingerprint = ",".join(self.labels), meta.get("judged_by", "")
        # `judged_by` is an earlier version's name for the fold settings. Only such a version writes `moved`.
        # The other store may have counted more since then.
        if "moved" in meta:
            to = meta["moved"].split(" ", 2)[2]
            raise StoreError(
                f"store {name} was moved to {to}, or the move was interrupted; set --store.url={to}. "
                f"If there is no store at {to}, `dump` this one and `load` the dump there"
            )
        if meta["labels"] != labels:
            raise StoreError(
                f"store {name} was created with --metrics.labels={meta['labels']}, not {labels}; "
                f"start with those labels, or set --store.url to {elsewhere} (its counters start at 0)"
            )
        if self.attach_only and fingerprint not in ("", self.fold_settings_fingerprint):
            missing = set(fingerprint.split(" ")) - set(self.fold_settings_fingerprint.split(" "))
            flags = " ".join(sorted(missing))
            raise StoreError(f"the exporter of store {name} has other settings; add {flags} to this command")
        return meta.get("judged_by") == self.fold_settings_fingerprint


class QuarantinedBody(Struct, frozen=True):
    """A body in the quarantine.

    Args:
        digest: the body's identifier, 32 hexadecimal characters.
        reason: one of `catalogue.QUARANTINE_REASONS`.
        body: the bytes as they were received.
        source: the address of the last sender.
        count: how often the body was received.
        first, last: when it was first and last received, seconds.
    """

    digest: str
    reason: str
    body: bytes
    source: str
    count: int
    first: float
    last: float


class Snapshot(Struct, frozen=True):
    """The content of the store at one moment.

    Args:
        created: when the counters of the store started, seconds.
        fleet: the encoded values of the fleet.
        label_sets: the labels and the encoded values of every other label set.
        counts: labels, state and number of tasks; an entry with the number 0 may be missing.
        tasks: the encoded tasks, up to the requested maximum.
        left_out: the number of tasks that are not in `tasks`.
        quarantined: the number of bodies in the quarantine.
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
        """The number of tasks by state."""
        counts: Counter[str] = Counter()
        for _, state, number in self.counts:
            counts[state] += number
        return counts


class PreparedCommit(Struct, Generic[T], frozen=True):
    """A transaction with all its work done, ready to be committed.

    Args:
        commit: commits it; returns the result of the work, and how much was left out by each limit.
    """

    commit: Callable[[], tuple[T, dict[str, int]]]


class Store(Protocol):
    """A store of tasks, the values of label sets and the quarantine.

    Every method may raise StoreUnavailable. Then nothing has changed, except that a commit whose answer was
    lost may have been made. `begin` with its commit, `transact`, `due_keys` and `probe` must not run at the
    same time, but may be called from any thread. `snapshot`, `list_tasks`, `find_task` and `bodies` may be
    called at any time.
    """

    @property
    def secret(self) -> bytes:
        """The key of the digests that replace secrets; created with the store."""
        ...

    def begin(self, work: Callable[[Transaction], T], *, wait: bool) -> PreparedCommit[T]:
        """Run `work` in a transaction; its changes are visible after the commit only.

        Raises:
            WouldBlock: `wait` is false, and another process holds the lock or the store is on a server.
        """
        ...

    def transact(self, work: Callable[[Transaction], T]) -> tuple[T, dict[str, int]]:
        """Run `work` in a transaction and commit it, waiting for other processes where necessary."""
        ...

    def due_keys(self, now: float, limit: int) -> list[str]:
        """Return the keys of tasks that a sweep must check, the longest overdue first."""
        ...

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        """Return the content of the store, with every transaction committed so far.

        Args:
            max_tasks: maximum number of tasks to read.
            states: the order of states; tasks of the last state are left out first.
        """
        ...

    def list_tasks(self, *, state: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        """Return up to `limit` tasks after the position `after`, as positions and encoded tasks.

        With a `state`: only the tasks in it.
        """
        ...

    def find_task(self, key: str) -> str | None:
        """Return the encoded task with this key; None if it is not known."""
        ...

    def bodies(
        self, *, limit: int, reason: str | None = None, prefix: str = "", after: QuarantinedBody | None = None
    ) -> list[QuarantinedBody]:
        """Return up to `limit` bodies of the quarantine by first arrival, starting after the body `after`.

        With a `reason` or a `prefix`: only bodies with that reason, or with a digest that starts so.
        """
        ...

    def probe(self) -> None:
        """Check that the store can be written: write a test value durably and read it back."""
        ...

    def close(self) -> None:
        """Close the store."""
        ...
