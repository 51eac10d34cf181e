"""The format of records in a store: a JSON array on one line.

New fields are only added at the end of an array, so that a program can read records of earlier versions.
JSON lets operators read the records with any tool. One line for each record,
so that many records can be sent as one text.
"""

from collections.abc import Callable
from hashlib import blake2b

import msgspec

from exporter.metrics.values import LabelSetValues
from exporter.relay import NONE, STATES, Task

#: A state is stored as its position in this order. Never change the order: stores have it on disk.
STORED_STATES = (*STATES, NONE)
RANKS = {state: rank for rank, state in enumerate(STORED_STATES)}

_tasks = msgspec.json.Decoder(Task)

#: Returns a record as a line of text, in UTF-8.
encode: Callable[[Task | LabelSetValues], bytes] = msgspec.json.Encoder().encode
#: Return the record in a line of text, and the tasks in several lines.
decode_task: Callable[[str | bytes], Task] = _tasks.decode
decode_tasks: Callable[[str | bytes], list[Task]] = _tasks.decode_lines
decode_label_set: Callable[[str | bytes], LabelSetValues] = msgspec.json.Decoder(LabelSetValues).decode


def body_digest(body: bytes) -> bytes:
    """Return the identifier of a body in the quarantine, 16 bytes."""
    return blake2b(body, digest_size=16).digest()


def task_key(appid: int, task_id: str) -> str:
    """Return the key of a task, as `relay.key_of` does for a task that is known."""
    return f"{appid}/{task_id}"
