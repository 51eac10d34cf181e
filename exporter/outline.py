"""What may be shown of a body, valid or not: its fields, without what may be a secret in them.

A body in the quarantine is one that the parser made nothing of, so that a secret may stand anywhere in it.
Pure: no clock, no I/O.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from exporter.redact import Redactor

MAX_LEVELS = 16
#: No text is looked through for the keys of more than so many.
MAX_DESTINATIONS = 16
HIDDEN = "…"
_SECRET_NAME = re.compile("secret|token|sign|passw|key|auth|credential", re.IGNORECASE)
#: A URL may stand in it that can't be told for one.
_ESCAPED = re.compile(r"\\|%2f|%3a", re.IGNORECASE)
_IS_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/")


def outline(raw: bytes, redactor: Redactor) -> str | None:
    """Return the fields in `raw` as JSON over several lines, None if it is not JSON.

    JSON inside a string is shown unpacked.
    """
    try:
        body = _unpacked(orjson.loads(raw), MAX_LEVELS)
    except orjson.JSONDecodeError:
        return None
    view = _View(redactor, frozenset(_destinations(body)))
    return orjson.dumps(view.of(body, ""), option=orjson.OPT_INDENT_2).decode()


class _View:
    def __init__(self, redactor: Redactor, destinations: frozenset[str]) -> None:
        self._redactor = redactor
        self._destinations = destinations

    def of(self, value: Any, name: str) -> Any:
        """Return what may be shown of the value of a field with that name."""
        if value is not None and _SECRET_NAME.search(name):
            return HIDDEN
        if isinstance(value, dict):
            return {self._text(field): self.of(item, field) for field, item in value.items()}
        if isinstance(value, list):
            return [self.of(item, name) for item in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        if _IS_URL.match(text):
            return self._redactor.destination(text.strip(), "")[0]
        if _is_like_json(text) or _ESCAPED.search(text) or len(self._destinations) > MAX_DESTINATIONS:
            return f"{HIDDEN} ({len(text)} characters that can't be read)"
        return self._prose(text)

    def _prose(self, text: str) -> str:
        for url in self._destinations or ("",):
            text = self._redactor.prose(text, url)
        return text


def _unpacked(value: Any, levels: int) -> Any:
    """Return `value` down to so many levels, with the JSON inside its strings unpacked."""
    if isinstance(value, str) and _is_like_json(value) and levels:
        return _unpacked_text(value, levels)
    if isinstance(value, dict):
        return {k: _unpacked(item, levels - 1) for k, item in value.items()} if levels else HIDDEN
    if isinstance(value, list):
        return [_unpacked(item, levels - 1) for item in value] if levels else HIDDEN
    return value


def _unpacked_text(text: str, levels: int) -> Any:
    try:
        return _unpacked(orjson.loads(text), levels - 1)
    except orjson.JSONDecodeError:
        return text


def _is_like_json(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[", '"')


def _destinations(value: Any) -> Iterator[str]:
    """Yield the destinations that a body names, wherever it does: their keys may stand elsewhere, alone."""
    for name, item in value.items() if isinstance(value, dict) else ():
        if name == "to_url" and isinstance(item, str):
            yield item
        yield from _destinations(item)
    for item in value if isinstance(value, list) else ():
        yield from _destinations(item)
