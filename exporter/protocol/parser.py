"""The parser: decodes the bytes of a callback, validates them against the schema and redacts secrets.

The result is a frozen value. The modules that receive it read no dictionaries and see no secrets.
Pure: no clock, no I/O.
"""

from collections.abc import Callable
from typing import Any, assert_never

import orjson

from exporter.errors import CallbackError, Fault
from exporter.protocol.callback import Callback, Ignored
from exporter.protocol.events import EventKind, Subject
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schema, Schemas

RELAY_EVENT_TYPE = 314
#: Maximum length of the message of an exit, because it is stored with the task.
MAX_MESSAGE = 200


class Parser:
    """Parses the bytes of callbacks.

    Args:
        redactor: removes secrets from URLs and messages.
        authenticate: checks the decoded body before it is validated; raises CallbackError to reject it. None
            if callbacks have no signatures to check.
    """

    def __init__(
        self,
        *,
        schemas: Schemas,
        redactor: Redactor,
        authenticate: Callable[[object], None] | None = None,
    ) -> None:
        self._envelope = schemas.envelope
        # By name, so that an event is looked up once and gives both its kind and its schema.
        self._events = {kind.callback_event: (kind, schema) for kind, schema in schemas.events.items()}
        self._redactor = redactor
        self._authenticate = authenticate

    def parse(self, raw: bytes) -> Callback | Ignored:
        """Return the callback in `raw`.

        Raises:
            CallbackError: 400 with reason `json` or `schema`, and for each error its place and what was
                expected there; or the error that `authenticate` raises.
        """
        body = _loads(raw, "")
        if self._authenticate is not None:
            self._authenticate(body)
        if not isinstance(body, dict):
            raise CallbackError(400, "schema", (Fault("", "expected an object"),))
        # Checked before the schema: another product's callback is answered 200, whatever its fields are. Not
        # by isinstance: True is an int, and must reach the schema, which rejects it.
        event_type = body.get("event_type")
        if type(event_type) is int and event_type != RELAY_EVENT_TYPE:
            return Ignored(is_quarantined=False)
        _unpack(body)
        kind, schema = self._events.get(_text(body.get("callback_event")), (None, self._envelope))
        if not schema.is_valid(body):
            raise CallbackError(400, "schema", schema.explain(body))
        if kind is None:
            # Kept for inspection: the service may have introduced a new event.
            return Ignored(is_quarantined=True)
        return self._callback(kind, schema, body)

    def _callback(self, kind: EventKind, schema: Schema, body: dict[str, Any]) -> Callback:
        msg: dict[str, Any] = body.get("msg") or {}
        to_url, to_host, stream_id = self._redactor.destination(
            body.get("to_url") or "", body.get("stream_id") or ""
        )
        urls, file_url = body.get("source_urls"), msg.get("url")
        source_host = sources = ""
        if urls:
            source_host, sources = self._redactor.sources(urls)
        elif isinstance(file_url, str):  # the URL of the file still shows the source host
            source_host, _ = self._redactor.sources([file_url])
        # Almost every callback has known fields only.
        is_known = body.keys() <= schema.fields and msg.keys() <= schema.msg_fields
        return Callback(
            kind=kind,
            appid=int(body["appid"] if "appid" in body else body["appId"]),
            task_id=_text(body.get("task_id")),
            stream_id=stream_id,
            to_url=to_url,
            to_host=to_host,
            source_host=source_host,
            sources=sources,
            event_time_seconds=_known_number(body.get("event_time")),
            stated_ms=_known_number(msg.get(kind.time_field)) if kind.time_field else None,
            subject=self._subject(kind, msg),
            duration_seconds=float(msg.get("duration") or 0) if kind.subject is Subject.FILE else 0.0,
            message=self._message(body, msg) if kind.subject is Subject.EXIT_CODE else "",
            unknown_fields=() if is_known else _unknown(body, msg, schema),
        )

    def _message(self, body: dict[str, Any], msg: dict[str, Any]) -> str:
        text: str = msg.get("message") or ""
        # The message may quote the destination, so its push key must be hidden in the text too.
        return self._redactor.message(text, body.get("to_url") or "")[:MAX_MESSAGE] if text else ""

    def _subject(self, kind: EventKind, msg: dict[str, Any]) -> str:
        match kind.subject:
            case Subject.NOTHING:
                return ""
            case Subject.FILE:
                index = msg.get("index")  # may be 0, the first file
                return self._redactor.sources([msg["url"]])[1] if index is None else str(int(index))
            case Subject.EXIT_CODE:
                return _code(msg.get("code"))
            case Subject.TEXT:
                return next((msg[field] for field in kind.text_fields if msg.get(field)), "")
            case unreachable:
                assert_never(unreachable)


def _loads(raw: bytes | str, pointer: str) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise CallbackError(
            400, "json", (Fault(pointer, f"expected JSON: {exc.msg} at character {exc.pos}"),)
        ) from exc


def _unpack(body: dict[str, Any]) -> None:
    """Replace the JSON strings in `msg` and `source_urls` with their decoded values."""
    msg = body.get("msg")
    if isinstance(msg, str):
        body["msg"] = _loads(msg, "/msg") if msg.strip() else {}
    sources = body.get("source_urls")
    if isinstance(sources, str):
        text = sources.strip()  # the service ends the array with a newline
        if text.startswith("["):
            body["source_urls"] = _loads(text, "/source_urls")
        else:
            body["source_urls"] = [text] if text else []


def _unknown(body: dict[str, Any], msg: dict[str, Any], schema: Schema) -> tuple[str, ...]:
    outer = body.keys() - schema.fields
    inner = msg.keys() - schema.msg_fields
    return (*sorted(outer), *(f"msg.{name}" for name in sorted(inner)))


def _text(value: object) -> str:
    """Return a string or a whole number as text; 7.0 becomes "7", because JSON does not separate the two."""
    if isinstance(value, float):
        value = int(value)
    return str(value) if isinstance(value, str | int) else ""


def _code(value: object) -> str:
    """Return an exit code in its canonical form: -22, "-22", "-022" and -22.0 are the same code."""
    text = _text(value)
    digits = text.removeprefix("-")
    return str(int(text)) if digits.isascii() and digits.isdigit() else text


def _known_number(value: object) -> int | None:
    # 0 and an empty string mean unknown, for the field `event_time` and for the times in msg.
    number = int(value) if isinstance(value, int | float) or (isinstance(value, str) and value) else 0
    return number or None
