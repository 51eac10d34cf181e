"""What can go wrong, as values: one root exception, and the fixed list of reasons to refuse a callback."""

from msgspec import Struct

#: Every reason to refuse a callback: label value, log field and part of the answer at once.
REASONS = (
    "json",
    "schema",
    "signature",
    "address",
    "token",
    "too_large",
    "encoding",
    "length",
    "method",
    "rate",
    "unavailable",
)


class ExporterError(Exception):
    """The root of all errors of this program; its text tells an operator what to do."""


class SettingsError(ExporterError):
    """A flag or environment variable is unknown or malformed; the text names it."""


class StoreError(ExporterError):
    """The store can't be used as it is; the text says how to go on."""


class StoreUnavailable(StoreError):  # noqa: N818 - named for what it tells the sender
    """The store does not answer now: nothing was written, try again."""


class WouldBlock(StoreError):  # noqa: N818
    """The store can't do it without waiting for another process or a network: nothing was done."""


class Fault(Struct, frozen=True):
    """One thing that is wrong with a callback: where (a JSON pointer) and what was expected there."""

    pointer: str
    message: str


class CallbackError(ExporterError):
    """A callback is refused.

    Args:
        status: the HTTP status of the answer.
        reason: one of REASONS.
        faults: what is wrong, for the sender.
        headers: further headers of the answer, such as Allow or Retry-After.
    """

    def __init__(
        self, status: int, reason: str, faults: tuple[Fault, ...] = (), headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {reason}: " + "; ".join(f.message for f in faults))
        self.status = status
        self.reason = reason
        self.faults = faults
        self.headers = headers or {}
