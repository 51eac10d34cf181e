"""The lines of a dump: all content of a store is loaded again, and an incomplete dump is refused."""

import hashlib
import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import StoreError
from exporter.metrics.values import FLEET, LabelSetValues
from exporter.protocol.events import EventKind
from exporter.relay import NONE, STATES, Entry, RunState, Task, key_of
from exporter.store.dump import BodyLine, HeaderLine, LabelSetLine, Line, TaskLine, read_dump, write_dump
from exporter.store.sqlite.dump import dump_file, load_file
from tests.unit.histories import max_examples

NAMES = ("appid", "to_host")
TEXT = st.text(max_size=6)
TIME = st.floats(min_value=0, max_value=2.5e11)
WHOLE = st.integers(min_value=0, max_value=(1 << 53) - 1)
HEXADECIMAL = "0123456789abcdef"

ENTRIES = st.builds(
    Entry,
    kind=st.sampled_from([kind for kind in EventKind if kind.changes_state]),
    ms=WHOLE,
    has_milliseconds=st.booleans(),
    has_event_time=st.booleans(),
    arrival=TIME,
    subject=TEXT,
    duration=TIME,
    emitted=WHOLE,
    message=TEXT,
)
RUN_STATES = st.builds(
    RunState, start=st.none() | ENTRIES, exit=st.none() | ENTRIES, file=st.none() | ENTRIES
)
TASKS = st.builds(
    Task,
    appid=WHOLE,
    task_id=TEXT,
    to_host=TEXT,
    to_url=TEXT,
    sources=st.just("") | st.text(HEXADECIMAL, min_size=16, max_size=16),
    first_seen=TIME,
    start_stated=st.none() | st.tuples(WHOLE, WHOLE),
    identities=st.dictionaries(TEXT, TIME, max_size=3),
    settled=RUN_STATES,
    log=st.lists(ENTRIES, max_size=2).map(tuple),
    current=RUN_STATES,
)
BODIES = st.builds(
    BodyLine,
    reason=TEXT,
    body=st.binary(max_size=9),
    source=TEXT,
    count=st.integers(min_value=1, max_value=(1 << 53) - 1),
    first=TIME,
    last=TIME,
)


