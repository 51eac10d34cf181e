"""Opening a shared store: making it, agreeing with it, a new generation of it, a look at its server."""

import logging
import os
from collections.abc import Callable
from functools import cache

import msgspec
from msgspec import Struct

from exporter.config.store_url import StoreUrl
from exporter.errors import StoreError
from exporter.relay import with_counters_reset
from exporter.store.protocol import StoreOptions
from exporter.store.records import decode_task, encode
from exporter.store.valkey.client import KEY_PREFIX
from exporter.store.valkey.script_runner import Answer, Script, ScriptRunner

VERSION = "1"
#: The parts that keys are spread over. A batch touches many tasks and the fleet's ledger, and is one script.
PARTITIONS = "1"

log = logging.getLogger(__name__)


class StoreIdentity(Struct, frozen=True):
    """What a store says of itself.

    Args:
        id: tells this generation of it from every other.
        secret: the key of the digests that stand for secrets.
        created: when this generation began, seconds.
        commits: how many it has seen.
    """

    id: str
    secret: bytes
    created: float
    commits: int


def open_or_create(
    runner: ScriptRunner, url: StoreUrl, options: StoreOptions, clock: Callable[[], float]
) -> StoreIdentity:
    """Open the store, or make it, and hold the terms against it.

    Raises:
        StoreError: it is not there for a guest, newer than this program, or has other terms.
    """
    meta, commits = _meta(runner, url, options, clock)
    if not meta:
        raise StoreError(f"there is no store {url}: give --store.url of the one that is served")
    agree_on_version(meta, url)
    is_judged_alike = options.agree(meta, url, "another database")
    if "torn" in meta and not options.as_guest:
        _begin_generation(runner, meta["id"], commits, clock())
        log.warning("store %s is older than it was: all counters begin at 0", url)
        meta, commits = _meta(runner, url, options, clock)
    if not is_judged_alike:
        runner.run(Script("commands"), meta["id"], "0 - 0", "judge", options.fold_settings_fingerprint)
    return StoreIdentity(meta["id"], bytes.fromhex(meta["secret"]), float(meta["created"]), commits)


def look_at_server(runner: ScriptRunner, url: StoreUrl) -> None:
    """Warn of a server that may lose what it was given."""
    if runner.setting("appendonly") == "no":
        kept = "snapshots alone" if runner.setting("save") else "nothing"
        _warn_once(f"store {url} keeps {kept} on disk: set appendonly yes")
    policy = runner.setting("maxmemory-policy") or "noeviction"
    if policy != "noeviction":
        _warn_once(f"store {url} may throw tasks away: set maxmemory-policy noeviction, not {policy}")


@cache
def _warn_once(text: str) -> None:
    """Say it once: a master opens the store before its worker does, which knows what was said by then."""
    log.warning("%s", text)


def _meta(
    runner: ScriptRunner, url: StoreUrl, options: StoreOptions, clock: Callable[[], float]
) -> tuple[dict[str, str], int]:
    """Return the store's own record and its commits; make the store if there is none and this is no guest."""
    new = {
        "id": os.urandom(8).hex(),
        "secret": os.urandom(16).hex(),
        "created": repr(clock()),
        "labels": ",".join(options.labels),
        "version": VERSION,
        "partitions": PARTITIONS,
    }
    fields = [text for item in new.items() for text in item]
    answer = runner.run(Script("open", guarded=False), int(not options.as_guest), *fields)
    meta = meta_of(answer)
    if meta.get("id") == new["id"]:
        log.warning("store %s is a new one: all counters begin at 0", url)
    return meta, answer.commits


def meta_of(answer: Answer) -> dict[str, str]:
    """Return a store's own record, as it was answered."""
    flat = [text.decode() for text in answer.rest[0]]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def agree_on_version(meta: dict[str, str], url: StoreUrl) -> None:
    """Refuse a store that this program does not know, or that is not whole yet.

    Raises:
        StoreError: it is of another version, or being loaded.
    """
    if "loading" in meta:
        raise StoreError(
            f"store {url} is being loaded: wait until that is done; if it was cut off, run `load` again"
        )
    if meta.get("version") != VERSION or meta.get("partitions") != PARTITIONS:
        raise StoreError(
            f"store {url} is of version {meta.get('version')} in {meta.get('partitions')} parts, "
            f"this program knows {VERSION} in {PARTITIONS}: use the program that wrote it, or a newer one"
        )


def _begin_generation(runner: ScriptRunner, id_: str, commits: int, now: float) -> None:
    """Set all counters to 0: what was counted and then lost would read as a reset, and be counted twice."""
    tasks = [
        (key.decode(), encode(with_counters_reset(decode_task(record.decode()))))
        for key, record in runner.ask("HGETALL", KEY_PREFIX + "tasks").items()
    ]
    # Whoever comes first does it; the others find another store, with nothing left to do.
    fields = (id_, commits, os.urandom(8).hex(), repr(now))
    runner.run(Script("renew", guarded=False), *fields, msgspec.msgpack.encode(tasks))
