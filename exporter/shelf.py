"""Rows of text in order, of which a few change and all are read, column by column.

They stand in blocks, and of a block each column is one text: reading a column joins few texts, and changing
a row touches one block.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import Struct

Row = tuple[bytes, ...]

#: A block is split when it has more rows than this, and joined with the next when it has but a few.
MAX_ROWS, FEW_ROWS = 128, 16

BLOCKS_AT_ONCE = 16

#: Ends each row's part of a column: no UTF-8 has it.
END = b"\xff"


class Block(Struct, frozen=True):
    """Some rows that stand next to each other.

    Args:
        places: where each of them stands.
        columns: the text of each column, with an end after every row.
    """

    places: tuple[int, ...]
    columns: Row

    def rows(self) -> dict[int, Row]:
        """Return the rows by their places."""
        return dict(zip(self.places, zip(*[c.split(END) for c in self.columns], strict=True), strict=False))


class Shelf:
    """Rows by place."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []

    def __len__(self) -> int:
        return sum(len(block.places) for block in self._blocks)

    def change(self, put: Mapping[int, Row], gone: Collection[int]) -> None:
        """Put rows at their places, over what is there, and take away what is at others."""
        blocks: list[Block] = []
        few: dict[int, Row] = {}
        for block, places in zip(self._blocks or [Block((), ())], self._sorted([*put, *gone]), strict=True):
            if not places and not few and len(block.places) >= FEW_ROWS:
                blocks.append(block)
                continue
            few |= block.rows()
            for place in places:
                if place in put:
                    few[place] = put[place]
                else:
                    few.pop(place, None)
            if len(few) >= FEW_ROWS:
                blocks += _blocks_of(few)
                few = {}
        self._blocks = blocks + _blocks_of(few)

    def column(self, index: int) -> Iterator[bytes]:
        """Yield the text of a column, in parts that fit into a processor's cache."""
        for first in range(0, len(self._blocks), BLOCKS_AT_ONCE):
            blocks = self._blocks[first : first + BLOCKS_AT_ONCE]
            yield b"".join([block.columns[index] for block in blocks]).replace(END, b"")

    def _sorted(self, places: Iterable[int]) -> list[list[int]]:
        """Return the places that belong to each block."""
        firsts = [block.places[0] for block in self._blocks[1:]]
        found: list[list[int]] = [[] for _ in range(len(firsts) + 1)]
        for place in places:
            found[bisect_right(firsts, place)].append(place)
        return found


def _blocks_of(rows: Mapping[int, Row]) -> list[Block]:
    """Return blocks of these rows, half full where there are several."""
    places = sorted(rows)
    size = MAX_ROWS if len(places) <= MAX_ROWS else MAX_ROWS // 2
    return [_block(places[first : first + size], rows) for first in range(0, len(places), size)]


def _block(places: list[int], rows: Mapping[int, Row]) -> Block:
    columns = zip(*[rows[place] for place in places], strict=True)
    return Block(tuple(places), tuple(END.join([*column, b""]) for column in columns))
