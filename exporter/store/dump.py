"""The format of a dump: the whole content of a store as lines of JSON, from which a store can be loaded.

    {"type":"css-relay-dump","version":1,"created":1.5,"secret":"…","labels":"appid,to_host","judged_by":"…"}
    {"type":"label_set","values":[[""],1.5,{"callbacks_total TaskStart applied":1},{},{}]}
    {"type":"label_set","values":[["4","push.example.com"],2.0,{"tasks_started_total":1},{},{}]}
    {"type":"task","state":"active","label_set":1,"due":182.0,"record":[4,"118148","push.example.com",…]}
    {"type":"body","reason":"json","body":"ew==","source":"192.0.2.1","count":1,"first":2.5,"last":2.5}
    {"type":"end","label_sets":2,"tasks":1,"bodies":1,"sha256":"…"}

Label sets are in the order in which they were first seen, after the fleet. A task names its label set by the
position in that order; 0 means none. Tasks are in the order of their age, bodies in that of their first
arrival. So the lines are the same for every kind of store. The last line has the digest of all lines before
it; with it `load` detects a dump that is incomplete or damaged.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, BinaryIO

import msgspec
from msgspec import Meta, Struct, field

from exporter.errors import StoreError
from exporter.metrics.values import FLEET, LabelSetValues
from exporter.relay import NONE, Task, key_of
from exporter.store.protocol import RANKS, body_digest

DUMP_VERSION = 1
#: No line of a dump is longer. This limits the memory for a file that is not a dump. Base64 makes a body
#: longer by a third.
MAX_LINE_BYTES = 1 << 28
#: Lua on the server has only floating-point numbers; whole ones are exact up to this.
MAX_NUMBER = 1 << 53
#: A counter on the server has 63 bits. Half of its range is left for what is counted after the load.
MAX_SUM = 1 << 62
#: The year 9999, the last one that Python's dates can show.
MAX_SECONDS = 253_370_764_800


class HeaderLine(Struct, frozen=True, tag="css-relay-dump"):
    """The first line of a dump: the meta of the store.

    Args:
        created: when the store's counters started, seconds.
        secret: the key of the digests that replace secrets, hexadecimal.
        labels: the store's `--metrics.labels`.
        fold_settings_fingerprint: the settings that decided what was counted, as flags.
    """

    created: float
    secret: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    labels: Annotated[str, Meta(pattern=r"\A[a-z_,]+\Z")]
    # `judged_by` is a name of earlier versions.
    fold_settings_fingerprint: str = field(name="judged_by")
    version: int


class LabelSetLine(Struct, frozen=True, tag="label_set", forbid_unknown_fields=True):
    """The values of a label set. Those of the fleet include the label values seen so far."""

    values: LabelSetValues


class TaskLine(Struct, frozen=True, tag="task", forbid_unknown_fields=True):
    """A task, its state (one of `relay.STATES` or NONE), its label set, and when the next sweep checks it."""

    state: str
    label_set: int
    due: float
    record: Task


class BodyLine(Struct, frozen=True, tag="body", forbid_unknown_fields=True):
    """A body in the quarantine; its fields are those of `protocol.QuarantinedBody`."""

    reason: str
    body: bytes
    source: str
    count: Annotated[int, Meta(ge=1, lt=MAX_NUMBER)]
    first: Annotated[float, Meta(ge=0, lt=MAX_SECONDS)]
    last: Annotated[float, Meta(ge=0, lt=MAX_SECONDS)]


class EndLine(Struct, frozen=True, tag="end", forbid_unknown_fields=True):
    """The last line of a dump: the number of lines of each type before it, and their digest."""

    label_sets: int
    tasks: int
    bodies: int
    sha256: str

    def __str__(self) -> str:
        # The fleet's line has no labels.
        return f"{self.tasks} tasks, {self.label_sets - 1} label sets, {self.bodies} bodies in the quarantine"


Line = HeaderLine | LabelSetLine | TaskLine | BodyLine

_decoder = msgspec.json.Decoder(Line | EndLine)
_encoder = msgspec.json.Encoder()
#: The values of a label set are sorted, since each kind of store returns them in another order. The
#: identities in a task are not: their order is part of the task.
_sorting_encoder = msgspec.json.Encoder(order="deterministic")
_SOURCES = re.compile("([0-9a-f]{16})?")


def write_dump(lines: Iterator[Line], file: BinaryIO) -> EndLine:
    """Write a dump; return its end line. Raise StoreError if the store's records contradict each other."""
    reader = _LineReader()
    try:
        for line in lines:
            encoder = _sorting_encoder if isinstance(line, LabelSetLine) else _encoder
            text = encoder.encode(line) + b"\n"
            # This decodes the line again: a dump that could not be loaded must fail here.
            reader.read(text)
            file.write(text)
    except (ValueError, LookupError, TypeError) as exc:
        raise StoreError(
            "the store is damaged, or was written to during the dump; stop its exporters, then dump it again"
        ) from exc
    end = reader.end_line()
    file.write(_encoder.encode(end) + b"\n")
    return end


