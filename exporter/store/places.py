"""The order of tasks in a scrape: by the rank of their state, their ledger, and their age.

A place in it is one whole number, so that places are compared, kept and sent as such.
"""

from exporter.relay import NONE, STATES

#: Those shown first have the lowest; what has none of the states is not shown.
RANKS = {state: rank for rank, state in enumerate((*STATES, NONE))}

#: Room for a million ledgers, and as many tasks as ever come.
LEDGER_BITS, NUMBER_BITS = 20, 40

NOWHERE, EVERYWHERE = -1, (1 << 63) - 1


def place_of(rank: int, ledger: int, number: int) -> int:
    """Return the place of a task."""
    return (rank << LEDGER_BITS | ledger) << NUMBER_BITS | number


def parts_of(place: int) -> tuple[int, int, int]:
    """Return rank, ledger and number of the task at a place."""
    above = place >> NUMBER_BITS
    return above >> LEDGER_BITS, above & (1 << LEDGER_BITS) - 1, number_at(place)


def number_at(place: int) -> int:
    """Return the number of the task at a place; it keeps that until it is forgotten."""
    return place & (1 << NUMBER_BITS) - 1
