"""The form of records in a store: JSON arrays on one line, to which fields are only ever added at the end.

They can be read with any tool, and many of them travel as one text.
"""

from hashlib import blake2b

import msgspec

from exporter.ledger import Ledger
from exporter.relay import NONE, STATES, Task

#: A state is stored as its place in this order.
STORED_STATES = (*STATES, NONE)
RANKS = {state: rank for rank, state in enumerate(STORED_STATES)}

_encoder = msgspec.json.Encoder()
_tasks = msgspec.json.Decoder(Task)
_ledgers = msgspec.json.Decoder(Ledger)


def encode(record: Task | Ledger) -> str:
    """Return the record as a line of text."""
    return _encoder.encode(record).decode()


def decode_task(text: str) -> Task:
    """Return the task in `text`, which `encode` made."""
    return _tasks.decode(text)


def decode_tasks(lines: str) -> list[Task]:
    """Return the tasks in `lines`, one each."""
    return _tasks.decode_lines(lines)


def decode_ledger(text: str) -> Ledger:
    """Return the ledger in `text`, which `encode` made."""
    return _ledgers.decode(text)


def body_digest(body: bytes) -> bytes:
    """Return the 16 bytes that a body of the quarantine is known by."""
    return blake2b(body, digest_size=16).digest()
