"""A dump: all that a store holds, as lines of JSON. A store that is made of it goes on where that one was.

    {"type":"css-relay-dump","version":1,"created":1.5,"secret":"…","labels":"appid,to_host","judged_by":"…"}
    {"type":"label_set","values":[[""],1.5,{"callbacks_total TaskStart applied":1},{},{}]}
    {"type":"label_set","values":[["4","push.example.com"],2.0,{"tasks_started_total":1},{},{}]}
    {"type":"task","state":"active","label_set":1,"due":182.0,"record":[4,"118148","push.example.com",…]}
    {"type":"body","reason":"json","body":"ew==","source":"192.0.2.1","count":1,"first":2.5,"last":2.5}
    {"type":"end","label_sets":2,"tasks":1,"bodies":1,"sha256":"…"}

Label sets come in the order in which they were first seen, the fleet's own before all others. A task names
its label set by the place in that order; 0 is none. Tasks come by age, bodies by their first arrival. So the
lines are the same whatever kind of store they are of. The last line has the digest of all lines before it: it
tells a dump that was cut off or damaged from a whole one.
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
from exporter.relay import NONE, Task
from exporter.store.records import RANKS, body_digest, key_of

DUMP_VERSION = 1
#: What is longer is no line of a dump; a body takes four thirds of its size.
MAX_LINE_BYTES = 1 << 28
#: Lua is exact up to this.
MAX_NUMBER = 1 << 53
#: A server adds up to 2^63: there is room for as much again.
MAX_SUM = 1 << 62
#: The year 9999: no calendar goes further.
MAX_SECONDS = 253_370_764_800


class Header(Struct, frozen=True, tag="css-relay-dump"):
    """What a store is beside what it holds.

    Args:
        created: when the store's counters began, seconds.
        secret: the key of the digests that stand for secrets, hexadecimal.
        labels: its `--metrics.labels`.
        fold_settings_fingerprint: the settings that decided what is counted, as flags.
        version: of the form of the dump.
    """

    created: float
    secret: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    labels: Annotated[str, Meta(pattern=r"\A[a-z_,]+\Z")]
    fold_settings_fingerprint: str = field(name="judged_by")
    version: int


class LabelSet(Struct, frozen=True, tag="label_set", forbid_unknown_fields=True):
    """What was counted of a label set; what was told apart is among the values of the fleet's."""

    values: LabelSetValues


class KeptTask(Struct, frozen=True, tag="task", forbid_unknown_fields=True):
    """A task, its state (one of `relay.STATES` or NONE), its label set, and when a sweep looks at it next."""

    state: str
    label_set: int
    due: float
    record: Task


class Body(Struct, frozen=True, tag="body", forbid_unknown_fields=True):
    """A body in the quarantine; see `store.Held`."""

    reason: str
    body: bytes
    source: str
    count: Annotated[int, Meta(ge=1, lt=MAX_NUMBER)]
    first: Annotated[float, Meta(ge=0, lt=MAX_SECONDS)]
    last: Annotated[float, Meta(ge=0, lt=MAX_SECONDS)]


class End(Struct, frozen=True, tag="end", forbid_unknown_fields=True):
    """How much came before the last line, and the digest of it."""

    label_sets: int
    tasks: int
    bodies: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.label_sets - 1} label sets, {self.bodies} bodies in the quarantine"


Line = Header | LabelSet | KeptTask | Body

_decoder = msgspec.json.Decoder(Line | End)
_encoder = msgspec.json.Encoder()
#: The numbers of a label set have no order of their own. What a task's record remembers has.
_sorting_encoder = msgspec.json.Encoder(order="deterministic")
_SOURCES = re.compile("([0-9a-f]{16})?")


