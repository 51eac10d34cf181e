"""The short way in: an ordinary callback is taken without the framework's request and response.

Making those costs as much as parsing, folding and committing what they carry. Ordinary is a POST that has
come whole, in plain bytes, no longer than is read; the framework deals with all the rest, and answers an
ordinary callback just the same (the tests send everything both ways).
"""

import time
from collections.abc import Coroutine, Mapping

from exporter.connection import Answer, Headers
from exporter.errors import Rejected
from exporter.web.admission import Admission
from exporter.web.intake import TAKEN, Intake


def _answer(status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
    own = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in own.items())
    return status, lines.encode("latin-1") + b"\r\n" + body


_TAKEN = _answer(200, TAKEN, {})


class Express:
    """Answers ordinary callbacks.

    Args:
        intake: takes callbacks.
        admission: lets senders in.
        max_bytes: the longest that is ordinary.
    """

    def __init__(self, *, intake: Intake, admission: Admission, max_bytes: int) -> None:
        self._intake = intake
        self._admission = admission
        self._max_bytes = max_bytes

    def take(
        self, path: str, headers: Headers, body: bytes, peer: str
    ) -> Coroutine[object, object, Answer] | None:
        """Return what answers a POST that has come whole; None of one for the framework.

        Args:
            path: what it asks for.
            headers: as they came, their names in lower case.
            body: as long as its header promised.
            peer: the address at the other end of the connection.
        """
        if not 0 < len(body) <= self._max_bytes:
            return None
        forwarded = None
        for name, value in headers:
            if name == b"content-encoding" or (name == b"x-forwarded-for" and forwarded is not None):
                return None
            if name == b"x-forwarded-for":
                forwarded = value.decode("latin-1")
        return self._taken(path, self._admission.source_of(peer, forwarded), body)

    async def _taken(self, path: str, source: str, body: bytes) -> Answer:
        begun = time.perf_counter()
        try:
            self._admission.admit(source, path)
            await self._intake.take(body, source, begun)
        except Rejected as rejected:
            refusal = self._intake.refuse(rejected, source, begun)
            return _answer(refusal.status, refusal.body, refusal.headers)
        return _TAKEN
