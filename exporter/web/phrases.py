"""How the pages say times, numbers and exit codes. Pure: the present is an argument."""

import errno
import os
from datetime import UTC, datetime

from msgspec import Struct

MINUTE, HOUR, DAY = 60, 3600, 86400
FIRST_TAG = 0x01000000
HTTP_TAG = 0xF8
GENERIC = 1  # -1 says nothing but that it failed


class When(Struct, frozen=True):
    """A time as it is shown.

    Args:
        text: in words, from the present.
        exact: to the second, in UTC.
        machine: for machines.
    """

    text: str
    exact: str
    machine: str


def when(then: float, now: float) -> When:
    """Return how the time `then` is shown at `now` (seconds); one that no calendar has is only told."""
    try:
        moment = datetime.fromtimestamp(then, UTC)
    except (ValueError, OverflowError, OSError):
        return When("at an unknown time", f"{then:.0f}", "")
    text = f"{span(now - then)} ago" if now - then >= 1 else "just now"
    return When(text, f"{moment:%Y-%m-%d %H:%M:%S} UTC", f"{moment:%Y-%m-%dT%H:%M:%SZ}")


def span(seconds: float) -> str:
    """Return a length of time in its two largest units, short enough to be read at a glance."""
    whole = max(int(seconds), 0)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min"
    if whole < DAY:
        return _two(whole, HOUR, "h", MINUTE, "min")
    return _two(whole, DAY, "d", HOUR, "h")


def _two(whole: int, large: int, name: str, small: int, small_name: str) -> str:
    rest = whole % large // small
    return f"{whole // large} {name}" + (f" {rest} {small_name}" if rest else "")


def position(seconds: float) -> str:
    """Return a position in a file, as players show it."""
    whole = max(int(seconds), 0)
    hours, minutes = whole // HOUR, whole % HOUR // MINUTE
    return f"{hours}:{minutes:02}:{whole % MINUTE:02}" if hours else f"{minutes}:{whole % MINUTE:02}"


def number(value: int) -> str:
    """Return a whole number with its thousands told apart."""
    return f"{value:,}"


def count(value: int, noun: str) -> str:
    """Return so many of something."""
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
    return _tag(value) if FIRST_TAG <= value < 1 << 32 else ""


def _tag(value: int) -> str:
    raw = value.to_bytes(4, "little")
    text = (raw[1:] if raw[0] == HTTP_TAG else raw).decode("latin-1").strip()
    if not text.isascii() or not text.isalnum():
        return ""
    return f"FFmpeg: HTTP {text}" if text.isdecimal() or text == "4XX" else f"FFmpeg: {text}"


def visible(text: str) -> str:
    """Return `text` with a mark for every character that can't be seen, or turns others around."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
