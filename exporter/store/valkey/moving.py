"""A shared store that is moved: away from its server, or to one."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from exporter.errors import StoreError, StoreUnavailable
from exporter.ledger import FLEET, SEEN, SEP, Ledger
from exporter.store import Held, key_of
from exporter.store.mark import Mark, read_mark
from exporter.store.moving import BODIES, LEDGERS, TASKS, Head, Kept, Numbered, Page
from exporter.store.records import decode_task
from exporter.store.valkey.client import ARRIVING, META
from exporter.store.valkey.fields import fields_of, ledger_of
from exporter.store.valkey.link import Answer, Link, Script
from exporter.store.valkey.opening import PARTITIONS, VERSION, agree_on_version, look_at_server, meta_of
from exporter.storeurl import StoreUrl

PATIENCE_SECONDS = 10.0
#: What arrives goes away by itself when nobody has touched it for so long.
UNTOUCHED_SECONDS = 60
#: A process that serves a store writes to it at least once a minute.
IN_USE_SECONDS = 90.0
MICRO = 1_000_000

_rows = msgspec.msgpack.Decoder(list[tuple[str, str, str]])


class _Place:
    """Runs scripts on a store as it is, or on one that arrives."""

    def __init__(self, link: Link, meta: str = META) -> None:
        self._link = link
        self._meta = meta
        self._scripts: dict[str, Script] = {}

    def run(self, name: str, *arguments: str | bytes | float) -> Answer:
        script = self._scripts.setdefault(name, Script(name, guarded=False))
        until = time.monotonic() + PATIENCE_SECONDS
        return self._link.run(script, *arguments, until=until, meta=self._meta)

    def pages(self) -> Iterator[Page]:
        yield from self._ledgers()
        yield from self._tasks()
        yield from self._bodies()

    def _ledgers(self) -> Iterator[Page]:
        flat, seen = self.run("bounds").rest
        labels = {int(number): json.loads(text) for text, number in zip(flat[::2], flat[1::2], strict=True)}
        told_apart = dict.fromkeys((mark.decode() for mark in seen), 1)
        numbers = sorted(labels)
        for first in range(0, len(numbers), LEDGERS):
            some = numbers[first : first + LEDGERS]
            ledgers = [
                _ledger(tuple(labels[number]), raw)
                for number, raw in zip(some, self.run("sums", *some).rest[0], strict=True)
            ]
            yield [
                Numbered(number, _with(ledger, told_apart) if ledger.labels == FLEET else ledger)
                for number, ledger in zip(some, ledgers, strict=True)
            ]

    def _tasks(self) -> Iterator[Page]:
        number, found = 0, TASKS
        while found == TASKS:
            found, rows = self.run("rows", number, number + TASKS - 1).rest
            yield [_kept(*row) for row in _rows.decode(rows)]
            number += found

    def _bodies(self) -> Iterator[Page]:
        first, after = "-inf", ""
        while rows := self.run("bodies", "", "", BODIES, "", "", first, after).rest[0]:
            yield [
                Held(
                    digest.decode(), reason.decode(), body, source.decode(), count, float(since), float(last)
                )
                for digest, reason, body, source, count, since, last in rows
            ]
            first, after = rows[-1][5], rows[-1][0]


class ServerDeparture:
    """A store that leaves its server; processes that serve it answer 503 from the first mark on.

    Args:
        url: where it is.

    Raises:
        StoreError: it is not there, of another version than this program's, or older than it was.
    """

    def __init__(self, url: StoreUrl) -> None:
        self.name = str(url)
        self._link = Link(url)
        self._place = _Place(self._link)
        meta = self._meta()
        if not meta:
            raise StoreError(f"there is no store {url}: give --store.url of the one that is to be moved")
        agree_on_version(meta, url)
        if "torn" in meta:
            raise StoreError(f"store {url} is older than it was: start an exporter on it first")
        self._id = meta["id"]

    def mark(self) -> Mark | None:
        text = self._meta().get("moved")
        return read_mark(text) if text else None

    def change(self, before: Mark | None, after: Mark | None) -> None:
        marks = [str(mark) if mark else "" for mark in (before, after)]
        if self._place.run("mark", self._id, *marks).status != "ok":
            raise StoreError(f"store {self.name} was moved, or is to stay, by somebody else meanwhile")

    def head(self) -> Head:
        meta = self._meta()
        return Head(
            float(meta["created"]),
            meta["secret"],
            meta["labels"],
            meta.get("judged_by", ""),
            int(meta["tasks"]),
        )

    def pages(self) -> Iterator[Page]:
        return self._place.pages()

    def close(self) -> None:
        self._link.close()

    def _meta(self) -> dict[str, str]:
        return meta_of(self._place.run("open", 0))


class ServerArrival:
    """A server that a store is moved to.

    Args:
        url: where it is.
    """

    def __init__(self, url: StoreUrl) -> None:
        self.name = str(url)
        self._url = url
        self._link = Link(url)
        self._place = _Place(self._link)
        self._arriving = _Place(self._link, ARRIVING)

    def origin(self) -> str:
        return meta_of(self._place.run("open", 0)).get("origin", "")

    @contextmanager
    def arriving(self, move: str, head: Head, *, replace: bool) -> Iterator["_StagedOnServer"]:
        replaced = self._replaced(replace=replace)
        look_at_server(self._link, self._url)
        staged = _StagedOnServer(self._arriving, self.name, move, head)
        try:
            yield staged
            self._publish(move, replaced)
        except BaseException:
            with suppress(StoreUnavailable):
                self._arriving.run("give_up", move)
            raise

    def close(self) -> None:
        self._link.close()

    def _publish(self, move: str, replaced: str) -> None:
        status = self._arriving.run("publish", move, replaced).status
        if status != "ok":
            raise StoreError(f"store {self.name} {_NOT_DONE[status]}")

    def _replaced(self, *, replace: bool) -> str:
        """Return the id of the store that is there, and may be given up; nothing if there is none."""
        answer = self._place.run("open", 0)
        meta = meta_of(answer)
        if meta and not replace:
            raise StoreError(f"store {self.name} is there already: give another place, or --replace")
        if meta and "moved" not in meta and answer.micros - answer.rest[1] < IN_USE_SECONDS * MICRO:
            raise StoreError(
                f"store {self.name} is in use: stop every process that serves it first, "
                f"and wait {IN_USE_SECONDS:g} s"
            )
        return meta.get("id", "")


class _StagedOnServer:
    """A store under names of its own; it goes away by itself when nobody touches it any more."""

    def __init__(self, place: _Place, name: str, move: str, head: Head) -> None:
        self._place = place
        self._name = name
        self._move = move
        self._bytes = 0
        meta: dict[str, str | int] = {
            "id": os.urandom(8).hex(),
            "secret": head.secret,
            "created": repr(head.created),
            "labels": head.labels,
            "version": VERSION,
            "partitions": PARTITIONS,
            "judged_by": head.judged_by,
            "origin": move,
            "commits": 1,
            "tasks": head.last,
        }
        place.run("arrive", UNTOUCHED_SECONDS, *(part for field in meta.items() for part in field))

    def take(self, page: Page) -> None:
        self._bytes += sum(len(item.body) for item in page if isinstance(item, Held))
        packed = msgspec.msgpack.encode(_packed(page) | {"bytes": self._bytes})
        bodies = [item.body for item in page if isinstance(item, Held)]
        if self._place.run("take", self._move, UNTOUCHED_SECONDS, packed, *bodies).status != "ok":
            raise StoreError(f"store {self._name} {_NOT_DONE['gone']}")

    def pages(self) -> Iterator[Page]:
        for page in self._place.pages():
            self.take([])  # so that it is not taken for untouched
            yield page


def _ledger(labels: tuple[str, ...], raw: list[bytes]) -> Ledger:
    flat = [text.decode() for text in raw]
    return ledger_of(labels, zip(flat[::2], flat[1::2], strict=True))


def _with(ledger: Ledger, told_apart: dict[str, int]) -> Ledger:
    return msgspec.structs.replace(ledger, values=ledger.values | told_apart)


def _kept(record: str, place: str, due: str) -> Kept:
    _, rank, ledger, number, _ = place.split(" ", 4)
    return Kept(int(number), int(rank), int(ledger), float(due), record)


def _packed(page: Page) -> dict[str, Any]:
    """Return a page as `take.lua` takes it."""
    ledgers = [_told_apart(item) for item in page if isinstance(item, Numbered)]
    return {
        "ledgers": [fields for fields, _ in ledgers],
        "seen": [mark for _, seen in ledgers for mark in seen],
        "rows": [_row(item) for item in page if isinstance(item, Kept)],
        "held": [_facts(item) for item in page if isinstance(item, Held)],
    }


def _told_apart(item: Numbered) -> tuple[tuple[str, int, list[tuple[str, str]]], list[str]]:
    """Return a ledger, and what it remembers as told apart: the shared store keeps that by itself."""
    seen = [key for key in item.ledger.values if key.startswith(SEEN + SEP)]
    values = {key: value for key, value in item.ledger.values.items() if key not in seen}
    ledger = msgspec.structs.replace(item.ledger, values=values)
    return (json.dumps(ledger.labels), item.number, list(fields_of(ledger))), seen


def _row(item: Kept) -> tuple[str, str, str, int, int, int, str]:
    task = decode_task(item.record)
    return key_of(task), item.record, repr(item.due), item.number, item.rank, item.ledger, task.sources


def _facts(item: Held) -> tuple[str, dict[str, Any]]:
    return item.digest, {
        "reason": item.reason,
        "source": item.source,
        "count": item.count,
        "first": item.first,
        "last": item.last,
        "size": len(item.body),
    }


_NOT_DONE = {
    "gone": "was taken over by another move, or nothing was heard of this one for too long",
    "there": "has come into being meanwhile: give another place, or --replace",
}
