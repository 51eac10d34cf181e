"""The parsed callback, as a frozen value without secrets."""

from msgspec import Struct

from exporter.protocol.events import EventKind


class Callback(Struct, frozen=True, gc=False, kw_only=True):
    """A valid relay callback, without its secrets.

    Args:
        kind: the event that it reports.
        appid, task_id: the task; `task_id` is empty if the callback has none.
        stream_id, to_url, to_host, source_host: redacted; empty if unknown.
        sources: one digest of all source URLs, equal for equal sources; empty if there are none.
        event_time_seconds: the field `event_time` in whole seconds, None if absent.
        stated_ms: the time in `msg`, in milliseconds; None if absent or 0.
        subject: a file's index or digest, an exit code or an alarm's type.
        duration_seconds: the declared duration of a file; 0 if unknown.
        message: the message of an exit, redacted.
        unknown_fields: names of the fields that the schema does not list.
    """

    kind: EventKind
    appid: int
    task_id: str = ""
    stream_id: str = ""
    to_url: str = ""
    to_host: str = ""
    source_host: str = ""
    sources: str = ""
    event_time_seconds: int | None = None
    stated_ms: int | None = None
    subject: str = ""
    duration_seconds: float = 0.0
    message: str = ""
    unknown_fields: tuple[str, ...] = ()


class Ignored(Struct, frozen=True, gc=False):
    """A callback of another product, or of an unknown event: answered 200 and counted, but not applied.

    Args:
        is_quarantined: whether its body is kept in the quarantine.
    """

    is_quarantined: bool
