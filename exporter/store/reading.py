"""What a scrape reads from the embedded store: the tasks that changed, or all that are shown."""

import json
import sqlite3
from collections.abc import Iterator, Sequence

from exporter.ledger import FLEET
from exporter.relay import NONE, STATES
from exporter.store import Bookmark, Snapshot
from exporter.store.changes import Changes
from exporter.store.places import (
    EVERYWHERE,
    LEDGER_BITS,
    NOWHERE,
    NUMBER_BITS,
    RANKS,
    number_at,
    parts_of,
    place_of,
)
from exporter.store.step import AS_LINES

MAX_KEYS_AT_ONCE = 512

#: Places and records; and with numbers of tasks that are not shown any more.
Tasks = tuple[list[int], list[str]]
Changed = tuple[list[int], list[str], list[int]]


class Reading:
    """A read transaction on the file.

    Args:
        reader: it.
        created: when the store was made, seconds.
        changes: what this process knows to have changed.
    """

    def __init__(self, reader: sqlite3.Connection, created: float, changes: Changes) -> None:
        self._reader = reader
        self._created = created
        self._changes = changes

    def snapshot(self, max_tasks: int, since: Bookmark | None) -> Snapshot:
        """Return what a scrape shows; of the tasks what changed since a bookmark, if that is known."""
        count = count_changes(self._reader)
        ledgers = self._reader.execute("SELECT id, labels, record FROM ledgers ORDER BY labels").fetchall()
        labels = {number: tuple(json.loads(text)) for number, text, _ in ledgers}
        counts = self._counts()
        total = sum(number for _, _, number in counts)
        end = self._end(max_tasks, total)
        changed = self._changed(since, count, end, max_tasks)
        places, tasks, gone = changed or (*self._tasks_between(NOWHERE, end), [])
        return Snapshot(
            created=self._created,
            fleet=next(record for number, _, record in ledgers if labels[number] == FLEET),
            ledgers=[(labels[number], record) for number, _, record in ledgers if labels[number] != FLEET],
            counts=[(labels[ledger], STATES[rank], number) for rank, ledger, number in counts],
            is_whole=changed is None,
            places=places,
            tasks=tasks,
            gone=gone,
            left_out=max(total - max_tasks, 0),
            quarantined=read_quarantined(self._reader),
            bookmark=Bookmark(count, end),
        )

    def _counts(self) -> list[tuple[int, int, int]]:
        """Return ranks, ledgers, and how many tasks there are of both."""
        query = "SELECT state, ledger, count(*) FROM tasks WHERE state < ? GROUP BY state, ledger"
        return self._reader.execute(query, (RANKS[NONE],)).fetchall()

    def _end(self, max_tasks: int, total: int) -> int:
        """Return the place of the last task that is shown."""
        if total <= max_tasks:
            return EVERYWHERE
        if max_tasks == 0:
            return NOWHERE
        query = "SELECT state, ledger, id FROM tasks ORDER BY state, ledger, id LIMIT 1 OFFSET ?"
        return place_of(*self._reader.execute(query, (max_tasks - 1,)).fetchone())

    def _tasks_between(self, after: int, end: int) -> Tasks:
        """Return the tasks that stand past a place, up to another."""
        if end <= after:
            return [], []
        return self._tasks(
            "state < ? AND (state, ledger, id) > (?, ?, ?) AND (state, ledger, id) <= (?, ?, ?) "
            "ORDER BY state, ledger, id",
            (RANKS[NONE], *parts_of(after), *parts_of(end)),
        )

    def _changed(self, since: Bookmark | None, count: int, end: int, max_tasks: int) -> Changed | None:
        """Return what is different from a bookmark; None if that is not known, or more than all."""
        known = self._changes.between(since.commits, count) if since else None
        if since is None or known is None or len(known[0]) > max_tasks:
            return None
        keys, gone = known
        places, tasks = self._tasks_between(since.end, end)
        for place, task in self._tasks_with(keys):
            if place > end or place >= _UNSHOWN:
                gone.append(number_at(place))
            else:
                places.append(place)
                tasks.append(task)
        return places, tasks, gone

    def _tasks_with(self, keys: Sequence[str]) -> Iterator[tuple[int, str]]:
        for first in range(0, len(keys), MAX_KEYS_AT_ONCE):
            some = keys[first : first + MAX_KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            yield from zip(*self._tasks(f"key IN ({marks})", some), strict=True)

    def _tasks(self, condition: str, values: Sequence[object]) -> Tasks:
        """Return places and records of tasks."""
        tasks = f"SELECT state, ledger, id, record FROM tasks WHERE {condition}"  # noqa: S608 - fixed parts
        query = f"SELECT {_PLACES}, {AS_LINES} FROM ({tasks})"  # noqa: S608
        places, records = self._reader.execute(query, values).fetchone()
        return [int(place) for place in _split(places)], _split(records)


def count_changes(connection: sqlite3.Connection) -> int:
    """Return how many commits have changed tasks."""
    query = "SELECT changes FROM ledgers WHERE labels = ?"
    return int(connection.execute(query, (json.dumps(FLEET),)).fetchone()[0])


def read_state(reader: sqlite3.Connection, state: str, limit: int) -> list[str]:
    """Return records of tasks with a state, in the order of its index: any other would have to be made."""
    query = (
        f"SELECT {AS_LINES} FROM (SELECT record FROM tasks "  # noqa: S608 - fixed
        "WHERE state = ? ORDER BY ledger, id LIMIT ?)"
    )
    return _split(reader.execute(query, (RANKS[state], limit)).fetchone()[0])


def read_quarantined(reader: sqlite3.Connection) -> int:
    """Return how many bodies are in the quarantine."""
    return int(reader.execute("SELECT count(*) FROM quarantine").fetchone()[0])


def _split(lines: str) -> list[str]:
    return lines.split("\n") if lines else []


_UNSHOWN = place_of(RANKS[NONE], 0, 0)
_PLACES = (
    f"coalesce(group_concat((((state << {LEDGER_BITS}) | coalesce(ledger, 0)) << {NUMBER_BITS}) | id, "
    "char(10)), '')"
)
