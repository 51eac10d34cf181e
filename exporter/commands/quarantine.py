"""`quarantine`: look at bodies that were refused, take them again, give them up."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from exporter.batch import BatchFolder
from exporter.callback import Parser
from exporter.catalogue import QUARANTINE_REASONS
from exporter.commands import PAGE, Words, confused, is_terminal, moment, plain, row
from exporter.errors import ExporterError
from exporter.quarantine import STAYS, Replay
from exporter.redact import Redactor, redacted_json
from exporter.schemas import Schemas
from exporter.service import open_store
from exporter.settings import Settings
from exporter.store import Held, Store

SHOWN_CHARACTERS = 12
USAGE = (
    "quarantine list [REASON], quarantine show DIGEST [--raw], "
    "or quarantine replay|purge DIGEST|--all [REASON], with a REASON of " + ", ".join(QUARANTINE_REASONS)
)
STALE = (
    "stale: they came longer ago than --relay.retry-window and are not newer than what is known of their "
    "task; they can't be told from redeliveries that were counted, and count as stale alone"
)


class _Desk:
    """What the commands work with."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.redactor = Redactor(key=store.secret, plain_hosts=settings.redact_plain_hosts)
        self.replay = Replay(
            store=store,
            parser=Parser(schemas=Schemas(), redactor=self.redactor),
            folder=BatchFolder(settings.windows, settings.metrics_labels),
            clock=time.time,
        )

    def all(self, reason: str | None = None) -> Iterator[Held]:
        """Yield every body, of a reason if given, that came before now."""
        began, after = time.time(), None
        while page := self.store.bodies(limit=PAGE, reason=reason, after=after):
            yield from (held for held in page if held.first <= began)
            after = page[-1]

    def one(self, prefix: str) -> Held:
        """Return the body whose digest begins with `prefix`.

        Raises:
            ExporterError: there is none, or more than one.
        """
        found = self.store.bodies(limit=2, prefix=prefix.lower()) if prefix else []
        if len(found) != 1:
            what = "more than one digest begins" if found else "no digest begins"
            raise ExporterError(f"{what} with {plain(prefix)}: `quarantine list` shows them")
        return found[0]


def quarantine(words: list[str]) -> int:
    """Run `quarantine` with these words; return its status."""
    given = Words(words, "--all", "--raw")
    work = _work(given.leading, sorted(given.switches))
    settings = given.settings()
    with closing(open_store(settings, as_guest=True)) as store:
        return work(_Desk(store, settings))


def _work(leading: list[str], switches: list[str]) -> Callable[[_Desk], int]:
    """Return what the words ask for."""
    match leading, switches:
        case ["list", *reasons], [] if _is_reason(reasons):
            return lambda desk: _list(desk, desk.all(*reasons))
        case ["show", digest], []:
            return lambda desk: _show(desk, desk.one(digest))
        case ["show", digest], ["--raw"]:
            return lambda desk: _show_raw(desk.one(digest))
        case ["replay" | "purge" as action, digest], []:
            return lambda desk: _ACTIONS[action](desk, [desk.one(digest)])
        case ["replay" | "purge" as action, *reasons], ["--all"] if _is_reason(reasons):
            return lambda desk: _ACTIONS[action](desk, desk.all(*reasons))
    raise confused(USAGE)


def _is_reason(words: list[str]) -> bool:
    return not words or (len(words) == 1 and words[0] in QUARANTINE_REASONS)


def _list(desk: _Desk, bodies: Iterable[Held]) -> int:
    row("DIGEST", "REASON", "COUNT", "FIRST", "LAST", "BYTES", "SOURCE", "TODAY")
    for held in bodies:
        row(
            held.digest[:SHOWN_CHARACTERS],
            held.reason,
            held.count,
            moment(held.first),
            moment(held.last),
            len(held.body),
            held.source,
            desk.replay.look(held)[1] or "valid",
        )
    return 0


def _show(desk: _Desk, held: Held) -> int:
    facts = {
        "digest": held.digest,
        "reason": held.reason,
        "today": desk.replay.look(held)[1] or "valid",
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
    return 0


def _show_raw(held: Held) -> int:
    if is_terminal():
        raise ExporterError(
            "a raw body may hold push keys and move the terminal's cursor: write it to a file"
        )
    sys.stdout.buffer.write(held.body)
    sys.stdout.flush()
    return 0


def _replay(desk: _Desk, bodies: Iterable[Held]) -> int:
    """Take bodies again; return 1 if all of them stay."""
    outcomes: Counter[str] = Counter()
    for held in bodies:
        replayed = desk.replay.take(held)
        outcomes[replayed.outcome] += 1
        row(held.digest[:SHOWN_CHARACTERS], replayed.outcome, replayed.why)
    print(", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) or "nothing there")
    if "stale" in outcomes:
        print(STALE)
    return 1 if outcomes.keys() == {STAYS} else 0


def _purge(desk: _Desk, bodies: Iterable[Held]) -> int:
    purged = 0
    for held in bodies:
        purged += desk.store.transact(lambda step, digest=held.digest: step.release(digest))[0]  # type: ignore[misc]
    print(f"{purged} purged")
    return 0


_ACTIONS: dict[str, Callable[[_Desk, Iterable[Held]], int]] = {"replay": _replay, "purge": _purge}
