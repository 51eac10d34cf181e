"""Credentials of a sender: a token in the path, and a signature made with a shared key.

Both are compared in constant time, so that response times reveal nothing about the secrets.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exporter.errors import CallbackError, Fault

#: More digits are no UNIX time. Python's conversion of very long numbers is slow, too.
MAX_T_DIGITS = 12


def is_token(text: str) -> bool:
    """Return whether `text` can be a path segment without percent-encoding."""
    return re.fullmatch(r"[A-Za-z0-9._~-]+", text) is not None


def is_valid_token(given: str, tokens: Sequence[str]) -> bool:
    """Return whether `given` is one of `tokens`, in a time that does not depend on the tokens' content.

    Digests of equal length are compared, so that the time does not reveal the length of a token. All tokens
    are compared, so that it does not reveal which one matches.
    """
    digest = _digest(given)
    matches = [hmac.compare_digest(digest, _digest(token)) for token in tokens]
    return any(matches)


def _digest(text: str) -> bytes:
    # surrogateescape: a path may hold bytes that are not UTF-8, which must be a wrong token and no error.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Signatures:
    """Checks the signature of callbacks, their fields `sign` and `t`.

    `t` is the UNIX time at which the signature expires, `sign` the lower-case hex of MD5(key + t). Related
    callbacks of the same service carry both; those of relay tasks are mostly unsigned.

    Args:
        keys: returns the keys that are valid now, several during a rotation; None to check no signature.
        is_required: whether a callback without a signature is rejected.
        leeway: how long a signature is still accepted after it has expired, seconds.
    """

    def __init__(
        self, *, keys: Callable[[], Sequence[str]] | None, is_required: bool = False, leeway: float = 60.0
    ) -> None:
        self._keys = keys
        self._is_required = is_required
        self._leeway = leeway

    def check(self, body: object, now: float) -> None:
        """Check the signature of a body.

        Args:
            body: the parsed JSON.
            now: UNIX time, seconds.

        Raises:
            CallbackError: the signature is wrong or has expired, or is missing where it is required.
        """
        if self._keys is None:
            return
        # Signatures are checked before the schema, so the body may be any JSON value.
        fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
        sign, t = fields.get("sign"), fields.get("t")
        if sign is None and t is None:
            if self._is_required:
                raise _error("/sign", "expected a signature")
            return
        expires_at = _unix_seconds(t)
        if expires_at is None:
            raise _error("/t", "expected UNIX seconds")
        # The key is checked before the time, so that only a sender with the key learns that it is late.
        if not isinstance(sign, str) or not _matches_a_key(sign, str(t), self._keys()):
            raise _error("/sign", "the signature matches no configured key")
        if expires_at + self._leeway < now:
            raise _error("/t", "the signature has expired")


def _matches_a_key(sign: str, t: str, keys: Sequence[str]) -> bool:
    given = sign.encode("utf-8", "surrogateescape")
    # All keys are compared, as all tokens are above.
    matches = [hmac.compare_digest(given, _signature(key, t)) for key in keys]
    return any(matches)


def _signature(key: str, t: str) -> bytes:
    # MD5 is what the service uses; it is not our choice.
    return hashlib.md5((key + t).encode(), usedforsecurity=False).hexdigest().encode()


def _unix_seconds(t: object) -> int | None:
    """Return the value of a whole number or of a string of ASCII digits, else None."""
    # bool is a subclass of int in Python.
    if isinstance(t, bool) or not isinstance(t, (int, str)):
        return None
    text = str(t)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_T_DIGITS else None


def _error(pointer: str, message: str) -> CallbackError:
    return CallbackError(403, "signature", (Fault(pointer, message),))
