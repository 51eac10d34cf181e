"""The shelf: whatever is changed, each column is that of the rows in order; and little is touched."""

from hypothesis import given
from hypothesis import strategies as st

from exporter.shelf import FEW_ROWS, MAX_ROWS, Row, Shelf
from tests.unit.histories import tried

PLACES = st.integers(0, 400)
CELLS = st.text(alphabet='aé\n\0"', max_size=3).map(str.encode)
CHANGES = st.tuples(st.dictionaries(PLACES, st.tuples(CELLS, CELLS), max_size=200), st.sets(PLACES))


def column(rows: dict[int, Row], index: int) -> bytes:
    """Return a column as it must be."""
    return b"".join(rows[place][index] for place in sorted(rows))


@given(st.lists(CHANGES, max_size=8))
@tried(100)
def test_a_column_is_that_of_the_rows_in_order(changes: list[tuple[dict[int, Row], set[int]]]) -> None:
    """After any changes: rows put, put again, taken away, or away already."""
    shelf, rows = Shelf(), {}
    for put, gone in changes:
        away = gone - put.keys()
        shelf.change(put, away)
        rows = {place: row for place, row in {**rows, **put}.items() if place not in away}
        assert len(shelf) == len(rows)
        assert [b"".join(shelf.column(index)) for index in (0, 1)] == [
            column(rows, index) for index in (0, 1)
        ]


def test_a_change_touches_one_block() -> None:
    """All the others are the same objects as before."""
    shelf = Shelf()
    shelf.change({place: (b"%d" % place, b"") for place in range(10_000)}, ())
    before = {id(block) for block in shelf._blocks}
    assert len(before) > 10_000 / MAX_ROWS
    shelf.change({5000: (b"changed", b"")}, ())
    assert sum(id(block) not in before for block in shelf._blocks) == 1


def test_blocks_stay_neither_large_nor_small() -> None:
    """However many rows come one by one, or go."""
    shelf = Shelf()
    for place in range(2000):
        shelf.change({place: (b"x",)}, ())
    assert max(len(block.places) for block in shelf._blocks) <= MAX_ROWS
    shelf.change({}, [place for place in range(2000) if place % 50])
    assert len(shelf) == 40
    assert all(len(block.places) >= FEW_ROWS for block in shelf._blocks[:-1])
