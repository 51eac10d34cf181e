"""How the shared store is dumped, and loaded from a dump."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain, islice

import msgspec
from msgspec import Struct
from msgspec.structs import replace as changed

from exporter.config.store_url import StoreUrl
from exporter.errors import StoreError
from exporter.metrics.values import FLEET, MICRO, SEEN_VALUE, SEP
from exporter.relay import NONE, key_of
from exporter.store.dump import DUMP_VERSION, BodyLine, HeaderLine, LabelSetLine, Line, TaskLine
from exporter.store.protocol import RANKS, STORED_STATES, body_digest, decode_task, encode
from exporter.store.valkey.client import KEY_PREFIX, META
from exporter.store.valkey.open import PARTITIONS, VERSION, check_version, meta_of, warn_unsafe_settings
from exporter.store.valkey.script_runner import Script, ScriptRunner
from exporter.store.valkey.snapshot import hash_fields_of, label_set_of

#: A store is in use if it was written to in this time: an exporter writes at least once a minute.
IN_USE_SECONDS = 90.0
#: The server answers nothing else while it runs one command or script: so they are kept short.
TASKS_AT_ONCE, LINES_AT_ONCE = 200, 100

Command = tuple[str | bytes | float, ...]

LABEL_SETS, SEEN_VALUES, TASKS, TASK_INFOS, DUE, SOURCES, BODY_INFOS, BODIES, LAST = (
    KEY_PREFIX + name
    for name in ("ledgers", "seen", "tasks", "places", "due", "sources", "held", "bodies", "last")
)


class _BodyInfo(Struct):
    """The info of a body in the quarantine, stored in addition to the body."""

    reason: str
    source: str
    count: int
    first: float
    last: float
    size: int


def dump_server(url: StoreUrl) -> Iterator[Line]:
    """Yield the lines of a dump of a shared store. No process may write to it meanwhile.

    Raises:
        StoreError: the store does not exist, has another version, or has lost commits.
        ValueError: the store was written to meanwhile.
    """
    with closing(ScriptRunner(url)) as runner:
        meta = _read_hash(runner, META)
        if not meta:
            raise StoreError(f"there is no store {url}; set --store.url to the store to dump")
        check_version(meta, url)
        if "torn" in meta:
            raise StoreError(f"store {url} has lost commits; start an exporter on it first, then dump it")
        created, fold_settings_fingerprint = float(meta["created"]), meta.get("judged_by", "")
        yield HeaderLine(created, meta["secret"], meta["labels"], fold_settings_fingerprint, DUMP_VERSION)
        yield from _label_sets(runner)
        yield from _tasks(runner)
        yield from _bodies(runner)
        # The meta has the number of commits, which every transaction increases.
        if _read_hash(runner, META) != meta:
            raise ValueError("the store was written to meanwhile")


def load_server(url: StoreUrl, lines: Iterator[Line], *, replace: bool) -> None:
    """Create a store from the lines of a dump. Until it is complete, no process can open it.

    Raises:
        StoreError: a store exists already, without `replace`, or is in use; or the server fails.
    """
    with closing(ScriptRunner(url)) as runner:
        old_id = _replaceable_id(runner, url, replace=replace)
        warn_unsafe_settings(runner, url)
        # Read the first line before anything is deleted: the file may not be a dump.
        lines, id_ = chain([next(lines)], lines), os.urandom(8).hex()
        _run_script(runner, "begin_load", old_id, id_)
        try:
            counts: Counter[object] = Counter()
            while page := list(islice(lines, LINES_AT_ONCE)):
                _send(runner, id_, [command for line in page for command in _commands(line, id_, counts)])
            _check_counts(runner, counts)
        except BaseException:
            # Delete what was loaded, unless it has replaced a store: that one is lost, and an exporter
            # that finds nothing here would create a new store and hide the loss.
            if not old_id:
                with suppress(StoreError):
                    _run_script(runner, "begin_load", id_, "")
            raise
        sums = "tasks", counts[TaskLine], "bytes", counts["bytes"]
        _send(runner, id_, [("HSET", META, *sums), ("HDEL", META, "loading")])


def _replaceable_id(runner: ScriptRunner, url: StoreUrl, *, replace: bool) -> str:
    """Return the id of the store or the interrupted load that will be replaced; empty if there is none."""
    answer = runner.run(Script("open", guarded=False), 0)
    meta = meta_of(answer)
    if meta and "loading" not in meta:
        if not replace:
            raise StoreError(f"store {url} already exists; give another --store.url, or add --replace")
        if answer.micros - answer.rest[1] < IN_USE_SECONDS * MICRO:
            advice = f"stop every process that uses it, wait {IN_USE_SECONDS:g} s, then try again"
            raise StoreError(f"store {url} is in use; {advice}")
    return meta.get("loading") or meta.get("id", "")


def _check_counts(runner: ScriptRunner, counts: Counter[object]) -> None:
    """Check that the server has as many records as it was sent: it may have evicted some."""
    sent = [counts[LabelSetLine], counts[TaskLine], counts[BodyLine]]
    if sent != [runner.ask("HLEN", key) for key in (LABEL_SETS, TASKS, BODY_INFOS)]:
        raise StoreError("the server lost records during the load; check its maxmemory-policy and its log")


def _send(runner: ScriptRunner, id_: str, commands: Sequence[Command]) -> None:
    """Run commands, unless another load has replaced this one. They may run twice with the same result."""
    _run_script(runner, "load", id_, *(word for command in commands for word in (len(command), *command)))


def _run_script(runner: ScriptRunner, name: str, *arguments: str | bytes | float) -> None:
    if runner.run(Script(name, guarded=False), *arguments).status != "ok":
        raise StoreError("another process created or loaded a store there meanwhile; stop it, then try again")


def _commands(line: Line, id_: str, counts: Counter[object]) -> Iterator[Command]:
    """Yield commands that write a line as `commit.lua` would; add the line to `counts`, by its type."""
    number = counts[type(line)]
    counts[type(line)] += 1
    match line:
        case HeaderLine():
            yield "HSET", META, "id", id_, "version", VERSION, "partitions", PARTITIONS, "commits", 1
            yield "HSET", META, "created", repr(line.created), "secret", line.secret, "labels", line.labels
            yield "HSET", META, "judged_by", line.fold_settings_fingerprint
        case LabelSetLine(values=label_set):
            # A dump has the label values seen so far among the fleet's values. The server has them in a set.
            seen = [key for key in label_set.values if key.startswith(SEEN_VALUE + SEP)]
            counted = {key: value for key, value in label_set.values.items() if key not in seen}
            fields = hash_fields_of(changed(label_set, values=counted))
            yield "HSET", LABEL_SETS, json.dumps(label_set.labels), number
            yield "HSET", f"{KEY_PREFIX}ledger:{number}", *chain.from_iterable(fields)
            if seen:
                yield "SADD", SEEN_VALUES, *seen
        case TaskLine(record=task):
            # A task gets a new id by its age. All versions are 1: 0 stands for a task that does not exist.
            name, rank, age = key_of(task), RANKS[line.state], number + 1
            yield "HSET", TASKS, name, encode(task)
            yield "HSET", TASK_INFOS, name, f"1 {rank} {line.label_set} {age} {task.sources}"
            yield "ZADD", DUE, repr(line.due), name
            if line.state != NONE:
                yield "ZADD", f"{KEY_PREFIX}state:{rank}", (line.label_set << 32) + age, name
            if task.sources:
                yield "ZADD", SOURCES, 0, f"{task.sources} {name}"
        case BodyLine(body=body):
            counts["bytes"] += len(body)
            digest = body_digest(body).hex()
            info = _BodyInfo(line.reason, line.source, line.count, line.first, line.last, len(body))
            yield "HSET", BODY_INFOS, digest, msgspec.msgpack.encode(info)
            yield "HSET", BODIES, digest, body
            yield "ZADD", LAST, repr(line.last), digest


def _read_hash(runner: ScriptRunner, key: str) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in runner.ask("HGETALL", key).items()}


def _label_sets(runner: ScriptRunner) -> Iterator[LabelSetLine]:
    numbers = _read_hash(runner, LABEL_SETS)
    seen = {key.decode(): 1 for key in runner.ask("SMEMBERS", SEEN_VALUES)}
    for labels, number in sorted(numbers.items(), key=lambda item: int(item[1])):
        fields = _read_hash(runner, f"{KEY_PREFIX}ledger:{number}")
        label_set = label_set_of(tuple(json.loads(labels)), fields.items())
        if label_set.labels == FLEET:
            label_set = changed(label_set, values=label_set.values | seen)
        yield LabelSetLine(label_set)


def _tasks(runner: ScriptRunner) -> Iterator[TaskLine]:
    """Yield the tasks by age. Only the keys and ages of all tasks are in memory together."""
    # HSCAN may return a key twice: so it is a dictionary.
    ages: dict[bytes, int] = {}
    cursor = -1
    while cursor:
        cursor, found = runner.ask("HSCAN", TASK_INFOS, max(cursor, 0), "COUNT", TASKS_AT_ONCE)
        ages |= {name: int(info.split(b" ")[3]) for name, info in found.items()}
    names = iter(sorted(ages, key=ages.__getitem__))
    while some := list(islice(names, TASKS_AT_ONCE)):
        records = (runner.ask("HMGET", key, *some) for key in (TASK_INFOS, TASKS))
        for info, record, due in zip(*records, runner.ask("ZMSCORE", DUE, *some), strict=True):
            if None in (info, record, due):
                raise ValueError("a task was deleted meanwhile")
            _, rank, label_set, _ = info.split(b" ", 3)
            yield TaskLine(STORED_STATES[int(rank)], int(label_set), due, decode_task(record.decode()))


def _bodies(runner: ScriptRunner) -> Iterator[BodyLine]:
    held = runner.ask("HGETALL", BODY_INFOS).items()
    infos = [(digest, msgspec.msgpack.decode(text, type=_BodyInfo)) for digest, text in held]
    for digest, info in sorted(infos, key=lambda each: (each[1].first, each[0])):
        body = runner.ask("HGET", BODIES, digest)
        if body is None:
            raise ValueError("a body was deleted meanwhile")
        yield BodyLine(info.reason, body, info.source, info.count, info.first, info.last)
