"""Random requests: valid HTTP with changed content, and HTTP with any bytes changed."""

import re
from collections.abc import Iterator
from random import Random

from msgspec import Struct

from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator
from tests.http import corpus

PIPELINED = 16
MAX_BODY = 60_000
PATHS = (
    *("/", "/metrics", "/-/healthy", "/-/ready", "/api/v1/tasks", "/api/v1/tasks/1250000001/118148"),
    *("/-/style.css", "/tasks/1250000001/118148", "/tasks/1/?id=a%2Fb", "/callbacks", "/favicon.ico"),
    *("/?state=failed&q=room&sort=runs&order=desc&page=2", "/api/v1/tasks?state=active&limit=10&after=5"),
    *("/api/v1/tasks/1/%2e%2e/%00", "/api/v1/tasks/01/x"),
)


class Sent(Struct, frozen=True):
    """The bytes that are sent over one connection.

    Args:
        listener: the listener.
        data: the bytes.
        requests: the number of requests.
        answers: the number of expected answers; None if the bytes may be invalid HTTP.
    """

    listener: str
    data: bytes
    requests: int
    answers: int | None = None


class Requests:
    """An endless source of requests.

    Args:
        chance: the source of randomness.
        path: the path for callbacks.
    """

    def __init__(self, chance: Random, path: str = "/callbacks") -> None:
        self._chance = chance
        self._path = path
        self._bodies = Mutator(chance, seeds.callbacks())
        whole = [part for case in corpus.cases() for part in case.parts if len(part) < 9000]
        whole += [header + corpus.post(corpus.GOOD) for header in seeds.PROXY_HEADERS]
        pages = [
            f"GET {page} HTTP/1.1\r\nHost: test\r\nAccept: text/plain\r\n\r\n".encode() for page in PATHS
        ]
        self._wire = Mutator(chance, [data.replace(b"/callbacks", path.encode()) for data in whole] + pages)
        self._pages = Mutator(chance, [page.encode() for page in PATHS])

    def __iter__(self) -> Iterator[Sent]:
        """Yield requests without end."""
        while True:
            kind = self._chance.random()
            if kind < 0.6:
                yield self._bodies_changed()
            elif kind < 0.75:
                yield self._pages_changed()
            else:
                yield self._wire_changed()

    def _bodies_changed(self) -> Sent:
        """Return valid HTTP with changed bodies; each request gets an answer."""
        count = self._chance.randint(1, PIPELINED)
        bodies = [self._bodies.draw()[:MAX_BODY] for _ in range(count)]
        return Sent("callbacks", b"".join(map(self._post, bodies)) + _last(self._path), count + 1, count + 1)

    def _post(self, body: bytes) -> bytes:
        line = f"POST {self._path} HTTP/1.1\r\nHost: test\r\n".encode()
        if self._chance.random() < 0.7:
            return line + b"Content-Length: %d\r\n\r\n" % len(body) + body
        cut = self._chance.randint(0, len(body))
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
        return line + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    def _pages_changed(self) -> Sent:
        """Return valid HTTP with changed request targets; each request gets an answer."""
        count = self._chance.randint(1, 4)
        pages = [
            re.sub(rb"[^!-~]", b"", self._pages.with_changed_bytes(self._pages.draw())) for _ in range(count)
        ]
        lines = [b"GET /%s HTTP/1.1\r\nHost: test\r\n\r\n" % page[:2000].lstrip(b"/") for page in pages]
        return Sent("web", b"".join(lines) + _last("/-/healthy", "GET"), count + 1, count + 1)

    def _wire_changed(self) -> Sent:
        """Return several requests with any bytes changed."""
        count = self._chance.randint(1, 4)
        data = b"".join(
            self._wire.with_changed_bytes(self._chance.choice(self._wire.seeds)) for _ in range(count)
        )
        return Sent(self._chance.choice(("callbacks", "callbacks", "web")), data, count)


def _last(path: str, method: str = "POST") -> bytes:
    """Return a request that closes its connection."""
    headers = "Host: test\r\nConnection: close\r\nContent-Length: 2"
    return f"{method} {path} HTTP/1.1\r\n{headers}\r\n\r\n{{}}".encode()
