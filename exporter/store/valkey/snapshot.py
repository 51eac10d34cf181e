"""How a scrape and the status page read the shared store, and the format of label sets in it.

A label set is a hash with the field `created`; other fields start with v (value), m (time) or e (exemplar).
"""

import json
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from exporter.metrics.values import FLEET, Exemplar, LabelSetValues
from exporter.store.protocol import Snapshot, encode


def hash_fields_of(label_set: LabelSetValues) -> Iterator[tuple[str, str]]:
    """Yield the fields of a label set."""
    yield "created", repr(label_set.created)
    for kind, parts in ("v", label_set.values), ("m", label_set.times), ("e", label_set.exemplars):
        yield from ((kind + key, json.dumps(part)) for key, part in parts.items())


def label_set_of(labels: tuple[str, ...], fields: Iterable[tuple[str, str]]) -> LabelSetValues:
    """Return the label set with these fields."""
    created = 0.0
    integers: dict[str, dict[str, int]] = {"v": {}, "m": {}}
    exemplars: dict[str, Exemplar] = {}
    for name, value in fields:
        if name == "created":
            created = float(value)
        elif name[0] == "e":
            exemplars[name[1:]] = msgspec.json.decode(value, type=Exemplar)
        else:
            integers[name[0]][name[1:]] = int(value)
    return LabelSetValues(labels, created, integers["v"], integers["m"], exemplars)


def read_label_set(labels: tuple[str, ...], raw: bytes) -> str:
    """Return the record of a label set from the server's answer, a JSON array of names and values."""
    flat: list[str] = msgspec.json.decode(raw)
    return encode(label_set_of(labels, zip(flat[::2], flat[1::2], strict=True))).decode()


class SnapshotReader:
    """Makes snapshots from the server's answers; it caches the label sets of the last snapshot."""

    def __init__(self) -> None:
        #: By labels and answer: a label set with an unchanged answer is not decoded again.
        self._records: dict[tuple[tuple[str, ...], bytes], str] = {}

    def read(
        self,
        created: float,
        states: Sequence[str],
        fleet: bytes,
        sets: Sequence[tuple[bytes, bytes, Sequence[int]]],
        lines: bytes,
        total: int,
        quarantined: int,
    ) -> Snapshot:
        """Return a snapshot.

        Args:
            created: when the counters of the store started, seconds.
            fleet, sets, lines, total, quarantined: the answer of `snapshot` in `commands.lua`.
        """
        read = [(tuple(json.loads(text)), raw, counts) for text, raw, counts in sorted(sets)]
        cached = self._records
        self._records = records = {
            (labels, raw): cached.get((labels, raw)) or read_label_set(labels, raw) for labels, raw, _ in read
        }
        tasks = lines.decode().split("\n") if lines else []
        return Snapshot(
            created=created,
            fleet=read_label_set(FLEET, fleet),
            label_sets=[(labels, record) for (labels, _), record in records.items()],
            counts=[
                (labels, state, count)
                for labels, _, counts in read
                for state, count in zip(states, counts, strict=True)
                if count
            ],
            tasks=tasks,
            left_out=total - len(tasks),
            quarantined=quarantined,
        )
