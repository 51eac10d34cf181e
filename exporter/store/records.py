"""The form of records in a store: JSON arrays on one line, to which fields are only ever added at the end.

They can be read with any tool, and many of them travel as one text.
"""

from functools import lru_cache
from hashlib import blake2b

import msgspec

from exporter.metrics.catalogue import UNKNOWN
from exporter.metrics.values import LabelSetValues
from exporter.relay import NONE, STATES, Task

#: A state is stored as its place in this order.
STORED_STATES = (*STATES, NONE)
RANKS = {state: rank for rank, state in enumerate(STORED_STATES)}

_encoder = msgspec.json.Encoder()
_tasks = msgspec.json.Decoder(Task)
_label_sets = msgspec.json.Decoder(LabelSetValues)


def encode(record: Task | LabelSetValues) -> str:
    """Return the record as a line of text."""
    return _encoder.encode(record).decode()


def decode_task(text: str) -> Task:
    """Return the task in `text`, which `encode` made."""
    return _tasks.decode(text)


def decode_tasks(lines: str) -> list[Task]:
    """Return the tasks in `lines`, one each."""
    return _tasks.decode_lines(lines)


def decode_label_set(text: str) -> LabelSetValues:
    """Return the ledger in `text`, which `encode` made."""
    return _label_sets.decode(text)


def body_digest(body: bytes) -> bytes:
    """Return the 16 bytes that a body of the quarantine is known by."""
    return blake2b(body, digest_size=16).digest()


def task_key(appid: int, task_id: str) -> str:
    """Return the key of a task."""
    return f"{appid}/{task_id}"


def nameless_key(appid: int, sources: str) -> str:
    """Return the key of what is remembered of exits that name no task."""
    return f"{appid}?{sources}"


def key_of(task: Task) -> str:
    """Return the key that a task is kept under."""
    return task_key(task.appid, task.task_id) if task.task_id else nameless_key(task.appid, task.sources)


def labels_of(task: Task, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the label values of a task; one that it lacks is `_unknown`."""
    return _as_labels(tuple([getattr(task, name) for name in names]))


@lru_cache(maxsize=4096)
def _as_labels(values: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(str(value) or UNKNOWN for value in values)
