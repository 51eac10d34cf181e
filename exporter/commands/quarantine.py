"""The command `quarantine`: lists, shows, replays and deletes the bodies in the quarantine."""

import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from operator import methodcaller
from typing import Any

from exporter.app import open_store
from exporter.commands import PAGE_SIZE, Commands, load_settings, print_row, printable, utc_text
from exporter.errors import CallbackError, ExporterError, SettingsError
from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.metrics.catalogue import QUARANTINE_REASONS
from exporter.protocol.callback import Callback, Ignored
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor, redacted_json
from exporter.protocol.schemas import Schemas
from exporter.store.protocol import QuarantinedBody, Store

#: Characters of a digest in a list: enough to select a body.
SHOWN_CHARACTERS = 12
#: Outcomes of a replay in addition to those of a callback.
STILL_INVALID, NOT_FOUND = "still_invalid", "not_found"
STALE = (
    "stale: these callbacks are older than --relay.retry-window and not newer than the newest callback of "
    "their task. They may be redeliveries of callbacks that were counted, so they were counted as stale only."
)


class Quarantine:
    """The quarantine of an open store, as the commands use it.

    Args:
        parser: validates bodies with the current schemas.
        redactor: removes secrets from bodies that are shown.
        applier: applies callbacks to the store.
        clock: returns UNIX time, seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        parser: Parser,
        redactor: Redactor,
        applier: BatchApplier,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.redactor = redactor
        self._parser = parser
        self._applier = applier
        self._clock = clock

    def bodies(self, reason: str | None = None) -> Iterator[QuarantinedBody]:
        """Yield the bodies that are in the quarantine now, or those with one reason."""
        # Without the limit in time, a replay would not end while new bodies arrive as fast as it reads.
        began, after = self._clock(), None
        while page := self.store.bodies(limit=PAGE_SIZE, reason=reason, after=after):
            yield from (body for body in page if body.first <= began)
            after = page[-1]

    def body(self, prefix: str) -> QuarantinedBody:
        """Return the only body whose digest begins with `prefix`; ExporterError if none or several do."""
        found = self.store.bodies(limit=2, prefix=prefix.lower()) if prefix else []
        if len(found) != 1:
            problem = "more than one digest begins" if found else "no digest begins"
            raise ExporterError(f"{problem} with {printable(prefix)}; run `quarantine list` for the digests")
        return found[0]

    def validate(self, body: QuarantinedBody) -> tuple[Callback | Ignored | None, str]:
        """Return the callback in a body and an empty text; or None and what is still invalid."""
        try:
            callback = self._parser.parse(body.body)
        except CallbackError as error:
            return None, "; ".join(f"{fault.pointer} {fault.message}".strip() for fault in error.faults)
        # Replaying an event that is still unknown would delete its body for nothing.
        if isinstance(callback, Ignored) and callback.is_quarantined:
            return None, "its event is still unknown"
        return callback, ""

    def replay(self, body: QuarantinedBody) -> tuple[str, str]:
        """Count a body as of its first arrival and delete it from the quarantine, if it is valid now.

        One transaction does both, so that a body is counted once, however often and by however many processes
        it is replayed.

        Returns:
            The outcome: one of `catalogue.OUTCOMES`, STILL_INVALID, or NOT_FOUND if another process replayed
            or deleted the body first. And what is still invalid, else an empty text.

        Raises:
            StoreUnavailable: the store does not answer; the body stays in the quarantine.
        """
        callback, problem = self.validate(body)
        if callback is None:
            return STILL_INVALID, problem
        # With its first arrival: later arrivals of the same body are redeliveries.
        item = BatchItem(body.first, callback, replayed_at=self._clock())
        outcome, _ = self.store.transact(partial(self._applier.replay, body.digest, item))
        return outcome or NOT_FOUND, ""


@contextmanager
def _open_quarantine(args: Namespace) -> Iterator[Quarantine]:
    settings = load_settings(args)
    applier = BatchApplier(settings.fold_settings, settings.metrics_labels)
    # attach_only: with other fold settings than the exporter's, a replay would count differently.
    with closing(open_store(settings, attach_only=True)) as store:
        redactor = Redactor(key=store.secret, plain_hosts=settings.redact_plain_hosts)
        parser = Parser(schemas=Schemas(), redactor=redactor)
        yield Quarantine(store, parser=parser, redactor=redactor, applier=applier)


def list_bodies(args: Namespace) -> int:
    """Print the bodies, or those with one reason, and whether each is valid now; return the exit status."""
    with _open_quarantine(args) as quarantine:
        print_row("DIGEST", "REASON", "COUNT", "FIRST", "LAST", "BYTES", "SOURCE", "RESULT")
        for body in quarantine.bodies(args.reason):
            digest, first, last = body.digest[:SHOWN_CHARACTERS], utc_text(body.first), utc_text(body.last)
            result = quarantine.validate(body)[1] or "valid now"
            print_row(digest, body.reason, body.count, first, last, len(body.body), body.source, result)
    return 0


def show_body(args: Namespace) -> int:
    """Print a body without its secrets, or write its bytes as received; return the exit status."""
    with _open_quarantine(args) as quarantine:
        body = quarantine.body(args.digest)
        if not args.raw:
            _show(quarantine, body)
        elif sys.stdout.isatty():
            raise ExporterError(
                "a raw body may hold push keys and control characters; redirect the output to a file"
            )
        else:
            sys.stdout.buffer.write(body.body)
            sys.stdout.flush()
    return 0


def _show(quarantine: Quarantine, body: QuarantinedBody) -> None:
    facts = {
        "digest": body.digest,
        "reason": body.reason,
        "result": quarantine.validate(body)[1] or "valid now",
        "received": f"count {body.count}, first {utc_text(body.first)}, last {utc_text(body.last)}",
        "last source": body.source,
        "bytes": len(body.body),
    }
    for name, fact in facts.items():
        print(printable(f"{name}: {fact}"))
    print()
    text = redacted_json(body.body, quarantine.redactor)
    if text is None:
        print("Not JSON. It is not shown, because it may hold a secret. Use `--raw > FILE` to get its bytes.")
    for line in (text or "").splitlines():
        print(printable(line))


def replay_bodies(args: Namespace) -> int:
    """Replay bodies; return the exit status, 1 if all of them stay in the quarantine."""
    outcomes: Counter[str] = Counter()
    with _selected(args) as (quarantine, bodies):
        for body in bodies:
            outcome, problem = quarantine.replay(body)
            outcomes[outcome] += 1
            print_row(body.digest[:SHOWN_CHARACTERS], outcome, problem)
    print(", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) or "no bodies")
    if "stale" in outcomes:
        print(STALE)
    return 1 if outcomes.keys() == {STILL_INVALID} else 0


def purge_bodies(args: Namespace) -> int:
    """Delete bodies; return the exit status."""
    purged = 0
    with _selected(args) as (quarantine, bodies):
        for body in bodies:
            # 0 if another process has deleted the body meanwhile.
            purged += quarantine.store.transact(methodcaller("delete_body", body.digest))[0]
    print(f"{purged} purged")
    return 0


@contextmanager
def _selected(args: Namespace) -> Iterator[tuple[Quarantine, Iterable[QuarantinedBody]]]:
    """Yield the open quarantine and the bodies that the arguments select."""
    if (args.digest is None) == (args.all is None):
        raise SettingsError("expected either a DIGEST or --all [REASON]")
    with _open_quarantine(args) as quarantine:
        bodies = quarantine.bodies(None if args.all is True else args.all)
        # Bodies are read while the command works, not all together, to limit the memory.
        yield quarantine, bodies if args.digest is None else [quarantine.body(args.digest)]


def add_commands(commands: Commands) -> None:
    """Add `quarantine`."""
    group = commands.group("quarantine", "Inspect, replay or delete rejected callbacks.")
    reason: dict[str, Any] = {"metavar": "REASON", "nargs": "?", "choices": QUARANTINE_REASONS}
    listing = group.add("list", list_bodies, "List rejected callbacks and unknown events.", "[REASON]")
    listing.add_argument("reason", help="only this reason: " + ", ".join(QUARANTINE_REASONS), **reason)
    show = group.add("show", show_body, "Show a body without secrets, or as received.", "DIGEST [--raw]")
    show.add_argument("digest", metavar="DIGEST", help="first characters of the digest")
    show.add_argument("--raw", action="store_true", help="write the bytes as received")
    for name, run, text in (
        ("replay", replay_bodies, "Apply bodies that are valid now, as of their arrival."),
        ("purge", purge_bodies, "Delete bodies from the quarantine."),
    ):
        command = group.add(name, run, text, "DIGEST | --all [REASON]")
        command.add_argument("digest", metavar="DIGEST", nargs="?", help="first characters of the digest")
        command.add_argument("--all", const=True, help="all bodies, or all bodies with this reason", **reason)
