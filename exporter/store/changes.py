"""Which tasks of the embedded store this process has changed, so that a scrape need not read the others."""

import threading
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

#: As many are remembered; who is further behind reads all.
MAX_CHANGES = 65_536


class _Commit(Struct, gc=False):
    number: int
    put: Sequence[str]
    dropped: Sequence[int]

    @property
    def size(self) -> int:
        return len(self.put) + len(self.dropped)


class Changes:
    """The tasks that this process has changed lately, as long as no other has changed any.

    Commits that change tasks are counted in the file. This knows of all of them from one number on up to
    another. One thread notes, as every commit does: it only hangs up what it is given. Any other asks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.begin(0)

    @property
    def count(self) -> int:
        """How many commits have changed tasks, as far as is known here."""
        return self._count

    def begin(self, count: int) -> None:
        """Know nothing of what was before that many commits."""
        with self._lock:
            self._from = self._count = count
            self._commits: deque[_Commit] = deque()
            self._size = 0

    def note(self, put: Sequence[str], dropped: Sequence[int]) -> None:
        """Take in keys and numbers of tasks that the next commit puts and drops, before it is made."""
        with self._lock:
            self._count += 1
            self._commits.append(_Commit(self._count, put, dropped))
            self._size += self._commits[-1].size
            while self._size > MAX_CHANGES:
                self._forget_oldest()

    def between(self, since: int, until: int) -> tuple[list[str], list[int]] | None:
        """Return keys and numbers of the tasks that were put and dropped in the commits after `since`.

        Tasks that are put after `until` may be among them. None if not all of those commits are known. What
        was before `since` is forgotten: who asks has read that, and memory is for what nobody has read yet.
        """
        with self._lock:
            if not self._from <= since <= until <= self._count:
                return None
            while self._from < since:
                self._forget_oldest()
            after = list(self._commits)
        put = dict.fromkeys(key for commit in after for key in commit.put)
        return list(put), [n for commit in after if commit.number <= until for n in commit.dropped]

    def _forget_oldest(self) -> None:
        oldest = self._commits.popleft()
        self._from = oldest.number
        self._size -= oldest.size