def _label_sets(labels: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[LabelSetValues]:
    exemplars = st.dictionaries(TEXT, st.tuples(TEXT, TIME, TIME), max_size=2)
    numbers = st.dictionaries(TEXT, st.integers(min_value=0, max_value=(1 << 62) - 1), max_size=3)
    return st.builds(
        LabelSetValues, labels=labels, created=TIME, values=numbers, times=numbers, exemplars=exemplars
    )


@st.composite
def contents(draw: st.DrawFn) -> list[Line]:
    """Draw the content of a store, as lines."""
    header = HeaderLine(
        draw(TIME), draw(st.text(HEXADECIMAL, min_size=32, max_size=32)), ",".join(NAMES), "a b", 1
    )
    labels = draw(st.lists(st.tuples(TEXT, TEXT), max_size=3, unique=True))
    label_sets = [draw(_label_sets(st.just(each))) for each in (FLEET, *labels)]
    tasks = draw(st.lists(TASKS, max_size=3, unique_by=key_of))
    states = (*STATES, NONE) if labels else (NONE,)
    lines: list[Line] = [header, *map(LabelSetLine, label_sets)]
    for task in tasks:
        state = draw(st.sampled_from(states))
        place = 0 if state == NONE else draw(st.integers(1, len(labels)))
        lines.append(TaskLine(state, place, draw(TIME), task))
    bodies = draw(st.lists(BODIES, max_size=3, unique_by=lambda each: each.body))
    return [*lines, *sorted(bodies, key=lambda each: (each.first, digest_of(each.body)))]


def digest_of(body: bytes) -> bytes:
    """Return the digest of a body."""
    return hashlib.blake2b(body, digest_size=16).digest()


def written(lines: Iterator[Line]) -> bytes:
    """Return a dump."""
    file = BytesIO()
    write_dump(lines, file)
    return file.getvalue()


def read(dump: bytes) -> list[Line]:
    """Return the lines of a dump."""
    return list(read_dump(BytesIO(dump), "x.dump", NAMES))


@max_examples(200)
@given(lines=contents())
def test_any_content_of_a_store_is_read_back_from_a_dump(lines: list[Line]) -> None:
    """The lines are the same, and the identities of a task keep their order."""
    dump = written(iter(lines))
    again = read(dump)
    assert again == lines
    assert [list(line.record.identities) for line in again if isinstance(line, TaskLine)] == [
        list(line.record.identities) for line in lines if isinstance(line, TaskLine)
    ]
    assert written(iter(again)) == dump


@max_examples(25)
@given(lines=contents())
def test_any_content_of_a_store_is_read_back_from_a_file(lines: list[Line]) -> None:
    """A store loaded from a dump has the same dump."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "relay.db"
        load_file(path, iter(lines), replace=False)
        assert written(dump_file(path)) == written(iter(lines))


#: All errors for a dump that cannot be read.
ERRORS = re.compile(
    r"x\.dump, line \d+: damaged, or not a dump; dump the store again"
    r"|x\.dump is incomplete, it ends after line \d+; dump the store again"
    r"|x\.dump is a dump of version -?\d+, this program supports version 1; .*"
    r"|x\.dump has other labels; run `load` with --metrics\.labels=[a-z_,]+"
)


def refused(dump: bytes) -> None:
    """Check that a dump is refused, and that the error quotes nothing of it."""
    with pytest.raises(StoreError) as caught:
        read(dump)
    assert ERRORS.fullmatch(str(caught.value)), caught.value


@max_examples(300)
@given(lines=contents(), data=st.data())
def test_a_dump_with_a_byte_changed_is_refused(lines: list[Line], data: st.DataObject) -> None:
    """Any byte, except that the white space at the end may differ."""
    dump = bytearray(written(iter(lines)))
    at = data.draw(st.integers(0, len(dump) - 1))
    dump[at] ^= data.draw(st.integers(1, 255))
    if at == len(dump) - 1 and dump[at:] in b" \t\r":
        assert read(bytes(dump)) == lines
    else:
        refused(bytes(dump))


@max_examples(100)
@given(lines=contents(), data=st.data())
def test_a_dump_that_is_cut_off_or_continues_is_refused(lines: list[Line], data: st.DataObject) -> None:
    """A dump with a line missing, repeated or in the wrong order is refused too."""
    dump = written(iter(lines))
    assert read(dump[:-1]) == lines
    refused(dump[: data.draw(st.integers(0, len(dump) - 2))])
    refused(dump + data.draw(st.sampled_from([b"\n", b"{}", dump, dump.splitlines(True)[-1]])))
    parts = dump.splitlines(keepends=True)
    at = data.draw(st.integers(0, len(parts) - 2))
    refused(b"".join(parts[:at] + parts[at + 1 :]))
    refused(b"".join(parts[:at] + parts[at : at + 1] + parts[at:]))
    refused(b"".join(parts[:at] + parts[at : at + 2][::-1] + parts[at + 2 :]))


HEADER = {"type": "css-relay-dump", "version": 1, "created": 1.5, "secret": "ab" * 16, "judged_by": ""}
HEADER["labels"] = "appid,to_host"
FLEET_SET = {"type": "label_set", "values": [[""], 1.5, {}, {}, {}]}
LABEL_SET = {"type": "label_set", "values": [["4", "h"], 1.5, {}, {}, {}]}
TASK = {"type": "task", "state": "active", "label_set": 1, "due": 2.0, "record": [4, "canary"]}
BODY = {
    "type": "body",
    "reason": "json",
    "body": "ew==",
    "source": "::1",
    "count": 1,
    "first": 1.0,
    "last": 1.0,
}
WHOLE_DUMP = [HEADER, FLEET_SET, LABEL_SET, TASK, BODY]


def with_end_line(*lines: Any) -> bytes:
    """Return a dump of these lines, with a valid end line."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
    counts = [
        sum(isinstance(line, dict) and line.get("type") == kind for line in lines)
        for kind in ("label_set", "task", "body")
    ]
    end = dict(zip(("label_sets", "tasks", "bodies"), counts, strict=True))
    digest = hashlib.sha256(b"".join(texts)).hexdigest()
    return b"".join(texts) + json.dumps({"type": "end", **end, "sha256": digest}).encode() + b"\n"


def test_a_dump_written_by_hand_is_read() -> None:
    """A dump in the documented format is read, also with other white space."""
    assert len(read(with_end_line(*WHOLE_DUMP))) == 5


#: Invalid lines, and the number of the first line that is refused.
INVALID: dict[str, tuple[list[Any], int]] = {
    "nothing": ([], 1),
    "a header alone": ([HEADER], 2),
    "no header": (WHOLE_DUMP[1:], 1),
    "a second header": ([HEADER, HEADER], 2),
    "a label set before the fleet's": ([HEADER, LABEL_SET], 2),
    "the fleet's a second time": ([HEADER, FLEET_SET, FLEET_SET], 3),
    "a label set with other labels": (
        [HEADER, FLEET_SET, {**LABEL_SET, "values": [["4"], 1, {}, {}, {}]}],
        3,
    ),
    "a body before the fleet's label set": ([HEADER, BODY], 2),
    "a label set that does not exist": ([*WHOLE_DUMP[:3], {**TASK, "label_set": 2}], 4),
    "a label set below 0": ([*WHOLE_DUMP[:3], {**TASK, "label_set": -1}], 4),
    "a task with a state and no label set": ([*WHOLE_DUMP[:3], {**TASK, "label_set": 0}], 4),
    "a task without a state, with a label set": ([*WHOLE_DUMP[:3], {**TASK, "state": "none"}], 4),
    "an invalid state": ([*WHOLE_DUMP[:3], {**TASK, "state": "canary"}], 4),
    "an unknown field": ([*WHOLE_DUMP[:3], {**TASK, "canary": 1}], 4),
    "a number instead of a text": ([*WHOLE_DUMP[:3], {**TASK, "record": [4, 4]}], 4),
    "sources that are not a digest": (
        [*WHOLE_DUMP[:3], {**TASK, "record": [4, "t", *[""] * 4, "canary"]}],
        4,
    ),
    "a time that is not a number": ([*WHOLE_DUMP[:3], {**TASK, "due": float("inf")}], 4),
    "a body received 0 times": ([*WHOLE_DUMP[:4], {**BODY, "count": 0}], 5),
    "a count that is too large": ([*WHOLE_DUMP[:4], {**BODY, "count": 1 << 64}], 5),
    "a label set twice": ([*WHOLE_DUMP[:3], LABEL_SET], 4),
    "a task twice": ([*WHOLE_DUMP[:4], TASK], 5),
    "a body twice": ([*WHOLE_DUMP, BODY], 6),
    "a sum that is too large for a server": (
        [HEADER, {**FLEET_SET, "values": [[""], 1, {"x": 1 << 62}, {}, {}]}],
        2,
    ),
    "a sum below 0": ([HEADER, {**FLEET_SET, "values": [[""], 1, {"x": -1}, {}, {}]}], 2),
    "an account that is too large": ([*WHOLE_DUMP[:3], {**TASK, "record": [10**30, "t"]}], 4),
    "a time after the calendar": ([*WHOLE_DUMP[:4], {**BODY, "last": 1e300}], 5),
    "a time before the calendar": ([*WHOLE_DUMP[:4], {**BODY, "first": -1e300}], 5),
    "a body that is not base64": ([*WHOLE_DUMP[:4], {**BODY, "body": "canary!"}], 5),
    "an invalid secret": ([{**HEADER, "secret": "canary"}], 1),
    "invalid labels": ([{**HEADER, "labels": "canary\n1"}], 1),
    "an unknown line": ([*WHOLE_DUMP, {"type": "canary"}], 6),
    "an empty line": ([*WHOLE_DUMP, b"\n"], 6),
    "a line that is not UTF-8": ([*WHOLE_DUMP, b'{"type":"canary\xff"}\n'], 6),
    "a line that is not JSON": ([*WHOLE_DUMP, b"canary\n"], 6),
    "a lone surrogate": ([*WHOLE_DUMP[:3], {**TASK, "state": "\ud800"}], 4),
    "a line that is nested too deep": ([*WHOLE_DUMP[:3], b'{"type":"task","x":' + b"[" * 100_000 + b"\n"], 4),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_lines_are_refused_with_a_valid_digest(name: str) -> None:
    """The error has the number of the line, and quotes nothing of it."""
    lines, number = INVALID[name]
    with pytest.raises(
        StoreError, match=f"^x.dump, line {number}: damaged, or not a dump; dump the store again$"
    ):
        read(with_end_line(*lines))


def test_a_dump_of_a_newer_version_or_with_other_labels_is_refused() -> None:
    """The error says so, also if a newer version has added fields to the header."""
    newer = {**HEADER, "version": 2, "more": "canary"}
    with pytest.raises(
        StoreError,
        match="is a dump of version 2, this program supports version 1; use the program version that",
    ):
        read(with_end_line(newer))
    with pytest.raises(StoreError, match=r"has other labels; run `load` with --metrics.labels=appid$"):
        read(with_end_line({**HEADER, "labels": "appid"}))


def test_a_store_with_inconsistent_records_is_not_dumped() -> None:
    """The store is damaged or was written to during the dump; the dump gets no end line."""
    lines = read(with_end_line(*WHOLE_DUMP))
    with pytest.raises(StoreError, match="is damaged, or was written to during the dump"):
        written(iter([*lines[:2], *lines[3:]]))
