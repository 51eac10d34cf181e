"""Redaction: removes secrets from URLs, from texts and from quarantined bodies.

A push key may be in the query of a URL, in its user part and, on hosts that are not the vendor's, in the last
path segment. Callbacks are redacted when they are parsed, so that no other module sees a push key.
Pure: no clock, no I/O.
"""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import orjson

#: Shown instead of a URL that is not valid.
UNREADABLE = "_unreadable"
#: Shown instead of a secret.
HIDDEN = "…"
#: Maximum number of characters of a message that are searched for secrets; the parser keeps fewer.
MAX_TEXT = 2000
#: A shorter key is hidden only where it is a whole word, because other words may contain it.
LONG_KEY = 8
#: Maximum nesting that is shown of a body, JSON inside strings included.
MAX_SHOWN_LEVELS = 16
#: Every text is searched for the key of every destination. With more destinations that would take too long,
#: and the texts are hidden instead.
MAX_DESTINATIONS = 16

#: A field is a secret if its name contains one of these words: in a query, in JSON, in a text, in a log line.
SECRET_WORDS = ("secret", "token", "sign", "passw", "key", "auth", "credential")
_WORD = re.compile("|".join(SECRET_WORDS), re.IGNORECASE)

#: The parts of a URL that may be shown: scheme, host (a name, or an IPv6 address in brackets), port and path.
#: The user, the query and the fragment are matched, but not captured.
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)"
    r"(?:[^/?#@]*@)?"
    r"(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]\s]{1,253})"
    r"(?::(\d{1,5}))?"
    r"(/[^?#]*)?(?:[?#]|$)"
)
#: A possible URL in a text, without the punctuation after it. This pattern and those below need time linear
#: in the length of the text, because the sender chooses the text.
_URL_IN_TEXT = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]+://[^\s\"'<>]*(?<![.,:;!?)])")
#: A query without its URL: a server may quote only that part.
_QUERY_IN_TEXT = re.compile(r"\?[^\s\"'<>]+")
#: A value whose name is a secret word: `key=x`, `"txSecret": "x y"`, `Authorization: Bearer x`. A value after
#: KeyError, after the scheme `valkey://` or after a flag such as `--callback.token-file` is not a secret.
_SECRET = (
    rf"((?:{_WORD.pattern})[-\w]{{0,32}}(?<![-_]file)(?<!error)"
    r"%s(?:(?:basic|bearer)\s)?)(?:([\"'])(?:(?!\2).)+|[^\s\"'<>&,;]+)"
)
_SECRET_IN_TEXT = re.compile(_SECRET % r"[\"']?\s?[=:](?!//)\s?", re.IGNORECASE)
#: In the log a message may follow the name of a setting: `tls_server_config.key: is not supported`. It is not
#: a secret.
_SECRET_IN_LINE = re.compile(
    _SECRET % r"(?:[\"']?\s?=\s?|[\"']\s?:\s?|:(?!\s|//)|:\s?(?=basic|bearer))", re.IGNORECASE
)
#: A value that begins as a URL does, even if the URL is invalid.
_URL_BEGINS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/")
#: An escaped character of a URL: a text with one may hold a URL that the patterns above do not find.
_ESCAPED_URL = re.compile(r"%(?:2f|3a|3d|3f)", re.IGNORECASE)
_ESCAPED = re.compile(rf"\\|{_ESCAPED_URL.pattern}", re.IGNORECASE)


def names_secret(name: str) -> bool:
    """Return whether a field with that name is a secret."""
    return _WORD.search(name) is not None


def redact_text(text: str) -> str:
    """Return `text` without secrets: users, queries and fragments of URLs, values of secret names.

    For texts of this program or of a library, such as a log line.
    """
    text = _URL_IN_TEXT.sub(lambda url: _readable(*_parts(url[0])), text)
    return _SECRET_IN_LINE.sub(_without_value, text)


