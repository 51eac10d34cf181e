"""The log: one line an event, as logfmt or JSON, with no secret in it and no flood of it."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import structlog

from exporter.protocol.redact import HIDDEN, names_secret, redact_text

LINES_A_SECOND = 10


def configure_logging(level: str, form: str) -> None:
    """Send every log of this process to standard error, in `form` (logfmt or json), from `level` on."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("msg"),
        _redacted,
    ]
    render: Callable[..., Any] = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.processors.LogfmtRenderer(key_order=["ts", "level", "msg"], drop_missing=True)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    handler.addFilter(FloodGate())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It warns of every caller that sends no HTTP.
    logging.getLogger("uvicorn.error").setLevel(max(root.level, logging.ERROR))


def _redacted(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a line without what may be secret in them."""
    return {name: HIDDEN if names_secret(name) else _shown(value) for name, value in event.items()}


def _shown(value: object) -> object:
    return redact_text(value) if isinstance(value, str) else value


class FloodGate(logging.Filter):
    """Lets through only so many lines a second of one kind, so that a caller can't fill the disk."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, object], tuple[int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is to be written."""
        kind, second = (record.name, record.msg), int(record.created)
        begun, count = self._seen.get(kind, (second, 0))
        count = count + 1 if begun == second else 1
        if kind in self._seen or len(self._seen) < 1000:
            self._seen[kind] = second, count
        return count <= LINES_A_SECOND
