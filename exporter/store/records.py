"""The form of records in a store: MessagePack arrays, to which fields are only ever added at the end."""

import msgspec

from exporter.ledger import Ledger
from exporter.relay import Task

FORMAT = 1

_encoder = msgspec.msgpack.Encoder()
_tasks = msgspec.msgpack.Decoder(Task)
_ledgers = msgspec.msgpack.Decoder(Ledger)


def encode(record: Task | Ledger) -> bytes:
    """Return the record as bytes."""
    return _encoder.encode(record)


def decode_task(raw: bytes) -> Task:
    """Return the task in `raw`, which `encode` made."""
    return _tasks.decode(raw)


def decode_ledger(raw: bytes) -> Ledger:
    """Return the ledger in `raw`, which `encode` made."""
    return _ledgers.decode(raw)
