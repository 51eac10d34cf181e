"""The mark of a store that leaves: from then on nobody may serve it, so that nobody counts in two places."""

from msgspec import Struct

#: Its contents are being copied: it can still stay.
LEAVING = "leaving"
#: They are all copied: the other place may have them by now.
HANDING = "handing"
#: The other place has them.
MOVED = "moved"


class Mark(Struct, frozen=True):
    """How far a move is.

    Args:
        stage: LEAVING, HANDING or MOVED.
        move: tells this move from every other.
        to: where the store goes, as it may be shown.
    """

    stage: str
    move: str
    to: str

    def __str__(self) -> str:
        return f"{self.stage} {self.move} {self.to}"

    def told(self, name: object) -> str:
        """Return why the store called `name` can't be used, and what to do about it."""
        if self.stage == MOVED:
            return f"store {name} was moved to {self.to}: give --store.url={self.to}"
        return (
            f"store {name} is being moved to {self.to}: wait until that is done; "
            "if it was cut off, run `move` again, or `move --undo` to go on with this one"
        )


def read_mark(text: str) -> Mark:
    """Return the mark in `text`, which `str` made."""
    return Mark(*text.split(" ", 2))
