"""How a scrape and the status page read the embedded store."""

import json
import sqlite3
from collections.abc import Sequence

from exporter.metrics.values import FLEET
from exporter.relay import NONE
from exporter.store.protocol import RANKS, STORED_STATES, Snapshot
from exporter.store.sqlite.transaction import RECORDS_AS_LINES


def read_snapshot(
    reader: sqlite3.Connection, created: float, max_tasks: int, states: Sequence[str]
) -> Snapshot:
    """Return the content of the store as an open read transaction sees it.

    Args:
        created: when the counters of the store started, seconds.
        states: the order of states; tasks of the last state are left out first.
    """
    labels, records = {}, {}
    for number, text, record in reader.execute("SELECT id, labels, record FROM ledgers ORDER BY labels"):
        labels[number] = tuple(json.loads(text))
        records[labels[number]] = record
    # Nameless tasks have no state and are not counted, see `relay.attribution`.
    counts = reader.execute(
        "SELECT state, ledger, count(*) FROM tasks WHERE state < ? GROUP BY state, ledger", (RANKS[NONE],)
    ).fetchall()
    # In the order of the index `tasks_by_state`, so without sorting.
    query = (
        f"SELECT {RECORDS_AS_LINES} FROM (SELECT record FROM tasks "  # noqa: S608 - fixed parts
        "WHERE state = ? ORDER BY ledger, id LIMIT ?)"
    )
    tasks: list[str] = []
    for state in states:
        lines: str = reader.execute(query, (RANKS[state], max_tasks - len(tasks))).fetchone()[0]
        tasks += lines.split("\n") if lines else []
    return Snapshot(
        created=created,
        fleet=records.pop(FLEET),
        label_sets=list(records.items()),
        counts=[(labels[label_set], STORED_STATES[rank], number) for rank, label_set, number in counts],
        tasks=tasks,
        left_out=sum(number for _, _, number in counts) - len(tasks),
        quarantined=reader.execute("SELECT count(*) FROM quarantine").fetchone()[0],
    )
