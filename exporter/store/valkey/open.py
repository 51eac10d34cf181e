"""How a shared store is created, opened and checked, and how its counters are reset after a loss."""

import logging
import os
from collections.abc import Callable
from functools import cache
from itertools import chain

import msgspec
from msgspec import Struct

from exporter.config.store_url import StoreUrl
from exporter.errors import StoreError
from exporter.relay import with_counters_reset
from exporter.store.protocol import StoreOptions, decode_task, encode
from exporter.store.valkey.client import KEY_PREFIX
from exporter.store.valkey.script_runner import Answer, Script, ScriptRunner

VERSION = "1"
#: The number of slots of a cluster that the keys are spread over. It is 1, since one script writes a whole
#: batch: many tasks and the fleet. It is stored, so that a later version may use more.
PARTITIONS = "1"

log = logging.getLogger(__name__)
# Once: the master opens the store before it forks the worker, which opens it again.
_warn_once = cache(log.warning)


class StoreMeta(Struct, frozen=True):
    """The meta of the store; `id` identifies it since its counters started, at `created` (seconds)."""

    id: str
    secret: bytes
    created: float
    commits: int


def open_or_create(
    runner: ScriptRunner, url: StoreUrl, options: StoreOptions, clock: Callable[[], float]
) -> StoreMeta:
    """Open the store, or create it, and check it against the options.

    Raises:
        StoreError: the store does not exist and may not be created, or has another version or other options.
    """
    meta = _open(runner, url, options, clock)
    if not meta:
        raise StoreError(f"there is no store {url}; set --store.url to the store of the exporter")
    check_version(meta, url)
    has_same_fold_settings = options.check_meta(meta, url, "another database")
    # `torn` means that commits were lost, see guard.lua.
    if "torn" in meta and not options.attach_only:
        _reset_counters(runner, meta["id"], meta["commits"], clock())
        log.warning("store %s has lost commits; all counters start again at 0", url)
        meta = _open(runner, url, options, clock)
    if not has_same_fold_settings:
        # "0 - 0": this process has seen no commit, has no ID yet, and has made no commit.
        runner.run(Script("commands"), meta["id"], "0 - 0", "set_settings", options.fold_settings_fingerprint)
    secret = bytes.fromhex(meta["secret"])
    return StoreMeta(meta["id"], secret, float(meta["created"]), int(meta["commits"]))


def warn_unsafe_settings(runner: ScriptRunner, url: StoreUrl) -> None:
    """Log a warning if the server's settings allow it to lose data."""
    if runner.setting("appendonly") == "no":
        written = "snapshots only" if runner.setting("save") else "nothing"
        _warn_once(f"store {url} writes {written} to disk; set appendonly yes on its server")
    policy = runner.setting("maxmemory-policy") or "noeviction"
    if policy != "noeviction":
        setting = f"maxmemory-policy noeviction, not {policy},"
        _warn_once(f"store {url} may lose tasks; set {setting} on its server")


def _open(
    runner: ScriptRunner, url: StoreUrl, options: StoreOptions, clock: Callable[[], float]
) -> dict[str, str]:
    """Return the meta of the store; create it if an exporter opens it."""
    new = {
        "id": os.urandom(8).hex(),
        "secret": os.urandom(16).hex(),
        "created": repr(clock()),
        "labels": ",".join(options.labels),
        "version": VERSION,
        "partitions": PARTITIONS,
    }
    fields = chain.from_iterable(new.items())
    meta = meta_of(runner.run(Script("open", guarded=False), int(not options.attach_only), *fields))
    if meta.get("id") == new["id"]:
        log.warning("created store %s; all counters start at 0", url)
    return meta


def meta_of(answer: Answer) -> dict[str, str]:
    """Return the meta in an answer of `open.lua`."""
    flat = [text.decode() for text in answer.rest[0]]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def check_version(meta: dict[str, str], url: StoreUrl) -> None:
    """Raise StoreError if the store is being loaded, or this program does not support its version."""
    if "loading" in meta:
        raise StoreError(
            f"store {url} is being loaded; wait until `load` ends, or run it again if it was interrupted"
        )
    if meta.get("version") != VERSION or meta.get("partitions") != PARTITIONS:
        raise StoreError(
            f"store {url} has version {meta.get('version')} and {meta.get('partitions')} partitions, this "
            f"program supports version {VERSION} and {PARTITIONS} partition; use the program version that "
            "wrote it, or a newer one"
        )


def _reset_counters(runner: ScriptRunner, id_: str, commits: str, now: float) -> None:
    """Set all counters to 0."""
    # If they only went back a little, Prometheus would see a reset and add all of the old numbers again.
    tasks = [
        (key.decode(), encode(with_counters_reset(decode_task(record.decode()))).decode())
        for key, record in runner.ask("HGETALL", KEY_PREFIX + "tasks").items()
    ]
    # Several processes may do this at the same time. The first one gives the store a new id; the others find
    # that id and change nothing.
    fields = (id_, commits, os.urandom(8).hex(), repr(now))
    runner.run(Script("reset_counters", guarded=False), *fields, msgspec.msgpack.encode(tasks))
