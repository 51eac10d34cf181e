"""The format of records in a store: a JSON array on one line.

New fields are only added at the end of an array, so that a program can read records of earlier versions.
JSON lets operators read the records with any tool. One line for each record,
so that many records can be sent as one text.
"""

from functools import lru_cache
from hashlib import blake2b

import msgspec

from exporter.metrics.catalogue import UNKNOWN
from exporter.metrics.values import LabelSetValues
from exporter.relay import NONE, STATES, Task

#: A state is stored as its position in this order. Never change the order: stores have it on disk.
STORED_STATES = (*STATES, NONE)
RANKS = {state: rank for rank, state in enumerate(STORED_STATES)}

_encoder = msgspec.json.Encoder()
_tasks = msgspec.json.Decoder(Task)
_label_sets = msgspec.json.Decoder(LabelSetValues)


def encode(record: Task | LabelSetValues) -> str:
    """Return the record as a line of text."""
    return _encoder.encode(record).decode()


def decode_task(text: str) -> Task:
    """Return the task that `encode` wrote as `text`."""
    return _tasks.decode(text)


def decode_tasks(lines: str) -> list[Task]:
    """Return the tasks in `lines`, one on each line."""
    return _tasks.decode_lines(lines)


def decode_label_set(text: str) -> LabelSetValues:
    """Return the label set that `encode` wrote as `text`."""
    return _label_sets.decode(text)


def body_digest(body: bytes) -> bytes:
    """Return the identifier of a body in the quarantine, 16 bytes."""
    return blake2b(body, digest_size=16).digest()


def task_key(appid: int, task_id: str) -> str:
    """Return the key of a task."""
    return f"{appid}/{task_id}"


def nameless_key(appid: int, sources: str) -> str:
    """Return the key of a nameless task, see `relay.attribution`."""
    return f"{appid}?{sources}"


def key_of(task: Task) -> str:
    """Return the key under which a task is stored."""
    return task_key(task.appid, task.task_id) if task.task_id else nameless_key(task.appid, task.sources)


def labels_of(task: Task, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the label values of a task; a missing value is `_unknown`."""
    return _as_labels(tuple([getattr(task, name) for name in names]))


# Many tasks share few label sets: the cache lets their records share one tuple, too.
@lru_cache(maxsize=4096)
def _as_labels(values: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(str(value) or UNKNOWN for value in values)
