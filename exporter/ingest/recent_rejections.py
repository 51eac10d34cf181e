"""What was rejected lately: a little memory of this process, for the status page."""

from collections.abc import Callable
from time import time

from msgspec import Struct

from exporter.errors import CallbackError, Fault

MAX_KINDS = 50
MAX_CHARACTERS = 200


class Rejection(Struct, frozen=True):
    """What callbacks that were rejected alike have in common.

    Args:
        status, reason: as they were answered.
        source: the address they came from.
        pointer, message: the first fault.
    """

    status: int
    reason: str
    source: str
    pointer: str
    message: str


class RecentRejections:
    """Remembers rejections: never a body and never a path, for those may hold a secret.

    Those that are alike are one, so that a caller who tries all day does not push the others out.

    Args:
        clock: gives the time, seconds.
        max_kinds: how many are told apart.
    """

    def __init__(self, clock: Callable[[], float] = time, max_kinds: int = MAX_KINDS) -> None:
        self._clock = clock
        self._max_kinds = max_kinds
        self._kinds: dict[Rejection, tuple[float, int]] = {}
        #: When it began to remember, UNIX seconds, and how many there were since.
        self.since = clock()
        self.total = 0

    def add(self, rejected: CallbackError, source: str) -> None:
        """Remember a rejection; past the bound the one not seen for longest is given up."""
        fault = rejected.faults[0] if rejected.faults else Fault("", "")
        texts = (text[:MAX_CHARACTERS] for text in (source, fault.pointer, fault.message))
        kind = Rejection(rejected.status, rejected.reason, *texts)
        _, times = self._kinds.pop(kind, (0.0, 0))
        self._kinds[kind] = self._clock(), times + 1
        self.total += 1
        if len(self._kinds) > self._max_kinds:
            del self._kinds[next(iter(self._kinds))]

    def newest_first(self) -> list[tuple[Rejection, tuple[float, int]]]:
        """Return each kind with the time of its newest rejection, UNIX seconds, and their number."""
        return list(reversed(self._kinds.items()))
