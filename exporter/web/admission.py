"""Who gets as far as being read: looked at before anything else of a request, cheapest first."""

import math
import time
from collections.abc import Callable, Sequence

from exporter.access import Rate, Source, knows_token
from exporter.errors import Fault, Rejected

PATH = "/callbacks"


class Admission:
    """Lets in whom it should, and knows where they come from.

    Args:
        source: finds addresses, and says which may send.
        rate: how often each may, None for as often as it likes.
        tokens: gives the secrets that the path must end with, None for a path without.
        clock: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        *,
        source: Source,
        rate: Rate | None = None,
        tokens: Callable[[], Sequence[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._rate = rate
        self._tokens = tokens
        self._clock = clock

    def source_of(self, peer: str, forwarded: str | None) -> str:
        """Return the address that a request comes from, as `Source.of` does."""
        return self._source.of(peer, forwarded)

    def admit(self, source: str, path: str) -> None:
        """Let a request in.

        Args:
            source: the address it comes from.
            path: what it asks for.

        Raises:
            Rejected: the address may not send, or asks too often, or there is nothing at that path; a wrong
                token looks like any other path.
        """
        if not self._source.may_send(source):
            raise Rejected(403, "address", (Fault("", "this address may not send"),))
        if self._rate is not None and (wait := self._rate.wait(source, self._clock())):
            raise Rejected(429, "rate", (Fault("", "too many"),), {"Retry-After": str(math.ceil(wait))})
        if not self._leads_here(path):
            raise Rejected(404, "token", (Fault("", "there is nothing here"),))

    def _leads_here(self, path: str) -> bool:
        if self._tokens is None:
            return path == PATH
        return knows_token(path.removeprefix(PATH + "/"), self._tokens()) and path.startswith(PATH + "/")
