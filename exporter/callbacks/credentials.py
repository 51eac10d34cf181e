"""What a sender knows: a token in the path, a key behind a signature. Compared in constant time."""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exporter.errors import CallbackError, Fault

MAX_T_DIGITS = 12


def is_token(text: str) -> bool:
    """Return whether `text` can stand in a path as it is."""
    return re.fullmatch(r"[A-Za-z0-9._~-]+", text) is not None


def knows_token(given: str, tokens: Sequence[str]) -> bool:
    """Return whether `given` is one of `tokens`; how long that takes tells nothing of them.

    Digests are compared, so that not even a length shows, and all of them, so that not even a place does.
    """
    digest = _digest(given)
    matches = [hmac.compare_digest(digest, _digest(token)) for token in tokens]
    return any(matches)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Signatures:
    """Checks `sign` and `t` of callbacks: the lower-case hex of MD5(key + t), and the second it ends.

    The protocol's siblings of these callbacks carry them; those of the relay do not always.

    Args:
        keys: gives the keys as they are now, several while they are rotated; None to look at no signature.
        is_required: whether a callback without a signature is refused.
        leeway: for how long after its end a signature still holds, seconds.
    """

    def __init__(
        self, *, keys: Callable[[], Sequence[str]] | None, is_required: bool = False, leeway: float = 60.0
    ) -> None:
        self._keys = keys
        self._is_required = is_required
        self._leeway = leeway

    def check(self, body: object, now: float) -> None:
        """Look at the signature of a body, UNIX time being `now`.

        Raises:
            CallbackError: it is wrong or over, or missing where it is required.
        """
        if self._keys is None:
            return
        fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
        sign, t = fields.get("sign"), fields.get("t")
        if sign is None and t is None:
            if self._is_required:
                raise _refused("/sign", "expected a signature")
            return
        ends = _seconds(t)
        if ends is None:
            raise _refused("/t", "expected UNIX seconds")
        if not isinstance(sign, str) or not _is_right(sign, str(t), self._keys()):
            raise _refused("/sign", "expected a signature with the key that was agreed")
        if ends + self._leeway < now:
            raise _refused("/t", "the signature is over")


def _is_right(sign: str, t: str, keys: Sequence[str]) -> bool:
    given = sign.encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(given, _signed(key, t)) for key in keys]
    return any(matches)


def _signed(key: str, t: str) -> bytes:
    return hashlib.md5((key + t).encode(), usedforsecurity=False).hexdigest().encode()


def _seconds(t: object) -> int | None:
    """Return the UNIX seconds in `t`, a number or its digits."""
    if isinstance(t, bool) or not isinstance(t, (int, str)):
        return None
    text = str(t)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_T_DIGITS else None


def _refused(pointer: str, message: str) -> CallbackError:
    return CallbackError(403, "signature", (Fault(pointer, message),))