def write_dump(lines: Iterator[Line], file: BinaryIO) -> End:
    """Write a dump; return its end line.

    Raises:
        StoreError: what the store holds does not fit together.
    """
    contents = _Contents()
    try:
        for line in lines:
            encoder = _sorting_encoder if isinstance(line, LabelSet) else _encoder
            text = encoder.encode(line) + b"\n"
            contents.add(_decoder.decode(text), text)  # what could not be read again is not written
            file.write(text)
    except (ValueError, LookupError, TypeError) as exc:
        raise StoreError(
            "the store was written to meanwhile, or is damaged: stop every exporter on it, and dump it again"
        ) from exc
    end = contents.end()
    file.write(_encoder.encode(end) + b"\n")
    return end


def read_dump(file: BinaryIO, name: str, labels: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of a dump. Only when all have come is it known to be whole.

    Args:
        file: the dump.
        name: what it is called.
        labels: what its `--metrics.labels` must be.

    Raises:
        StoreError: it is damaged, was cut off, is newer than this program, or of a store with other labels.
    """
    contents, number = _Contents(), 0
    for number, text in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), 1):
        try:
            line = _decoder.decode(text)
            contents.add(line, text)
        except (ValueError, RecursionError):
            # What stands in the line is not repeated: it may be a secret.
            raise StoreError(f"{name}, line {number}: damaged, or not written by `dump`") from None
        if isinstance(line, Header):
            _agree(line, name, labels)
        if not isinstance(line, End):
            yield line
    if not contents.is_whole:
        raise StoreError(f"{name} was cut off after line {number}: dump the store again")


def _agree(header: Header, name: str, labels: Sequence[str]) -> None:
    if header.version != DUMP_VERSION:
        raise StoreError(
            f"{name} is a dump of version {header.version}, this program knows {DUMP_VERSION}: "
            "use the program that wrote it, or a newer one"
        )
    if header.labels != ",".join(labels):
        raise StoreError(f"{name} is of a store made with --metrics.labels={header.labels}: give those")


class _Contents:
    """What a dump holds up to a line; each line is held against those before it."""

    def __init__(self) -> None:
        self._counts: Counter[type] = Counter()
        self._label_names = 0
        #: What a line is known by: two of the same can't both be kept.
        self._known: set[object] = set()
        self._digest = hashlib.sha256()

    @property
    def is_whole(self) -> bool:
        """Whether the end line has come."""
        return self._counts[End] > 0

    def add(self, line: Line | End, text: bytes) -> None:
        """Take in a line, which is written as `text`.

        Raises:
            ValueError: it does not fit to those before it.
        """
        known_by = _known_by(line)
        if self.is_whole or known_by in self._known or not self._fits(line):
            raise ValueError("the line does not fit to those before it")
        self._known.add(known_by)
        if isinstance(line, Header):
            self._label_names = len(line.labels.split(","))
        self._counts[type(line)] += 1
        self._digest.update(text)

    def end(self) -> End:
        """Return the end line of a dump that has these lines."""
        counts = self._counts
        return End(counts[LabelSet], counts[KeptTask], counts[Body], self._digest.hexdigest())

    def _fits(self, line: Line | End) -> bool:
        sets = self._counts[LabelSet]
        match line:
            case Header():
                return not self._counts
            case LabelSet(values=label_set):
                fits = label_set.labels == FLEET if not sets else len(label_set.labels) == self._label_names
                numbers = (*label_set.values.values(), *label_set.times.values())
                return self._label_names > 0 and fits and all(0 <= each < MAX_SUM for each in numbers)
            case KeptTask(state=state, label_set=place, record=task):
                is_there = 0 < place < sets if state != NONE else place == 0 < sets
                is_task = 0 <= task.appid < MAX_NUMBER and 0 <= task.runs < MAX_NUMBER
                return is_there and state in RANKS and is_task and bool(_SOURCES.fullmatch(task.sources))
            case Body():
                return sets > 0
            case End():
                return sets > 0 and line == self.end()


def _known_by(line: Line | End) -> object:
    match line:
        case LabelSet(values=label_set):
            return label_set.labels
        case KeptTask(record=task):
            return key_of(task)
        case Body(body=body):
            return body_digest(body)
        case Header() | End():
            return type(line)