class Redactor:
    """Removes secrets from URLs. A digest replaces a secret, so that equal secrets still look equal.

    Args:
        key: key of the digests, so that nobody can test guesses of a secret offline.
        plain_hosts: patterns of the hosts whose last path segment is a stream name, which may be shown.
    """

    def __init__(self, *, key: bytes, plain_hosts: Sequence[str]) -> None:
        self._key = key
        self._plain_hosts = tuple(pattern.lower() for pattern in plain_hosts)
        # Cached, because every callback needs it and there are few hosts.
        self._is_plain = lru_cache(maxsize=1024)(self._matches)

    def digest(self, text: str) -> str:
        """Return the digest of `text` under this key: 16 hexadecimal characters."""
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=8).hexdigest()

    def destination(self, url: str, stream_id: str) -> tuple[str, str, str]:
        """Return the URL, the host and the stream name of a destination, redacted."""
        stream_id = stream_id.partition("?")[0]  # some senders append the query of the URL
        if not url:
            return "", "", stream_id
        base, host, path = _parts(url)
        if not base:
            return UNREADABLE, "", stream_id
        head, slash, last = path.rstrip("/").rpartition("/")
        if not last or self._is_plain(host):
            return base + path, host, stream_id
        # On other hosts the last segment may be a push key. The stream ID is then often the same key.
        shown = f"~{self.digest(last)}"
        return f"{base}{head}{slash}{shown}", host, shown if stream_id == last else stream_id

    def sources(self, urls: Sequence[str]) -> tuple[str, str]:
        """Return the host of the first URL, and a digest of all of them without user, query and fragment."""
        hosts, digests = [], []
        for url in urls:
            base, host, path = _parts(url)
            hosts.append(host)
            digests.append(self.digest(base + path if base else url.partition("?")[0]))
        return hosts[0], digests[0] if len(urls) == 1 else self.digest(" ".join(digests))

    def message(self, text: str, to_url: str) -> str:
        """Return the message of a callback for `to_url` on one line, without secrets.

        A server that rejects a stream may quote its URL, or only its push key.
        """
        line = " ".join("".join(c if c.isprintable() else " " for c in text[:MAX_TEXT]).split())
        if len(text) > MAX_TEXT:
            line = line.rpartition(" ")[0]  # a URL that is cut off may not be recognized
        line = " ".join(HIDDEN if _ESCAPED_URL.search(word) else word for word in line.split(" "))
        line = _URL_IN_TEXT.sub(lambda url: self.destination(url[0], "")[0], line)
        key = _parts(to_url)[2].rstrip("/").rpartition("/")[2]
        shown = self.destination(to_url, key)[2]
        if shown != key:  # the last segment is a push key, not a stream name
            pattern = re.escape(key)
            if len(key) < LONG_KEY:
                pattern = rf"(?<![A-Za-z0-9~]){pattern}(?![A-Za-z0-9])"
            line = re.sub(pattern, shown, line, flags=re.IGNORECASE)
        return _SECRET_IN_TEXT.sub(_without_value, _QUERY_IN_TEXT.sub(f"?{HIDDEN}", line))

    def _matches(self, host: str) -> bool:
        return any(fnmatchcase(host, pattern) for pattern in self._plain_hosts)


def redacted_json(raw: bytes, redactor: Redactor) -> str | None:
    """Return the body in `raw` as indented JSON without secrets, None if it is not JSON.

    JSON inside strings is decoded. All fields are redacted: a rejected body may hold a secret anywhere.
    """
    try:
        body = _unpacked(orjson.loads(raw), MAX_SHOWN_LEVELS)
    except orjson.JSONDecodeError:
        return None
    body_redactor = _BodyRedactor(redactor, frozenset(_destinations(body)))
    return orjson.dumps(body_redactor.redacted(body, ""), option=orjson.OPT_INDENT_2).decode()


class _BodyRedactor:
    def __init__(self, redactor: Redactor, destinations: frozenset[str]) -> None:
        self._redactor = redactor
        self._destinations = destinations

    def redacted(self, value: Any, name: str) -> Any:
        """Return the value of a field with that name, redacted."""
        if value is not None and names_secret(name):
            return HIDDEN
        if isinstance(value, dict):
            return {self._text(field): self.redacted(item, field) for field, item in value.items()}
        if isinstance(value, list):
            return [self.redacted(item, name) for item in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        if _URL_BEGINS.match(text):
            return self._redactor.destination(text.strip(), "")[0]
        # JSON that could not be decoded and escaped characters may hide a URL from the patterns.
        if _is_like_json(text) or _ESCAPED.search(text) or len(self._destinations) > MAX_DESTINATIONS:
            return f"{HIDDEN} ({len(text)} characters that can't be read)"
        for url in self._destinations or ("",):
            text = self._redactor.message(text, url)
        return text


def _unpacked(value: Any, levels: int) -> Any:
    """Return `value` with the JSON inside its strings decoded; deeper levels than `levels` are hidden."""
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
    """Yield every destination in a body: other fields may quote its push key."""
    for name, item in value.items() if isinstance(value, dict) else ():
        if name == "to_url" and isinstance(item, str):
            yield item
        yield from _destinations(item)
    for item in value if isinstance(value, list) else ():
        yield from _destinations(item)


def _without_value(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2] or ''}{HIDDEN}"


def _readable(base: str, _host: str, path: str) -> str:
    return base + path if base else UNREADABLE


def _parts(url: str) -> tuple[str, str, str]:
    """Return a URL up to its path, its host, and its path; all empty if it is not a valid URL."""
    match = _URL.match(url)
    if match is None:
        return "", "", ""
    scheme, host, port, path = match.groups("")
    host = host.lower()
    base = f"{scheme.lower()}{host}:{port}" if port else scheme.lower() + host
    return base, host.strip("[]"), path
