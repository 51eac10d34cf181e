"""What a callback says, as a value: frozen, and without its secrets."""

from msgspec import Struct

from exporter.protocol.events import EventKind


class Callback(Struct, frozen=True, gc=False, kw_only=True):
    """A valid relay callback, without its secrets.

    Args:
        kind: its event.
        appid, task_id: the task; `task_id` is empty where the callback names none.
        stream_id, to_url, to_host, source_host: what may be shown; empty where unknown.
        sources: a digest that is equal for equal sources, empty where there are none.
        event_time_seconds: `event_time`, whole seconds, None where absent.
        stated_ms: the msg's own time in milliseconds, None where absent or 0.
        subject: what the event is about: a file's identity, an exit code or an alarm's type.
        duration_seconds: the declared length of a file, 0 where unknown.
        message: what an exit says of itself, as far as it may be shown.
        unknown_fields: names of fields that the schema does not know.
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
    """A callback that is none of ours: another product's, or an event that is not known.

    Args:
        keep: whether it belongs in the quarantine, for a look.
    """

    keep: bool
