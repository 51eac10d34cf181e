"""The exceptions of this program, and the fixed list of reasons to reject a callback."""

from msgspec import Struct

#: Every reason to reject a callback. Each is a label value, a log field and a part of the answer.
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
    """The root of all errors of this program."""


class SettingsError(ExporterError):
    """An unknown or malformed flag, environment variable or file. The text names it and what is valid."""


class StoreError(ExporterError):
    """A store that can't be used as it is. The text states what to do."""


class StoreUnavailable(StoreError):  # noqa: N818 - like the reason `unavailable`
    """A store that does not answer now. If the answer to a commit was lost, the commit may have been made."""


class WouldBlock(StoreError):  # noqa: N818 - like BlockingIOError in other libraries
    """An operation that would have to wait for another process or the network. Nothing was done."""


class Fault(Struct, frozen=True):
    """One fault of a callback: its place, as a JSON pointer, and what was expected there."""

    pointer: str
    message: str


class CallbackError(ExporterError):
    """A callback that is rejected.

    Args:
        status: HTTP status of the answer.
        reason: one of REASONS.
        faults: the faults, which the sender gets in the answer.
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
