"""Logging: one line per record, as logfmt or JSON, without secrets and with a limit on repeated lines."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import structlog

from exporter.protocol.redact import HIDDEN, names_secret, redact_text

MAX_LINES_PER_SECOND = 10


def configure_logging(level: str, form: str) -> None:
    """Write every log record of at least `level` to standard error, in `form` (logfmt or json)."""
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
    handler.addFilter(RepeatFilter())
    # One handler on the root logger, for the lines of gunicorn, uvicorn and asyncio too.
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn logs a warning for each client that does not speak HTTP: anybody could fill the log.
    logging.getLogger("uvicorn.error").setLevel(max(root.level, logging.ERROR))


def _redacted(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a line without secrets."""
    for name, value in event.items():
        if names_secret(name):
            event[name] = HIDDEN
        elif isinstance(value, str):  # numbers and booleans hold no secrets
            event[name] = redact_text(value)
    return event


class RepeatFilter(logging.Filter):
    """A filter that drops repeated lines above a rate, so that a client can't fill the disk.

    Lines of one logger with the same message are one kind, whatever their fields are.
    """

    def __init__(self) -> None:
        super().__init__()
        #: For each kind of line: the current second, and the number of lines in it.
        self._seen: dict[tuple[str, object], tuple[int, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        kind, second = (record.name, record.msg), int(record.created)
        counted_second, count = self._seen.get(kind, (second, 0))
        count = count + 1 if counted_second == second else 1
        # A library may put changing values into its messages: each of them would be a new kind.
        if kind in self._seen or len(self._seen) < 1000:
            self._seen[kind] = second, count
        return count <= MAX_LINES_PER_SECOND
