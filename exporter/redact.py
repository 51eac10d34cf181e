"""What may be shown of a URL.

Push keys travel in the query, in the user part, and, outside the vendor's own hosts, in the last path
segment. This module decides what of them is left; nothing below the edge of the program sees the rest.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b

UNREADABLE = "_unreadable"

#: Scheme, host (a name, or an IPv6 address in brackets), port and path: user, query, fragment are left out.
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)"
    r"(?:[^/?#@]*@)?"
    r"(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]\s]{1,253})"
    r"(?::(\d{1,5}))?"
    r"(/[^?#]*)?(?:[?#]|$)"
)

#: Words of a text that are URLs, without the stop after them; and values that a text gives to a query or to a
#: secret. Linear in the text.
_URL_IN_TEXT = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z0-9+.-]+://[^\s\"'<>]*(?<![.,:;!?)])")
_SECRET_IN_TEXT = re.compile(
    r"\?[^\s\"'<>]+|((?:secret|token|sign|signature|password|passwd|key)[\"']?\s?[=:]\s?[\"']?)[^\s\"'<>&,;]+",
    re.IGNORECASE,
)
MAX_PROSE = 2000


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
        line = _URL_IN_TEXT.sub(lambda url: self.destination(url[0], "")[0], line)
        key = _parts(to_url)[2].rstrip("/").rpartition("/")[2]
        shown = self.destination(to_url, key)[2]
        if shown != key:
            line = re.sub(rf"(?<![A-Za-z0-9~]){re.escape(key)}(?![A-Za-z0-9])", shown, line)
        return _SECRET_IN_TEXT.sub(lambda secret: f"{secret[1] or '?'}…", line)

    def _matches(self, host: str) -> bool:
        return any(fnmatchcase(host, pattern) for pattern in self._plain_hosts)


def _parts(url: str) -> tuple[str, str, str]:
    """Return the beginning of a URL up to its path, its host, and its path; all empty if it is none."""
    match = _URL.match(url)
    if match is None:
        return "", "", ""
    scheme, host, port, path = match.groups("")
    host = host.lower()
    base = f"{scheme.lower()}{host}:{port}" if port else scheme.lower() + host
    return base, host.strip("[]"), path
