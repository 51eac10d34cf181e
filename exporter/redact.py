"""What may be shown of a URL.

Push keys travel in the query, in the user part, and, outside the vendor's own hosts, in the last path
segment. This module decides what of them is left; nothing below the edge of the program sees the rest.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import SplitResult, urlsplit

UNREADABLE = "_unreadable"


class Redactor:
    """Takes the secrets out of URLs; equal secrets stay equal to the eye.

    Args:
        key: keys the digests that stand for secrets, so that nobody can guess at them offline.
        plain_hosts: patterns of hosts whose last path segment is a stream name and may be shown.
    """

    def __init__(self, *, key: bytes, plain_hosts: Sequence[str]) -> None:
        self._key = key
        self._plain_hosts = tuple(pattern.lower() for pattern in plain_hosts)
        self.destination = lru_cache(maxsize=8192)(self._destination)
        self.source = lru_cache(maxsize=8192)(self._source)
        self.sources = lru_cache(maxsize=8192)(self._sources)

    def digest(self, text: str) -> str:
        """Return 16 hexadecimal characters that stand for `text`, always the same ones for this key."""
        return blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=8).hexdigest()

    def _destination(self, url: str, stream_id: str) -> tuple[str, str, str]:
        """Return what may be shown of a destination: its URL, its host, and the stream's name."""
        stream_id = stream_id.split("?", 1)[0]
        parts = _split(url)
        if parts is None:
            return (UNREADABLE if url else "", "", stream_id)
        host = _host(parts)
        path, last = _last_segment(parts.path)
        if last and not self._is_plain(host):
            shown = f"~{self.digest(last)}"
            return _join(parts, path + shown), host, shown if stream_id == last else stream_id
        return _join(parts, parts.path), host, stream_id

    def _source(self, url: str) -> tuple[str, str]:
        """Return the host of a source and a digest of the URL without its query."""
        parts = _split(url)
        if parts is None:
            return "", self.digest(url.split("?", 1)[0])
        return _host(parts), self.digest(f"{parts.scheme}://{parts.netloc}{parts.path}")

    def _sources(self, urls: tuple[str, ...]) -> tuple[str, str]:
        """Return the host of the first source and a digest that is equal for equal sources."""
        described = [self._source(url) for url in urls]
        return described[0][0], described[0][1] if len(urls) == 1 else self.digest(str(described))

    def _is_plain(self, host: str) -> bool:
        return any(fnmatchcase(host, pattern) for pattern in self._plain_hosts)


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.hostname, parts.port  # noqa: B018 - both raise on a malformed authority
    except ValueError:
        return None
    return parts if parts.scheme and parts.netloc else None


def _host(parts: SplitResult) -> str:
    return (parts.hostname or "")[:253]


def _last_segment(path: str) -> tuple[str, str]:
    head, slash, last = path.rpartition("/")
    return head + slash, last


def _join(parts: SplitResult, path: str) -> str:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{parts.scheme}://{host}{port}{path}"
