"""The shared store itself: the protocol, by scripts that each are one atomic step on the server.

The process remembers which store it is on and how many commits that has seen. Where there is another, or an
older one, what was answered 200 is lost: it is told, and nothing is written, until somebody restarts.
"""

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any

from exporter.config.store_url import StoreUrl
from exporter.errors import StoreUnavailable, WouldBlock
from exporter.relay import STATES
from exporter.store.protocol import PreparedCommit, QuarantinedBody, Snapshot, StoreOptions, T, Transaction
from exporter.store.records import RANKS
from exporter.store.valkey.open import look_at_server, open_or_create
from exporter.store.valkey.script_runner import PAUSE_SECONDS, Answer, Script, ScriptRunner
from exporter.store.valkey.snapshot import SnapshotReader
from exporter.store.valkey.transaction import Bounds, Commit, ValkeyTransaction

PROBE_BYTES = 65536
#: For how long a commit is tried; the server refuses one that comes later, so that 503 means not counted.
COMMIT_SECONDS = 4.0
MICRO = 1_000_000


class ValkeyStore:
    """A store on a Valkey or Redis server, shared by any number of processes.

    Args:
        url: where it is; the store is made if there is none.
        terms: what is agreed with the store.
        clock: gives the time, seconds.
        password: returns the server's password as it is now, in place of that of the URL.

    Raises:
        StoreError: the server can't be used, or the store is newer than this program or has other terms.
    """

    def __init__(
        self,
        url: StoreUrl,
        options: StoreOptions,
        clock: Callable[[], float] = time.time,
        *,
        password: Callable[[], str] | None = None,
    ) -> None:
        self._url = url
        self._options = options
        self._clock = clock
        self._commands, self._commit_script = Script("commands"), Script("commit")
        self._client = os.urandom(8).hex()
        self._number = self._done = 0
        self._id = ""
        self._commits = 0
        self._lost = ""
        self._ahead = 0.0
        self._snapshots = SnapshotReader()
        # A command beside those that serve is not held up, and answers nobody else.
        self._replicas = 0 if options.as_guest else url.wait_replicas
        self._runner = ScriptRunner(url, password)
        try:
            self._open()
        except BaseException:
            self._runner.close()
            raise

    def _open(self) -> None:
        found = open_or_create(self._runner, self._url, self._options, self._clock)
        self._id, self._secret, self._created = found.id, found.secret, found.created
        self._commits = 0 if self._replicas else found.commits
        self._bounds = self._read_bounds()
        if not self._options.as_guest:
            look_at_server(self._runner, self._url)

    @property
    def secret(self) -> bytes:
        return self._secret

    def begin(self, work: Callable[[Transaction], T], *, wait: bool) -> PreparedCommit[T]:
        if not wait:
            raise WouldBlock("the store is beyond a network")
        prepared = self._prepare(work)

        def commit() -> tuple[T, dict[str, int]]:
            until = time.monotonic() + COMMIT_SECONDS
            result, transaction, changes = prepared
            tries = 0
            while (status := self._commit(changes, transaction.bodies, until)) != "ok":
                tries += 1
                if time.monotonic() > until:
                    raise StoreUnavailable(f"store {self._url}: {_NOT_DONE[status]}; it is tried again")
                time.sleep(random.uniform(0, min(tries, 10) / 1000))  # noqa: S311 - no secret
                result, transaction, changes = self._prepare(work)
            return result, dict(transaction.overflow)

        return PreparedCommit(commit)

    def transact(self, work: Callable[[Transaction], T]) -> tuple[T, dict[str, int]]:
        return self.begin(work, wait=True).commit()

    def due(self, now: float, limit: int) -> list[str]:
        (keys,) = self._run("due", now, limit)
        return [key.decode() for key in keys]

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        ranks = [RANKS[state] for state in states]
        return self._snapshots.read(self._created, states, *self._run("snapshot", max_tasks, *ranks))

    def listing(self, *, state: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        ranks = [RANKS[each] for each in STATES if state in (None, each)]
        (page,) = self._run("listing", after, limit, *ranks)
        return [(int(at), record.decode()) for at, record in zip(page[::2], page[1::2], strict=True)]

    def find(self, key: str) -> str | None:
        record, _, is_shown = self._run("read", key)
        return record.decode() if is_shown == b"1" else None

    def bodies(
        self, *, limit: int, reason: str | None = None, prefix: str = "", after: QuarantinedBody | None = None
    ) -> list[QuarantinedBody]:
        first, digest = (after.first, after.digest) if after else (-inf, "")
        (page,) = self._run("bodies", limit, reason or "", prefix, repr(first), digest)
        return [
            QuarantinedBody(
                name.decode(), why.decode(), body, source.decode(), count, float(first), float(last)
            )
            for name, why, body, source, count, first, last in page
        ]

    def probe(self) -> None:
        (length,) = self._run("probe", b"\0" * PROBE_BYTES)
        if length != PROBE_BYTES:
            raise StoreUnavailable(f"store {self._url}: what was written can't be read back")

    def close(self) -> None:
        self._runner.close()

    def _run(self, name: str, *arguments: str | bytes | float) -> list[Any]:
        return self._ask(name, *arguments).rest

    def _ask(self, name: str, *arguments: str | bytes | float, until: float = 0.0) -> Answer:
        """Run a script on the store that this process knows; notice if it is another, or older."""
        if self._lost:
            raise StoreUnavailable(self._lost)
        # Other threads ask too: what counts is what was known before this was sent.
        known = f"{self._commits} {self._client} {self._done}"
        script, named = (self._commit_script, ()) if name == "commit" else (self._commands, (name,))
        is_kept, is_shown = name in _KEPT, name in _SHOWN
        answer = self._runner.run(
            script,
            self._id,
            known,
            *named,
            *arguments,
            until=until,
            replicas=self._replicas if is_kept or is_shown else 0,
            is_lenient=is_shown,
        )
        if answer.status in _LOST:
            self._lost = f"store {self._url} {_LOST[answer.status]}; restart every exporter to go on with it"
            raise StoreUnavailable(self._lost)
        # Of a commit that a failover may lose nothing is known, unless somebody has been shown it.
        if is_kept or is_shown or not self._replicas:
            self._commits = max(self._commits, answer.commits)
        self._ahead = answer.micros / MICRO - time.monotonic()
        return answer

    def _prepare(self, work: Callable[[Transaction], T]) -> tuple[T, ValkeyTransaction, Commit]:
        run = self._run
        transaction = ValkeyTransaction(
            read=partial(run, "read"),
            tasks_with_sources=partial(run, "tasks_with_sources"),
            holds=partial(run, "holds"),
            options=self._options,
            bounds=self._bounds,
            clock=self._clock,
        )
        result = work(transaction)
        return result, transaction, transaction.commit()

    def _commit(self, commit: Commit, bodies: Sequence[bytes], until: float) -> str:
        """Commit; return `ok`, or else `conflict` or `late`: then nothing was changed."""
        if not commit.changes_something:
            return "ok"
        self._number += 1
        commit.client, commit.number = self._client, str(self._number)
        # A caller may give up a pause early: what is begun later would count though it was answered 503. The
        # answer that told the server's time was on its way for a while: that errs on the early side, too.
        commit.deadline = round((until - PAUSE_SECONDS + self._ahead) * MICRO)
        status = self._ask("commit", commit.encoded(), *bodies, until=until).status
        if status == "ok":
            # It must not fail any more, so that nothing is read after it.
            self._done = self._number
            self._bounds = self._bounds.plus(commit)
        else:
            self._bounds = self._read_bounds()
        return status

    def _read_bounds(self) -> Bounds:
        label_sets, seen = self._run("bounds")
        return Bounds(
            label_sets={
                tuple(json.loads(text)): int(number)
                for text, number in zip(label_sets[::2], label_sets[1::2], strict=True)
            },
            seen=dict.fromkeys((mark.decode() for mark in seen), 1),
        )


#: What these wrote or saw must be on as many replicas as are waited for. Where too few have it, counters are
#: shown all the same: should they be lost then, that is told, as of a commit.
_KEPT = frozenset({"bounds", "commit", "probe"})
_SHOWN = frozenset({"snapshot"})

_NOT_DONE = {
    "conflict": "other replicas change the same tasks all the time",
    "late": "the server took too long",
}

_LOST = {
    "empty": "has lost all it held",
    "other": "is another one than it was",
    "older": "is older than it was: commits that were answered 200 are lost",
}
