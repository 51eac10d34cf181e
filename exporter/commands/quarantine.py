"""`quarantine`: look at bodies that were refused, take them again, give them up."""

import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from operator import methodcaller
from typing import Any

from exporter.app import open_store
from exporter.commands import PAGE, Commands, configured, is_terminal, moment, plain, row
from exporter.config.settings import Settings
from exporter.errors import ExporterError, SettingsError
from exporter.ingest.batch import BatchFolder
from exporter.ingest.replay import STILL_INVALID, Replayer
from exporter.metrics.catalogue import QUARANTINE_REASONS
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor, redacted_json
from exporter.protocol.schemas import Schemas
from exporter.store.protocol import QuarantinedBody, Store

SHOWN_CHARACTERS = 12
STALE = (
    "stale: they came longer ago than --relay.retry-window and are not newer than what is known of their "
    "task; they can't be told from redeliveries that were counted, and count as stale alone"
)


class _Desk:
    """What the commands work with."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.redactor = Redactor(key=store.secret, plain_hosts=settings.redact_plain_hosts)
        self.replayer = Replayer(
            store=store,
            parser=Parser(schemas=Schemas(), redactor=self.redactor),
            folder=BatchFolder(settings.fold_settings, settings.metrics_labels),
            clock=time.time,
        )

    def all(self, reason: str | None = None) -> Iterator[QuarantinedBody]:
        """Yield every body, of a reason if given, that came before now."""
        began, after = time.time(), None
        while page := self.store.bodies(limit=PAGE, reason=reason, after=after):
            yield from (held for held in page if held.first <= began)
            after = page[-1]

    def one(self, prefix: str) -> QuarantinedBody:
        """Return the body whose digest begins with `prefix`.

        Raises:
            ExporterError: there is none, or more than one.
        """
        found = self.store.bodies(limit=2, prefix=prefix.lower()) if prefix else []
        if len(found) != 1:
            what = "more than one digest begins" if found else "no digest begins"
            raise ExporterError(f"{what} with {plain(prefix)}: `quarantine list` shows them")
        return found[0]


@contextmanager
def _desk(given: Namespace) -> Iterator[_Desk]:
    settings = configured(given)
    with closing(open_store(settings, as_guest=True)) as store:
        yield _Desk(store, settings)


def list_bodies(given: Namespace) -> int:
    """Print the bodies, those of a reason if given, with what is wrong with them today."""
    with _desk(given) as desk:
        row("DIGEST", "REASON", "COUNT", "FIRST", "LAST", "BYTES", "SOURCE", "TODAY")
        for held in desk.all(given.reason):
            row(
                held.digest[:SHOWN_CHARACTERS],
                held.reason,
                held.count,
                moment(held.first),
                moment(held.last),
                len(held.body),
                held.source,
                desk.replayer.validate(held)[1] or "valid",
            )
    return 0


def show_body(given: Namespace) -> int:
    """Print a body without its secrets, or write it as it came."""
    with _desk(given) as desk:
        held = desk.one(given.digest)
        if given.raw:
            _write_raw(held)
        else:
            _show(desk, held)
    return 0


def _show(desk: _Desk, held: QuarantinedBody) -> None:
    facts = {
        "digest": held.digest,
        "reason": held.reason,
        "today": desk.replayer.validate(held)[1] or "valid",
        "came": f"{held.count} times, {moment(held.first)} to {moment(held.last)}, last from {held.source}",
        "bytes": len(held.body),
    }
    for name, fact in facts.items():
        print(plain(f"{name}: {fact}"))
    text = redacted_json(held.body, desk.redactor)
    print()
    if text is None:
        print("Not JSON: a secret may stand anywhere in it. `--raw > FILE` writes it as it came.")
    for line in (text or "").splitlines():
        print(plain(line))


def _write_raw(held: QuarantinedBody) -> None:
    if is_terminal():
        raise ExporterError(
            "a raw body may hold push keys and move the terminal's cursor: write it to a file"
        )
    sys.stdout.buffer.write(held.body)
    sys.stdout.flush()


def replay_bodies(given: Namespace) -> int:
    """Take bodies again; return 1 if all of them stay."""
    outcomes: Counter[str] = Counter()
    with _chosen(given) as (desk, bodies):
        for held in bodies:
            replayed = desk.replayer.replay(held)
            outcomes[replayed.outcome] += 1
            row(held.digest[:SHOWN_CHARACTERS], replayed.outcome, replayed.problem)
    print(", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) or "nothing there")
    if "stale" in outcomes:
        print(STALE)
    return 1 if outcomes.keys() == {STILL_INVALID} else 0


def purge_bodies(given: Namespace) -> int:
    """Delete bodies."""
    purged = 0
    with _chosen(given) as (desk, bodies):
        for held in bodies:
            purged += desk.store.transact(methodcaller("release", held.digest))[0]
    print(f"{purged} purged")
    return 0


@contextmanager
def _chosen(given: Namespace) -> Iterator[tuple[_Desk, Iterable[QuarantinedBody]]]:
    """Yield with the desk the body of a digest, or all of them, or all of a reason."""
    if (given.digest is None) == (given.all is None):
        raise SettingsError("expected either a DIGEST or --all [REASON]")
    with _desk(given) as desk:
        every = desk.all(None if given.all is True else given.all)
        yield desk, every if given.digest is None else [desk.one(given.digest)]


def add_commands(commands: Commands) -> None:
    """Add `quarantine`."""
    group = commands.group("quarantine", "Look at refused bodies, replay them, purge them.")
    reason: dict[str, Any] = {"metavar": "REASON", "nargs": "?", "choices": QUARANTINE_REASONS}
    listing = group.add("list", list_bodies, "List refused bodies and unknown events.", "[REASON]")
    listing.add_argument("reason", help="only those of " + ", ".join(QUARANTINE_REASONS), **reason)
    show = group.add("show", show_body, "Show one without its secrets, or as it came.", "DIGEST [--raw]")
    show.add_argument("digest", metavar="DIGEST", help="beginning of its digest")
    show.add_argument("--raw", action="store_true", help="write it as it came")
    for name, run, text in (
        ("replay", replay_bodies, "Count bodies that are valid today, at the time they first came."),
        ("purge", purge_bodies, "Delete bodies."),
    ):
        command = group.add(name, run, text, "DIGEST | --all [REASON]")
        command.add_argument("digest", metavar="DIGEST", nargs="?", help="beginning of the digest of one")
        command.add_argument("--all", const=True, help="all of them, or all of a reason", **reason)
