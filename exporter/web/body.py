"""How bodies are read: whole, in time, and never more than may be."""

from collections.abc import Callable, Coroutine
from typing import Any

from exporter.errors import Fault, Rejected
from exporter.web.patience import Patience

BODY_SECONDS = 10.0


class Bodies:
    """Holds bodies to what their headers promise.

    Args:
        max_bytes: the longest that is read.
        seconds: how long one may take to arrive.
    """

    def __init__(self, max_bytes: int, seconds: float = BODY_SECONDS) -> None:
        self.max_bytes = max_bytes
        self._patience = Patience(seconds)

    async def whole(self, arriving: Coroutine[Any, Any, bytes], length: int) -> bytes:
        """Return a body of that many bytes.

        Args:
            arriving: returns what comes, as much as may be.
            length: what was promised, bytes.

        Raises:
            Rejected: it did not come in time, or not whole.
        """
        raw = await self._in_time(arriving)
        if len(raw) < length:
            raise _cut_off(f"expected {length} bytes, {len(raw)} came")
        return raw

    async def unmeasured(self, arriving: Coroutine[Any, Any, bytes], is_cut_off: Callable[[], bool]) -> bytes:
        """Return a body whose length nobody promised; its last chunk must have come, and not too many.

        Raises:
            Rejected: it did not come in time, or not whole, or is too long.
        """
        raw = await self._in_time(arriving)
        if len(raw) > self.max_bytes:
            raise self.too_large()
        if is_cut_off():
            raise _cut_off("expected the last chunk")
        return raw

    def too_large(self) -> Rejected:
        """Return the refusal of a body that is too long."""
        return Rejected(413, "too_large", (Fault("", f"expected at most {self.max_bytes} bytes"),))

    async def _in_time(self, arriving: Coroutine[Any, Any, bytes]) -> bytes:
        try:
            return await self._patience.wait(arriving)
        except TimeoutError as exc:
            raise _cut_off(f"expected the whole body within {self._patience.seconds:g} s") from exc


def _cut_off(message: str) -> Rejected:
    return Rejected(408, "length", (Fault("", message),))
