"""Moves a store from one place to another: whatever they are, all of its contents pass through here.

At no moment can both be served. The old place is marked before anything is read from it; the new one appears
at once, whole and read back; a move that fails takes its mark back, and one that was cut off is repeated.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Protocol

import msgspec
from msgspec import Struct

from exporter.errors import StoreError, StoreUnavailable
from exporter.ledger import FLEET, Ledger
from exporter.store import Held
from exporter.store.mark import HANDING, LEAVING, MOVED, Mark

#: How many tasks, ledgers and bodies are on their way at once; a body may have 64 KiB.
TASKS, LEDGERS, BODIES = 1000, 100, 100
_DIGESTS = 1 << 128
_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Head(Struct, frozen=True):
    """What a store is beside what it holds.

    Args:
        created: when its counters began, seconds.
        secret: the key of the digests that stand for secrets, hexadecimal.
        labels: its `--metrics.labels`.
        judged_by: the settings that decided what is counted, as flags.
        last: the highest number that a task was given.
    """

    created: float
    secret: str
    labels: str
    judged_by: str
    last: int


class Numbered(Struct, frozen=True):
    """A ledger with its number; the fleet's has 0, and remembers in its values what was told apart."""

    number: int
    ledger: Ledger


class Kept(Struct, frozen=True, gc=False):
    """A task as a store keeps it.

    Args:
        number: its place among all tasks.
        rank: of its state.
        ledger: the number of its ledger, 0 for none.
        due: when a sweep is to look at it next, seconds.
        record: the task, encoded.
    """

    number: int
    rank: int
    ledger: int
    due: float
    record: str


Page = Sequence[Numbered] | Sequence[Kept] | Sequence[Held]


class Departure(Protocol):
    """A place that a store leaves.

    Every method may raise StoreError; of a file nobody else makes use meanwhile.
    """

    name: str

    def mark(self) -> Mark | None:
        """Return the mark that the store has."""
        ...

    def change(self, before: Mark | None, after: Mark | None) -> None:
        """Give it another mark, durably; refuse if it has not the one it had before."""
        ...

    def head(self) -> Head:
        """Return what the store is."""
        ...

    def pages(self) -> Iterator[Page]:
        """Yield all that it holds; with a mark it does not change."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Staged(Protocol):
    """A store that is not there yet."""

    def take(self, page: Page) -> None:
        """Keep a page."""
        ...

    def pages(self) -> Iterator[Page]:
        """Yield all that was kept, in any order."""
        ...


class Arrival(Protocol):
    """A place that a store is moved to."""

    name: str

    def origin(self) -> str:
        """Return which move made the store that is there, nothing if it was none."""
        ...

    def arriving(self, move: str, head: Head, *, replace: bool) -> AbstractContextManager[Staged]:
        """Begin a store, which is there when the block ends well, and leaves nothing behind when it does not.

        Raises:
            StoreError: there is one already, without `replace`, or it is in use.
            StoreUnavailable: at the end of the block: it may be there or not.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Contents(Struct):
    """Counts what passes, and sums up digests of it, whatever its order."""

    tasks: int = 0
    label_sets: int = 0
    bodies: int = 0
    digests: int = 0

    def add(self, page: Page) -> None:
        """Add a page."""
        for item in page:
            self.tasks += isinstance(item, Kept)
            self.bodies += isinstance(item, Held)
            self.label_sets += isinstance(item, Numbered) and item.ledger.labels != FLEET
            digest = blake2b(_encoder.encode(item), digest_size=16).digest()
            self.digests = (self.digests + int.from_bytes(digest)) % _DIGESTS

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.label_sets} label sets, {self.bodies} bodies in the quarantine"


def move(source: Departure, target: Arrival, *, labels: Sequence[str], replace: bool) -> Contents | None:
    """Move a store; return what was moved, None if that was done before, and was only cut off at its end.

    Args:
        labels: what its `--metrics.labels` must be.
        replace: whether a store that is at the target may be given up.

    Raises:
        StoreError: it can't be moved; the text says how to go on.
    """
    before, given = source.mark(), source.head().labels
    if given != ",".join(labels):
        raise StoreError(f"store {source.name} was made with --metrics.labels={given}: give those")
    if before is not None and _has_arrived(before, source, target):
        source.change(before, Mark(MOVED, before.move, before.to))
        return None
    mark = Mark(LEAVING, os.urandom(8).hex(), target.name)
    source.change(before, mark)
    try:
        with target.arriving(mark.move, source.head(), replace=replace) as staged:
            contents = _copy(source, staged, target.name)
            source.change(mark, mark := Mark(HANDING, mark.move, mark.to))
    except BaseException as exc:
        if _may_have_arrived(mark, exc, target):
            raise StoreError(f"{str(exc) or 'stopped'}; it may be done or not: run `move` again") from exc
        # What an earlier move that was cut off has handed over may be on its way still.
        source.change(mark, before if before is not None and before.stage == HANDING else None)
        raise
    source.change(mark, Mark(MOVED, mark.move, mark.to))
    return contents


def stay(source: Departure) -> None:
    """Take back the mark of a move that was cut off.

    Raises:
        StoreError: there is none, or the store may be at its new place already.
    """
    mark = source.mark()
    if mark is None:
        raise StoreError(f"store {source.name} is not being moved")
    if mark.stage == MOVED:
        raise StoreError(mark.told(source.name))
    if mark.stage == HANDING:
        raise StoreError(f"store {source.name} may be at {mark.to} already: run `move` again, to there")
    source.change(mark, None)


def _has_arrived(mark: Mark, source: Departure, target: Arrival) -> bool:
    """Whether an earlier move to that target was cut off when all but its end was done.

    Raises:
        StoreError: the store was moved, or may be elsewhere.
    """
    if mark.stage == MOVED:
        raise StoreError(mark.told(source.name))
    if mark.stage == HANDING and mark.to != target.name:
        raise StoreError(f"store {source.name} may be at {mark.to} already: move it to there")
    return mark.stage == HANDING and target.origin() == mark.move


def _may_have_arrived(mark: Mark, exc: BaseException, target: Arrival) -> bool:
    if mark.stage == LEAVING:
        return False
    is_certain = isinstance(exc, StoreError) and not isinstance(exc, StoreUnavailable)
    return not is_certain or target.origin() == mark.move


def _copy(source: Departure, staged: Staged, name: str) -> Contents:
    given, kept = Contents(), Contents()
    for page in source.pages():
        given.add(page)
        staged.take(page)
    for page in staged.pages():
        kept.add(page)
    if kept != given:
        raise StoreError(f"store {name} does not give back what it was given: {kept} instead of {given}")
    return given