def read_dump(file: BinaryIO, name: str, labels: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of a dump. The dump is known to be complete only after the last line.

    Args:
        name: the name of the dump, for error messages.
        labels: the `--metrics.labels` that it must have.

    Raises:
        StoreError: the dump is damaged or incomplete, has a newer version or other labels.
    """
    reader, number = _LineReader(), 0
    for number, text in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), 1):
        try:
            line = reader.read(text)
        except (ValueError, RecursionError):
            # The error must not quote the line, which may contain a secret.
            raise StoreError(f"{name}, line {number}: damaged, or not a dump; dump the store again") from None
        if isinstance(line, HeaderLine) and line.version != DUMP_VERSION:
            raise StoreError(
                f"{name} is a dump of version {line.version}, this program supports version {DUMP_VERSION}; "
                "use the program version that wrote it, or a newer one"
            )
        if isinstance(line, HeaderLine) and line.labels != ",".join(labels):
            raise StoreError(f"{name} has other labels; run `load` with --metrics.labels={line.labels}")
        if not isinstance(line, EndLine):
            yield line
    if not reader.is_complete:
        raise StoreError(f"{name} is incomplete, it ends after line {number}; dump the store again")


class _LineReader:
    """Decodes the lines of a dump, and checks each against the lines before it."""

    def __init__(self) -> None:
        self.is_complete = False
        self._counts: Counter[type] = Counter()
        self._label_count = 0
        #: Keys that no two lines of a dump share.
        self._keys: set[object] = set()
        self._digest = hashlib.sha256()

    def read(self, text: bytes) -> Line | EndLine:
        """Return the line; raise ValueError if it is malformed or contradicts the lines before it."""
        line: Line | EndLine = _decoder.decode(text)
        key: object = type(line)
        sets = self._counts[LabelSetLine]
        match line:
            case HeaderLine():
                is_valid = not self._counts
            case LabelSetLine(values=label_set):
                key = label_set.labels
                # The first label set is the fleet. `_label_count` is 0 until there is a header.
                fits = label_set.labels == FLEET if not sets else len(label_set.labels) == self._label_count
                numbers = (*label_set.values.values(), *label_set.times.values())
                is_valid = self._label_count > 0 and fits and all(0 <= each < MAX_SUM for each in numbers)
            case TaskLine(state=state, label_set=position, record=task):
                key = key_of(task)
                # Without a state a task is not counted, so it has no label set.
                is_there = 0 < position < sets if state != NONE else position == 0 < sets
                is_task = 0 <= task.appid < MAX_NUMBER and 0 <= task.runs < MAX_NUMBER
                is_valid = is_there and state in RANKS and is_task and bool(_SOURCES.fullmatch(task.sources))
            case BodyLine(body=body):
                key, is_valid = body_digest(body), sets > 0
            case EndLine():
                is_valid = sets > 0 and line == self.end_line()
        if self.is_complete or key in self._keys or not is_valid:
            raise ValueError("the line contradicts the lines before it")
        self._keys.add(key)
        if isinstance(line, HeaderLine):
            self._label_count = len(line.labels.split(","))
        self._counts[type(line)] += 1
        self._digest.update(text)
        self.is_complete = isinstance(line, EndLine)
        return line

    def end_line(self) -> EndLine:
        """Return the end line for the lines added so far."""
        counts = self._counts
        return EndLine(counts[LabelSetLine], counts[TaskLine], counts[BodyLine], self._digest.hexdigest())
