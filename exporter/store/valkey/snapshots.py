"""What a scrape reads from the shared store: the tasks and the ledgers that changed, or all of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from exporter.ledger import FLEET
from exporter.relay import STATES
from exporter.store import Bookmark, Snapshot
from exporter.store.places import EVERYWHERE, parts_of, place_of
from exporter.store.records import encode
from exporter.store.valkey.fields import ledger_of

#: The server's order within a state is one number: the ledger, and so many bits of the task's own.
SCORE_BITS = 32

Labels = tuple[str, ...]


class Known(Struct, frozen=True):
    """A ledger.

    Args:
        text: its labels as they are kept, a JSON array: ledgers are shown in the order of that, as by SQLite.
        labels: its labels.
        record: itself, encoded.
        counts: how many tasks it has in each state.
    """

    text: bytes
    labels: Labels
    record: str
    counts: Sequence[int]


class Ledgers(Struct, frozen=True):
    """The ledgers as of a commit.

    Args:
        last: the commit.
        labels: of each, as they are kept, by its number.
        known: each, by its number.
    """

    last: str
    labels: Mapping[int, bytes]
    known: Mapping[int, Known]

    def plus(self, last: str, numbers: Sequence[Any], rows: Sequence[Sequence[Any]]) -> "Ledgers":
        """Return them as they are after what changed."""
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        labels = {int(number): text for text, number in pairs} or self.labels
        changed = {number: _known(labels[number], raw, counts) for number, raw, *counts in rows}
        return Ledgers(last, labels, {**self.known, **changed})


_NOTHING = Ledgers("", {}, {})


class Snapshots:
    """Takes snapshots; for those since a bookmark the ledgers that it read last are kept.

    Args:
        run: runs a script: its name and arguments in, its answer out.
        created: when the store was made, seconds.
    """

    def __init__(self, run: Callable[..., list[Any]], created: float) -> None:
        self._run = run
        self._created = created
        self._ledgers = _NOTHING

    def take(self, max_tasks: int, since: Bookmark | None) -> Snapshot:
        """Return what a scrape shows; of the tasks what changed since a bookmark, if that is known."""
        known = self._ledgers if since else _NOTHING
        bookmark = (since.last, *_rank_and_score(since.end)) if since else ("", 0, 0)
        answer = self._run("show", max_tasks, *bookmark, known.last, len(known.labels))
        last, rank, score, total, is_whole, places, tasks, gone, fleet, numbers, rows, quarantined = answer
        # Another thread may have read more since: what is kept is of one commit all the same.
        self._ledgers = ledgers = known.plus(last.decode(), numbers, rows)
        shown = sorted(ledgers.known.values(), key=attrgetter("text"))
        return Snapshot(
            created=self._created,
            fleet=read_ledger(FLEET, fleet),
            ledgers=[(each.labels, each.record) for each in shown],
            counts=[
                (each.labels, state, count)
                for each in shown
                for state, count in zip(STATES, each.counts, strict=True)
                if count
            ],
            is_whole=bool(is_whole),
            places=_places(places),
            tasks=split_lines(tasks),
            gone=[int(number) for number in gone.split()],
            left_out=max(total - max_tasks, 0),
            quarantined=quarantined,
            bookmark=Bookmark(int((last.split() or "0")[0]), _end(rank, int(score)), last.decode()),
        )


def read_ledger(labels: Labels, raw: bytes) -> str:
    """Return the record of a ledger, as it stands in the store in fields."""
    flat: list[str] = msgspec.json.decode(raw)
    return encode(ledger_of(labels, zip(flat[::2], flat[1::2], strict=True)))


def split_lines(text: bytes) -> list[str]:
    """Return the records in a text."""
    return text.decode().split("\n") if text else []


def _known(text: bytes, raw: bytes, counts: Sequence[int]) -> Known:
    labels = tuple(json.loads(text))
    return Known(text, labels, read_ledger(labels, raw), counts)


def _places(text: bytes) -> list[int]:
    numbers = [int(each) for each in text.split()]
    return [_place(rank, score) for rank, score in zip(numbers[::2], numbers[1::2], strict=True)]


def _place(rank: int, score: int) -> int:
    return place_of(rank, score >> SCORE_BITS, score & (1 << SCORE_BITS) - 1)


def _end(rank: int, score: int) -> int:
    return EVERYWHERE if rank == len(STATES) else _place(rank, score)


def _rank_and_score(place: int) -> tuple[int, int]:
    rank, ledger, number = parts_of(place)
    return rank, ledger << SCORE_BITS | number
