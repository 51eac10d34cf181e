"""What may be shown of a URL, of a text, and of a body that may be anything.

Push keys travel in the query, in the user part, and, outside the vendor's own hosts, in the last path
segment. This module decides what of them is left; nothing below the edge of the program sees the rest.
Pure: no clock, no I/O.
"""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import orjson

UNREADABLE = "_unreadable"
HIDDEN = "…"
MAX_PROSE = 2000
#: A shorter key is hidden as a whole word alone: it may be a part of others.
LONG_KEY = 8
#: JSON in texts, lists and objects of a body is shown down to so many levels.
MAX_LEVELS = 16
#: No text of a body is looked through for the keys of more destinations than these.
MAX_DESTINATIONS = 16

#: What has one of these in its name is a secret: in a query, in JSON, in a text, in a log line.
SECRET_WORDS = ("secret", "token", "sign", "passw", "key", "auth", "credential")
_WORD = re.compile("|".join(SECRET_WORDS), re.IGNORECASE)

#: Scheme, host (a name, or an IPv6 address in brackets), port and path: user, query, fragment are left out.
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)"
    r"(?:[^/?#@]*@)?"
    r"(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]\s]{1,253})"
    r"(?::(\d{1,5}))?"
    r"(/[^?#]*)?(?:[?#]|$)"
)
#: Words of a text that may be URLs, without the stop after them. Linear in the text, as what follows is.
_URL_IN_TEXT = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]+://[^\s\"'<>]*(?<![.,:;!?)])")
#: A query that stands alone: a server may repeat no more of a URL than that.
_QUERY_IN_TEXT = re.compile(r"\?[^\s\"'<>]+")
#: What a text calls a secret: `key=x`, `"txSecret": "x y"`, `Authorization: Bearer x`. What follows KeyError,
#: the scheme `valkey://` or a flag such as `--callback.token-file` is none.
_SECRET = (
    rf"((?:{_WORD.pattern})[-\w]{{0,32}}(?<![-_]file)(?<!error)"
    r"%s(?:(?:basic|bearer)\s)?)(?:([\"'])(?:(?!\2).)+|[^\s\"'<>&,;]+)"
)
_SECRET_IN_TEXT = re.compile(_SECRET % r"[\"']?\s?[=:](?!//)\s?", re.IGNORECASE)
#: In the log a colon and a space follow the name of a setting: `tls_server_config.key: is not supported`.
_SECRET_IN_LINE = re.compile(
    _SECRET % r"(?:[\"']?\s?=\s?|[\"']\s?:\s?|:(?!\s|//)|:\s?(?=basic|bearer))", re.IGNORECASE
)
#: A value that is a URL as a whole, even a broken one.
_IS_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/")
#: A URL may stand in such a text that is not found.
_ESCAPED_URL = re.compile(r"%(?:2f|3a|3d|3f)", re.IGNORECASE)
_ESCAPED = re.compile(rf"\\|{_ESCAPED_URL.pattern}", re.IGNORECASE)


def names_secret(name: str) -> bool:
    """Whether what is called by that name is a secret."""
    return _WORD.search(name) is not None


def redact_text(text: str) -> str:
    """Return `text` without users, queries and fragments of URLs, and without what it calls a secret.

    For what this program or a library wrote, such as a line of the log.
    """
    text = _URL_IN_TEXT.sub(lambda url: _readable(*_parts(url[0])), text)
    return _SECRET_IN_LINE.sub(_without_value, text)


