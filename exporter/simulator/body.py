"""The bytes of a callback, as the service would send them."""

import hashlib
import json
from typing import Any

from msgspec import Struct

from exporter.protocol.events import EventKind, Subject
from exporter.simulator.fleet import FAILURES, Event, Relay

EVENT_TYPE = 314
SIGNED_SECONDS = 600
UNKNOWN_EVENT = "TaskRebalanced"


class Writer(Struct, frozen=True):
    """Writes callbacks.

    Args:
        base: UNIX time at which the simulation began, seconds.
        key: what callbacks are signed with, if they are.
    """

    base: float
    key: str = ""

    def body(self, relay: Relay, event: Event, *, named: bool = True, signed: bool = True) -> bytes:
        """Return the callback of an event; an unnamed one says no task, stream or destination."""
        at = self.base + event.at
        fields = self._envelope(relay, event.kind.callback_event, at)
        fields["msg"] = json.dumps(_details(relay, event, int(at * 1000) if relay.timed else 0))
        if named:
            fields |= {"task_id": relay.task_id, "stream_id": relay.stream_id, "to_url": relay.to_url}
        return self._finished(fields, at, signed=signed)

    def unknown(self, relay: Relay, at: float, number: int) -> bytes:
        """Return a callback of an event that nobody knows, unlike any other."""
        fields = self._envelope(relay, UNKNOWN_EVENT, self.base + at)
        return self._finished(fields | {"msg": json.dumps({"number": number})}, self.base + at, signed=True)

    def malformed(self, relay: Relay, at: float, number: int) -> bytes:
        """Return a callback that breaks its schema, unlike any other."""
        fields = self._envelope(relay, EventKind.START.callback_event, self.base + at)
        broken = {"msg": json.dumps({"task_start_time": f"never-{number}"}), "task_id": relay.task_id}
        return self._finished(fields | broken, self.base + at, signed=True)

    def _envelope(self, relay: Relay, name: str, at: float) -> dict[str, Any]:
        fields = {
            "appid": relay.appid,
            "callback_event": name,
            "event_type": EVENT_TYPE,
            "interface": "general_callback",
            "product_name": "pullpush",
            "source_urls": json.dumps(relay.sources) + "\n",
        }
        return fields | ({"event_time": str(int(at))} if relay.timed else {})

    def _finished(self, fields: dict[str, Any], at: float, *, signed: bool) -> bytes:
        if self.key and signed:
            ends = int(at) + SIGNED_SECONDS
            sign = hashlib.md5(f"{self.key}{ends}".encode(), usedforsecurity=False).hexdigest()
            fields |= {"t": ends, "sign": sign}
        return json.dumps(fields).encode()


def _details(relay: Relay, event: Event, ms: int) -> dict[str, Any]:
    kind = event.kind
    own_time = {kind.time_field: ms} if kind.time_field else {}
    return own_time | _subject(relay, event)


def _subject(relay: Relay, event: Event) -> dict[str, Any]:
    number = str if relay.wordy else int
    match event.kind.subject:
        case Subject.NOTHING:
            return {}
        case Subject.FILE:
            url = f"https://cdn.example.com/{relay.task_id}/{event.file}.mp4?token=0123456789abcdef"
            return {"url": url, "index": number(event.file), "duration": relay.files[event.file]}
        case Subject.EXIT_CODE:
            return {"code": number(event.code), "message": FAILURES.get(event.code, "task stopped.")}
        case Subject.TEXT:
            fields = event.kind.text_fields
            return {fields[-1] if relay.wordy else fields[0]: event.text}
