"""A ledger as the fields of a hash: `created`, and values, marks and exemplars, told apart by a letter."""

import json
from collections.abc import Iterable, Iterator

import msgspec

from exporter.ledger import Exemplar, Ledger
from exporter.store.records import encode


def fields_of(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Yield the fields of a ledger."""
    yield "created", repr(ledger.created)
    yield from ((f"v{key}", str(value)) for key, value in ledger.values.items())
    yield from ((f"m{key}", str(mark)) for key, mark in ledger.marks.items())
    yield from ((f"e{key}", json.dumps(exemplar)) for key, exemplar in ledger.exemplars.items())


def ledger_of(labels: tuple[str, ...], fields: Iterable[tuple[str, str]]) -> Ledger:
    """Return the ledger that has these fields."""
    parts: dict[str, dict[str, str]] = {"v": {}, "m": {}, "e": {}}
    created = 0.0
    for name, value in fields:
        if name == "created":
            created = float(value)
        else:
            parts[name[0]][name[1:]] = value
    return Ledger(
        labels,
        created,
        {key: int(value) for key, value in parts["v"].items()},
        {key: int(value) for key, value in parts["m"].items()},
        {key: msgspec.json.decode(value, type=Exemplar) for key, value in parts["e"].items()},
    )


def read_ledger(labels: tuple[str, ...], raw: bytes) -> str:
    """Return the record of a ledger that the server answered as a JSON array of names and values."""
    flat: list[str] = msgspec.json.decode(raw)
    return encode(ledger_of(labels, zip(flat[::2], flat[1::2], strict=True)))
