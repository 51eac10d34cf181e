"""A shared store that is dumped, or made of a dump."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from itertools import chain, islice

import msgspec
from msgspec import Struct
from msgspec.structs import replace as changed

from exporter.config.store_url import StoreUrl
from exporter.errors import StoreError
from exporter.metrics.values import FLEET, SEEN_VALUE, SEP
from exporter.relay import NONE
from exporter.store.dump import DUMP_VERSION, Body, Header, KeptTask, LabelSet, Line
from exporter.store.records import RANKS, STORED_STATES, body_digest, decode_task, encode, key_of
from exporter.store.valkey.client import KEY_PREFIX, META
from exporter.store.valkey.open import PARTITIONS, VERSION, agree_on_version, look_at_server, meta_of
from exporter.store.valkey.script_runner import Script, ScriptRunner
from exporter.store.valkey.snapshot import hash_fields_of, label_set_of

#: A process that serves a store writes to it at least once a minute.
IN_USE_SECONDS = 90.0
MICRO = 1_000_000
TASKS_AT_ONCE, LINES_AT_ONCE = 200, 100

Command = tuple[str | bytes | float, ...]

LEDGERS, APART, TASKS, PLACES, DUE, SOURCES, HELD, BODIES, LAST = (
    KEY_PREFIX + name
    for name in ("ledgers", "seen", "tasks", "places", "due", "sources", "held", "bodies", "last")
)


class _Facts(Struct):
    """What is kept of a body beside itself."""

    reason: str
    source: str
    count: int
    first: float
    last: float
    size: int


def dump_server(url: StoreUrl) -> Iterator[Line]:
    """Yield all that a shared store holds; nobody may write to it meanwhile.

    Raises:
        StoreError: it is not there, of another version than this program's, or older than it was.
        ValueError: it was written to meanwhile.
    """
    with closing(ScriptRunner(url)) as runner:
        meta = _meta(runner)
        if not meta:
            raise StoreError(f"there is no store {url}: give --store.url of the one that is to be dumped")
        agree_on_version(meta, url)
        if "torn" in meta:
            raise StoreError(f"store {url} is older than it was: start an exporter on it first")
        created, fold_settings_fingerprint = float(meta["created"]), meta.get("judged_by", "")
        yield Header(created, meta["secret"], meta["labels"], fold_settings_fingerprint, DUMP_VERSION)
        yield from _label_sets(runner)
        yield from _tasks(runner)
        yield from _bodies(runner)
        if _meta(runner) != meta:  # it has the number of commits
            raise ValueError("the store was written to meanwhile")


def load_server(url: StoreUrl, lines: Iterator[Line], *, replace: bool) -> None:
    """Make a store of the lines of a dump. Until it is whole, whoever opens it is told that it is not.

    Raises:
        StoreError: one is there already, without `replace`, or in use; or the server fails.
    """
    with closing(ScriptRunner(url)) as runner:
        here = _replaceable(runner, url, replace=replace)
        look_at_server(runner, url)
        lines, id_ = chain([next(lines)], lines), os.urandom(8).hex()  # nothing is begun for what is no dump
        _run(runner, "begin_load", here, id_)
        try:
            counts: Counter[object] = Counter()
            while page := list(islice(lines, LINES_AT_ONCE)):
                _load(runner, id_, [command for line in page for command in _commands(line, id_, counts)])
            _compare(runner, counts)
        except BaseException:
            if not here:  # a store that was replaced is lost: who serves next must be told
                with suppress(StoreError):
                    _run(runner, "begin_load", id_, "")
            raise
        sums = "tasks", counts[KeptTask], "bytes", counts["bytes"]
        _load(runner, id_, [("HSET", META, *sums), ("HDEL", META, "loading")])


def _replaceable(runner: ScriptRunner, url: StoreUrl, *, replace: bool) -> str:
    """Return the id of what is here and may be given up: of a store, or of a load that was cut off."""
    answer = runner.run(Script("open", guarded=False), 0)
    meta = meta_of(answer)
    if meta and "loading" not in meta:
        if not replace:
            raise StoreError(f"store {url} is there already: give another place, or --replace")
        if answer.micros - answer.rest[1] < IN_USE_SECONDS * MICRO:
            raise StoreError(
                f"store {url} is in use: stop every process that serves it first, "
                f"and wait {IN_USE_SECONDS:g} s"
            )
    return meta.get("loading") or meta.get("id", "")


def _compare(runner: ScriptRunner, counts: Counter[object]) -> None:
    """Hold what is there against what was given."""
    given = [counts[LabelSet], counts[KeptTask], counts[Body]]
    if given != [runner.ask("HLEN", key) for key in (LEDGERS, TASKS, HELD)]:
        raise StoreError("the server does not hold all that it was given: look at its settings and its log")


def _load(runner: ScriptRunner, id_: str, commands: Sequence[Command]) -> None:
    """Run commands for as long as that load goes on; to run them again does no harm."""
    _run(runner, "load", id_, *(word for command in commands for word in (len(command), *command)))


def _run(runner: ScriptRunner, name: str, *arguments: str | bytes | float) -> None:
    if runner.run(_script(name), *arguments).status != "ok":
        raise StoreError("somebody else has made or loaded a store there meanwhile")


@cache
def _script(name: str) -> Script:
    return Script(name, guarded=False)


def _commands(line: Line, id_: str, counts: Counter[object]) -> Iterator[Command]:
    """Yield what writes a line as `commit.lua` would; `counts` has the lines so far, by their kind."""
    number = counts[type(line)]
    counts[type(line)] += 1
    match line:
        case Header():
            texts = {"id": id_, "version": VERSION, "partitions": PARTITIONS, "created": repr(line.created)}
            texts |= {
                "secret": line.secret,
                "labels": line.labels,
                "judged_by": line.fold_settings_fingerprint,
            }
            yield "HSET", META, "commits", 1, *chain.from_iterable(texts.items())
        case LabelSet(values=label_set):
            # What was told apart is no number of the fleet's here.
            apart = [key for key in label_set.values if key.startswith(SEEN_VALUE + SEP)]
            counted = {key: value for key, value in label_set.values.items() if key not in apart}
            fields = hash_fields_of(changed(label_set, values=counted))
            yield "HSET", LEDGERS, json.dumps(label_set.labels), number
            yield "HSET", f"{KEY_PREFIX}ledger:{number}", *chain.from_iterable(fields)
            if apart:
                yield "SADD", APART, *apart
        case KeptTask(record=task):
            name, rank, age = key_of(task), RANKS[line.state], number + 1
            yield "HSET", TASKS, name, encode(task)
            yield "HSET", PLACES, name, f"1 {rank} {line.label_set} {age} {task.sources}"
            yield "ZADD", DUE, repr(line.due), name
            if line.state != NONE:
                yield "ZADD", f"{KEY_PREFIX}state:{rank}", (line.label_set << 32) + age, name
            if task.sources:
                yield "ZADD", SOURCES, 0, f"{task.sources} {name}"
        case Body(body=body):
            counts["bytes"] += len(body)
            digest = body_digest(body).hex()
            facts = _Facts(line.reason, line.source, line.count, line.first, line.last, len(body))
            yield "HSET", HELD, digest, msgspec.msgpack.encode(facts)
            yield "HSET", BODIES, digest, body
            yield "ZADD", LAST, repr(line.last), digest


def _meta(runner: ScriptRunner) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in runner.ask("HGETALL", META).items()}


def _label_sets(runner: ScriptRunner) -> Iterator[LabelSet]:
    labels = {int(number): tuple(json.loads(text)) for text, number in runner.ask("HGETALL", LEDGERS).items()}
    apart = {key.decode(): 1 for key in runner.ask("SMEMBERS", APART)}
    for number in sorted(labels):
        fields = runner.ask("HGETALL", f"{KEY_PREFIX}ledger:{number}").items()
        label_set = label_set_of(labels[number], ((name.decode(), value.decode()) for name, value in fields))
        yield LabelSet(
            changed(label_set, values=label_set.values | apart) if label_set.labels == FLEET else label_set
        )


def _tasks(runner: ScriptRunner) -> Iterator[KeptTask]:
    """Yield the tasks by age. Of all of them only names and numbers are known at once."""
    ages: dict[bytes, int] = {}
    cursor = -1
    while cursor:
        cursor, found = runner.ask("HSCAN", PLACES, max(cursor, 0), "COUNT", TASKS_AT_ONCE)
        ages |= {name: int(place.split(b" ")[3]) for name, place in found.items()}
    names = iter(sorted(ages, key=ages.__getitem__))
    while some := list(islice(names, TASKS_AT_ONCE)):
        records = (runner.ask("HMGET", key, *some) for key in (PLACES, TASKS))
        for place, record, due in zip(*records, runner.ask("ZMSCORE", DUE, *some), strict=True):
            if None in (place, record, due):
                raise ValueError("a task was forgotten meanwhile")
            _, rank, label_set, _ = place.split(b" ", 3)
            yield KeptTask(STORED_STATES[int(rank)], int(label_set), due, decode_task(record.decode()))


def _bodies(runner: ScriptRunner) -> Iterator[Body]:
    held = runner.ask("HGETALL", HELD).items()
    known = [(digest, msgspec.msgpack.decode(text, type=_Facts)) for digest, text in held]
    for digest, facts in sorted(known, key=lambda each: (each[1].first, each[0])):
        body = runner.ask("HGET", BODIES, digest)
        if body is None:
            raise ValueError("a body was given up meanwhile")
        yield Body(facts.reason, body, facts.source, facts.count, facts.first, facts.last)
