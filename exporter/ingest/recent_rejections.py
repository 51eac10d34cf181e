"""Recently rejected callbacks, kept in this process's memory for the status page."""

from collections.abc import Callable
from time import time

from msgspec import Struct

from exporter.errors import CallbackError, Fault

MAX_KINDS = 50
#: Longer texts are cut: errors quote field names from the body, which may be as long as the body.
MAX_CHARACTERS = 200


class Rejection(Struct, frozen=True):
    """A kind of rejection. Equal rejections are counted together.

    Args:
        status, reason: the HTTP status and the reason of the answer.
        source: the client address.
        pointer, message: the first fault; empty without one.
    """

    status: int
    reason: str
    source: str
    pointer: str
    message: str


class RecentRejections:
    """Remembers recent rejections, without bodies and paths, since these may hold secrets.

    Equal rejections are one kind with a count, so that one client that keeps failing does not replace the
    rejections of all others.

    Args:
        clock: returns UNIX time, seconds.
        max_kinds: maximum number of kinds.
    """

    def __init__(self, clock: Callable[[], float] = time, max_kinds: int = MAX_KINDS) -> None:
        self._clock = clock
        self._max_kinds = max_kinds
        #: The time of the last rejection and the count, by kind, in the order of the last rejections.
        self._kinds: dict[Rejection, tuple[float, int]] = {}
        #: When this object was made, UNIX seconds, and the number of rejections since.
        self.since = clock()
        self.total = 0

    def add(self, error: CallbackError, source: str) -> None:
        """Remember the rejection of a callback from `source`, the client address.

        Above the limit, delete the kind that has not occurred for the longest time.
        """
        fault = error.faults[0] if error.faults else Fault("", "")
        texts = (text[:MAX_CHARACTERS] for text in (source, fault.pointer, fault.message))
        kind = Rejection(error.status, error.reason, *texts)
        # Removed and inserted again, so that the order of the dict is that of the last occurrences.
        _, count = self._kinds.pop(kind, (0.0, 0))
        self._kinds[kind] = self._clock(), count + 1
        self.total += 1
        if len(self._kinds) > self._max_kinds:
            del self._kinds[next(iter(self._kinds))]

    def newest_first(self) -> list[tuple[Rejection, tuple[float, int]]]:
        """Return each kind with the time of its last rejection, UNIX seconds, and the count."""
        return list(reversed(self._kinds.items()))
