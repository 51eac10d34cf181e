"""How the pages write times, numbers, exit codes and unprintable text. Pure: the present is an argument."""

import errno
import os
from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60, 3600, 86400
FIRST_TAG = 0x01000000
HTTP_TAG = 0xF8
GENERIC = 1  # -1 says nothing but that it failed


def utc(then: float) -> str:
    """Return the time `then`, UNIX seconds, in UTC; empty if the calendar does not reach that far."""
    try:
        return f"{datetime.fromtimestamp(then, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return ""


def ago(then: float, now: float) -> str:
    """Return how long before `now` the time `then` is, both in UNIX seconds."""
    return f"{span(now - then)} ago" if now - then >= 1 else "just now"


def span(seconds: float) -> str:
    """Return a length of time in its two largest units, short enough to be read at a glance."""
    whole = max(int(seconds), 0)
    for large, name, small, small_name in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole // MINUTE} min" if whole >= MINUTE else f"{whole} s"


def position(seconds: float) -> str:
    """Return a position in a file, as players show it."""
    whole = max(int(seconds), 0)
    hours, minutes = whole // HOUR, whole % HOUR // MINUTE
    return f"{hours}:{minutes:02}:{whole % MINUTE:02}" if hours else f"{minutes}:{whole % MINUTE:02}"


def number(value: int) -> str:
    """Return a whole number with separators between its thousands."""
    return f"{value:,}"


def plural(value: int, noun: str) -> str:
    """Return a number with its noun, which gets an `s` unless the number is 1."""
    return f"{number(value)} {noun}" if value == 1 else f"{number(value)} {noun}s"


def code_hint(code: str) -> str:
    """Return what an exit code may stand for, empty if nothing is known: no list of them is published.

    Those seen are negated error numbers of Linux, or FFmpeg's tags of four characters.
    """
    if not code.startswith("-") or not code[1:].isdecimal() or len(code) > len("-4294967295"):
        return ""
    value = int(code[1:])
    if value in errno.errorcode and value != GENERIC:
        return f"{errno.errorcode[value]}: {os.strerror(value)}"
    if not FIRST_TAG <= value < 1 << 32:
        return ""
    raw = value.to_bytes(4, "little")
    tag = (raw[1:] if raw[0] == HTTP_TAG else raw).decode("latin-1").strip()
    if not tag.isascii() or not tag.isalnum():
        return ""
    return f"FFmpeg: HTTP {tag}" if tag.isdecimal() or tag == "4XX" else f"FFmpeg: {tag}"


def visible(text: str) -> str:
    """Return `text` with a mark for every character that can't be seen, or turns others around."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
