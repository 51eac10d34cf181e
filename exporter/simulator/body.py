"""Writes the bytes of callbacks in the format of the service."""

import hashlib
import json
from typing import Any

from msgspec import Struct

from exporter.protocol.events import EventKind, Subject
from exporter.simulator.fleet import FAILURES, Event, RelayTask

EVENT_TYPE = 314
SIGNED_SECONDS = 600
UNKNOWN_EVENT = "TaskRebalanced"


class CallbackWriter(Struct, frozen=True):
    """Writes callbacks.

    Args:
        base: start of the simulation, UNIX time in seconds.
        key: the sign key, empty for callbacks without signature.
    """

    base: float
    key: str = ""

    def body(self, task: RelayTask, event: Event, *, has_ids: bool = True, is_signed: bool = True) -> bytes:
        """Return the callback of an event, if need be without its task, stream and destination."""
        at = self.base + event.at
        fields = self._envelope(task, event.kind.callback_event, at)
        fields["msg"] = json.dumps(_msg(task, event, int(at * 1000) if task.has_times else 0))
        if has_ids:
            fields |= {"task_id": task.task_id, "stream_id": task.stream_id, "to_url": task.to_url}
        return self._encoded(fields, at, is_signed=is_signed)

    def unknown(self, task: RelayTask, at: float, number: int) -> bytes:
        """Return a callback of an unknown event; `number` makes its body unique."""
        fields = self._envelope(task, UNKNOWN_EVENT, self.base + at)
        return self._encoded(fields | {"msg": json.dumps({"number": number})}, self.base + at, is_signed=True)

    def malformed(self, task: RelayTask, at: float, number: int) -> bytes:
        """Return a callback that is invalid under its schema; `number` makes its body unique."""
        fields = self._envelope(task, EventKind.START.callback_event, self.base + at)
        broken = {"msg": json.dumps({"task_start_time": f"never-{number}"}), "task_id": task.task_id}
        return self._encoded(fields | broken, self.base + at, is_signed=True)

    def _envelope(self, task: RelayTask, name: str, at: float) -> dict[str, Any]:
        fields = {
            "appid": task.appid,
            "callback_event": name,
            "event_type": EVENT_TYPE,
            "interface": "general_callback",
            "product_name": "pullpush",
            "source_urls": json.dumps(task.sources) + "\n",
        }
        return fields | ({"event_time": str(int(at))} if task.has_times else {})

    def _encoded(self, fields: dict[str, Any], at: float, *, is_signed: bool) -> bytes:
        if self.key and is_signed:
            expires = int(at) + SIGNED_SECONDS
            # MD5 is what the service uses.
            sign = hashlib.md5(f"{self.key}{expires}".encode(), usedforsecurity=False).hexdigest()
            fields |= {"t": expires, "sign": sign}
        return json.dumps(fields).encode()


def _msg(task: RelayTask, event: Event, ms: int) -> dict[str, Any]:
    kind = event.kind
    own_time = {kind.time_field: ms} if kind.time_field else {}
    return own_time | _subject(task, event)


def _subject(task: RelayTask, event: Event) -> dict[str, Any]:
    number = str if task.has_text_numbers else int
    match event.kind.subject:
        case Subject.NOTHING:
            return {}
        case Subject.FILE:
            url = f"https://cdn.example.com/{task.task_id}/{event.file}.mp4?token=0123456789abcdef"
            return {"url": url, "index": number(event.file), "duration": task.files[event.file]}
        case Subject.EXIT_CODE:
            return {"code": number(event.code), "message": FAILURES.get(event.code, "task stopped.")}
        case Subject.TEXT:
            fields = event.kind.text_fields
            return {fields[-1] if task.has_text_numbers else fields[0]: event.text}
