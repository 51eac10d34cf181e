"""The shared store: each operation is one script, which runs atomically on the server.

The process remembers the id of the store and its number of commits. If it finds another store or an older
state, callbacks that were answered 200 are lost. Then it writes nothing and reports this until a restart.
"""

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from exporter.config.store_url import StoreUrl
from exporter.errors import StoreUnavailable, WouldBlock
from exporter.relay import STATES
from exporter.store.protocol import RANKS, PreparedCommit, QuarantinedBody, Snapshot, StoreOptions, T
from exporter.store.transaction import Transaction
from exporter.store.valkey.open import open_or_create, warn_unsafe_settings
from exporter.store.valkey.script_runner import PAUSE_SECONDS, Answer, Script, ScriptRunner
from exporter.store.valkey.snapshot import SnapshotReader
from exporter.store.valkey.transaction import Commit, SeenLabels, ValkeyTransaction

#: About as much as a batch writes.
PROBE_BYTES = 65536
#: How long a commit is tried. The server ignores a later one, because its callback was answered 503.
COMMIT_SECONDS = 4.0
MICRO = 1_000_000


class ValkeyStore:
    """A store on a Valkey or Redis server, shared by any number of processes.

    The methods are documented in `exporter.store.protocol`.

    Args:
        url: the store; it is created if it does not exist.
        clock: returns the time, seconds.
        password: returns the server's current password; None to use the one in the URL.

    Raises:
        StoreError: the server can't be used, or the store has another version or other options.
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
        # The id of this process, and the numbers of its last attempted and its last successful commit.
        self._client = os.urandom(8).hex()
        self._number = self._done = 0
        self._id = ""
        self._commits = 0
        self._lost_error = ""
        # Add this to the monotonic clock to get the server's time.
        self._clock_offset_seconds = 0.0
        self._snapshots = SnapshotReader()
        # A command answers no callback, so it does not wait for server replicas.
        self._replicas = 0 if options.attach_only else url.wait_replicas
        self._runner = ScriptRunner(url, password)
        try:
            self._open()
        except BaseException:
            self._runner.close()
            raise

    def _open(self) -> None:
        meta = open_or_create(self._runner, self._url, self._options, self._clock)
        self._id, self._secret, self._created = meta.id, meta.secret, meta.created
        # A failover may lose commits that no server replica has confirmed: these must not count as known.
        self._commits = 0 if self._replicas else meta.commits
        self._seen = self._read_seen()
        if not self._options.attach_only:
            warn_unsafe_settings(self._runner, self._url)

    @property
    def secret(self) -> bytes:
        return self._secret

    def begin(self, work: Callable[[Transaction], T], *, wait: bool) -> PreparedCommit[T]:
        if not wait:
            raise WouldBlock("the store is on a server")
        prepared = self._prepare(work)

        def commit() -> tuple[T, dict[str, int]]:
            until = time.monotonic() + COMMIT_SECONDS
            result, transaction, changes = prepared
            tries = 0
            while (status := self._commit(changes, transaction.bodies, until)) != "ok":
                tries += 1
                if time.monotonic() > until:
                    raise StoreUnavailable(f"store {self._url}: {_COMMIT_ERRORS[status]}")
                # Random, so that two exporters with a conflict do not repeat it at the same moment.
                time.sleep(random.uniform(0, min(tries, 10) / 1000))  # noqa: S311 - no secret
                result, transaction, changes = self._prepare(work)
            return result, dict(transaction.overflow)

        return PreparedCommit(commit)

    def transact(self, work: Callable[[Transaction], T]) -> tuple[T, dict[str, int]]:
        return self.begin(work, wait=True).commit()

    def due_keys(self, now: float, limit: int) -> list[str]:
        (keys,) = self._run("due_keys", now, limit)
        return [key.decode() for key in keys]

    def snapshot(self, max_tasks: int, states: Sequence[str] = STATES) -> Snapshot:
        ranks = [RANKS[state] for state in states]
        return self._snapshots.read(self._created, states, *self._run("snapshot", max_tasks, *ranks))

    def list_tasks(self, *, state: str | None, after: int, limit: int) -> list[tuple[int, str]]:
        ranks = [RANKS[each] for each in STATES if state in (None, each)]
        (page,) = self._run("list_tasks", after, limit, *ranks)
        return [(int(at), record.decode()) for at, record in zip(page[::2], page[1::2], strict=True)]

    def find_task(self, key: str) -> str | None:
        record, _, has_state = self._run("read_tasks", key)
        return record.decode() if has_state == b"1" else None

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
            raise StoreUnavailable(f"store {self._url} lost a test value after the write; check its log")

    def close(self) -> None:
        self._runner.close()

    def _run(self, name: str, *arguments: str | bytes | float) -> list[Any]:
        return self._ask(name, *arguments).rest

    def _ask(self, name: str, *arguments: str | bytes | float, until: float = 0.0) -> Answer:
        """Run a script on the store; raise StoreUnavailable if it was replaced or has lost commits."""
        if self._lost_error:
            raise StoreUnavailable(self._lost_error)
        # The script compares with these numbers, so read them before it is sent: other threads change them.
        known = f"{self._commits} {self._client} {self._done}"
        script, named = (self._commit_script, ()) if name == "commit" else (self._commands, (name,))
        is_required, is_preferred = name in _REPLICAS_REQUIRED, name in _REPLICAS_PREFERRED
        answer = self._runner.run(
            script,
            self._id,
            known,
            *named,
            *arguments,
            until=until,
            replicas=self._replicas if is_required or is_preferred else 0,
            accepts_fewer_replicas=is_preferred,
        )
        if (what := _LOSSES.get(answer.status)) is not None:
            self._lost_error = f"store {self._url} {what}; restart every exporter to continue with it"
            raise StoreUnavailable(self._lost_error)
        # A failover may lose a commit that no server replica has. So a commit is known only if replicas have
        # confirmed it, or a scrape has shown it: after that, lower counters would look like a reset.
        if is_required or is_preferred or not self._replicas:
            self._commits = max(self._commits, answer.commits)
        self._clock_offset_seconds = answer.micros / MICRO - time.monotonic()
        return answer

    def _prepare(self, work: Callable[[Transaction], T]) -> tuple[T, ValkeyTransaction, Commit]:
        transaction = ValkeyTransaction(self._run, options=self._options, seen=self._seen, clock=self._clock)
        result = work(transaction)
        return result, transaction, transaction.build_commit()

    def _commit(self, commit: Commit, bodies: Sequence[bytes], until: float) -> str:
        """Commit; return `ok`, or `conflict` or `late` if nothing was changed."""
        if not commit.changes_something:
            return "ok"
        self._number += 1
        commit.client, commit.number = self._client, str(self._number)
        # ScriptRunner may stop up to one pause before `until`. A commit that the server runs after that would
        # be counted although it was answered 503. The server's time is older than it seems, by the time that
        # its answer took: so the deadline is too early rather than too late.
        commit.deadline = round((until - PAUSE_SECONDS + self._clock_offset_seconds) * MICRO)
        status = self._ask("commit", commit.encoded(), *bodies, until=until).status
        if status == "ok":
            # Do not read from the server here: that may fail, but the commit is done.
            self._done = self._number
            self._seen = self._seen.plus(commit)
        else:
            # Another exporter may have added label sets.
            self._seen = self._read_seen()
        return status

    def _read_seen(self) -> SeenLabels:
        label_sets, values = self._run("seen_labels")
        return SeenLabels(
            label_sets={
                tuple(json.loads(text)): int(number)
                for text, number in zip(label_sets[::2], label_sets[1::2], strict=True)
            },
            values=dict.fromkeys((value.decode() for value in values), 1),
        )


#: Commands that fail if too few server replicas confirm them.
_REPLICAS_REQUIRED = frozenset({"seen_labels", "commit", "probe"})
#: Commands that wait for server replicas, but answer also if too few confirm: counters are still shown. If a
#: failover loses them afterwards, that is reported as for a lost commit.
_REPLICAS_PREFERRED = frozenset({"snapshot"})

_COMMIT_ERRORS = {
    "conflict": "other exporters kept changing the same tasks. The exporter retries",
    "late": "the server took too long; check its load. The exporter retries",
}

#: What is wrong with the store, by the status of `check_store` in common.lua.
_LOSSES = {
    "empty": "has lost all its data",
    "other": "was replaced by another store",
    "older": "has lost commits: callbacks that were answered 200 are lost",
}
