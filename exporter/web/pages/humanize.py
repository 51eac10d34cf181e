"""Times, numbers, exit codes and unprintable characters as texts for the pages. Pure functions: no clock."""

import errno
import os
from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60, 3600, 86400
#: FFmpeg's error codes are negated tags of four bytes; smaller numbers can't have four.
FIRST_TAG = 0x01000000
#: First byte of tags such as HTTP's "404", which have only three characters.
HTTP_TAG = 0xF8
#: EPERM. Programs exit with -1 for any failure, so that its name would mislead.
GENERIC = 1


def utc(then: float) -> str:
    """Return the time `then`, UNIX seconds, as text in UTC; empty if it is outside the calendar."""
    try:
        return f"{datetime.fromtimestamp(then, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return ""


def ago(then: float, now: float) -> str:
    """Return how long ago `then` is at `now`, both in UNIX seconds, such as "3 min ago"."""
    # A time in the future comes from a clock that differs; a negative age would only confuse.
    return f"{span(now - then)} ago" if now - then >= 1 else "just now"


def span(seconds: float) -> str:
    """Return a duration in its two largest units, such as "2 h 5 min"; the argument is in seconds."""
    whole = max(int(seconds), 0)
    for large, name, small, small_name in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole // MINUTE} min" if whole >= MINUTE else f"{whole} s"


def position(seconds: float) -> str:
    """Return a position in a file (seconds) as players show it, such as "1:02:03" or "4:10"."""
    whole = max(int(seconds), 0)
    hours, minutes = whole // HOUR, whole % HOUR // MINUTE
    return f"{hours}:{minutes:02}:{whole % MINUTE:02}" if hours else f"{minutes}:{whole % MINUTE:02}"


def number(value: int) -> str:
    """Return a whole number with thousands separators."""
    return f"{value:,}"


def plural(value: int, noun: str) -> str:
    """Return a number and its noun, with an "s" unless the number is 1."""
    return f"{number(value)} {noun}" if value == 1 else f"{number(value)} {noun}s"


def code_hint(code: str) -> str:
    """Return the likely meaning of an exit code, empty if none is known.

    The service publishes no list of exit codes. The known ones are negated errno values of Linux, or negated
    FFmpeg error tags of four characters.
    """
    if not code.startswith("-") or not code[1:].isdecimal() or len(code) > len("-4294967295"):
        return ""
    value = int(code[1:])
    if value in errno.errorcode and value != GENERIC:
        return f"{errno.errorcode[value]}: {os.strerror(value)}"
    if not FIRST_TAG <= value < 1 << 32:
        return ""
    # FFmpeg builds a tag from its characters with the first one in the lowest byte.
    raw = value.to_bytes(4, "little")
    tag = (raw[1:] if raw[0] == HTTP_TAG else raw).decode("latin-1").strip()
    if not tag.isascii() or not tag.isalnum():
        return ""
    return f"FFmpeg: HTTP {tag}" if tag.isdecimal() or tag == "4XX" else f"FFmpeg: {tag}"


def visible(text: str) -> str:
    """Return `text` with U+FFFD for each unprintable character."""
    # Some of them reverse the direction of text: with them one task ID could look like another.
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