class Redactor:
    """Takes the secrets out of URLs; equal secrets stay equal to the eye.

    Args:
        key: keys the digests that stand for secrets, so that nobody can guess at them offline.
        plain_hosts: patterns of hosts whose last path segment is a stream name and may be shown.
    """

    def __init__(self, *, key: bytes, plain_hosts: Sequence[str]) -> None:
        self._key = key
        self._plain_hosts = tuple(pattern.lower() for pattern in plain_hosts)
        self._is_plain = lru_cache(maxsize=1024)(self._matches)

    def digest(self, text: str) -> str:
        """Return 16 hexadecimal characters that stand for `text`, always the same ones for this key."""
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=8).hexdigest()

    def destination(self, url: str, stream_id: str) -> tuple[str, str, str]:
        """Return what may be shown of a destination: its URL, its host, and the stream's name."""
        stream_id = stream_id.partition("?")[0]
        if not url:
            return "", "", stream_id
        base, host, path = _parts(url)
        if not base:
            return UNREADABLE, "", stream_id
        head, slash, last = path.rstrip("/").rpartition("/")
        if not last or self._is_plain(host):
            return base + path, host, stream_id
        shown = f"~{self.digest(last)}"
        return f"{base}{head}{slash}{shown}", host, shown if stream_id == last else stream_id

    def source(self, url: str) -> tuple[str, str]:
        """Return the host of a source, and a digest of its URL without user, query and fragment."""
        base, host, path = _parts(url)
        return host, self.digest(base + path if base else url.partition("?")[0])

    def sources(self, urls: Sequence[str]) -> tuple[str, str]:
        """Return the host of the first source, and a digest that is equal for equal sources."""
        host, digest = self.source(urls[0])
        if len(urls) == 1:
            return host, digest
        return host, self.digest(" ".join(self.source(url)[1] for url in urls))

    def prose(self, text: str, to_url: str) -> str:
        """Return the free text of a callback to `to_url` on one line, without what may be a secret in it.

        A server that turns a stream away may repeat its URL, or its key alone.
        """
        line = " ".join("".join(c if c.isprintable() else " " for c in text[:MAX_PROSE]).split())
        if len(text) > MAX_PROSE:
            line = line.rpartition(" ")[0]  # half a URL may not be known for one
        line = " ".join(HIDDEN if _ESCAPED_URL.search(word) else word for word in line.split(" "))
        line = _URL_IN_TEXT.sub(lambda url: self.destination(url[0], "")[0], line)
        key = _parts(to_url)[2].rstrip("/").rpartition("/")[2]
        shown = self.destination(to_url, key)[2]
        if shown != key:
            pattern = re.escape(key)
            if len(key) < LONG_KEY:
                pattern = rf"(?<![A-Za-z0-9~]){pattern}(?![A-Za-z0-9])"
            line = re.sub(pattern, shown, line, flags=re.IGNORECASE)
        return _SECRET_IN_TEXT.sub(_without_value, _QUERY_IN_TEXT.sub(f"?{HIDDEN}", line))

    def _matches(self, host: str) -> bool:
        return any(fnmatchcase(host, pattern) for pattern in self._plain_hosts)


def redacted_json(raw: bytes, redactor: Redactor) -> str | None:
    """Return the fields in `raw` as JSON over several lines, None if it is not JSON.

    JSON inside a string is shown unpacked. A body that the parser made nothing of may hold a secret anywhere.
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
        if value is not None and names_secret(name):
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
        for url in self._destinations or ("",):
            text = self._redactor.prose(text, url)
        return text


def _unpacked(value: Any, levels: int) -> Any:
    """Return `value` down to so many levels, with the JSON inside its strings unpacked."""
    if isinstance(value, dict):
        return {k: _unpacked(item, levels - 1) for k, item in value.items()} if levels else HIDDEN
    if isinstance(value, list):
        return [_unpacked(item, levels - 1) for item in value] if levels else HIDDEN
    if isinstance(value, str) and _is_like_json(value) and levels:
        try:
            return _unpacked(orjson.loads(value), levels - 1)
        except orjson.JSONDecodeError:
            pass
    return value


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


def _without_value(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2] or ''}{HIDDEN}"


def _readable(base: str, _host: str, path: str) -> str:
    return base + path if base else UNREADABLE


def _parts(url: str) -> tuple[str, str, str]:
    """Return the beginning of a URL up to its path, its host, and its path; all empty if it is none."""
    match = _URL.match(url)
    if match is None:
        return "", "", ""
    scheme, host, port, path = match.groups("")
    host = host.lower()
    base = f"{scheme.lower()}{host}:{port}" if port else scheme.lower() + host
    return base, host.strip("[]"), path
