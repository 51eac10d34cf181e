"""Secrets are compared in constant time, with every secret, whichever matches and however closely."""

import hashlib
import hmac
from collections.abc import Callable

import pytest

from exporter.callbacks.access import Signatures, is_valid_token
from exporter.errors import CallbackError

SECRETS = ("first-secret", "second-secret", "third-secret")
#: Each secret, and wrong ones: of another length, different in the last character, empty.
GIVEN = (*SECRETS, "x", "first-secreT", "first-secret-and-more", "", "x" * 9999, "\udcff")
T = 1_795_500_600


class Comparisons:
    """A comparison that counts its calls."""

    def __init__(self, compare: Callable[[bytes, bytes], bool]) -> None:
        self._compare = compare
        self.lengths: list[tuple[int, int]] = []

    def __call__(self, a: bytes, b: bytes) -> bool:
        """Compare, and record the lengths."""
        self.lengths.append((len(a), len(b)))
        return self._compare(a, b)


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Comparisons:
    """The counter of comparisons in constant time; no other comparison is allowed."""
    counted = Comparisons(hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", counted)
    return counted


class NotComparable(str):
    """A secret that Python must not compare, because its comparison stops at the first difference."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise AssertionError("the secret was not compared in constant time")

    __hash__ = str.__hash__


@pytest.mark.parametrize("given", GIVEN, ids=range(len(GIVEN)))
def test_a_token_is_compared_with_every_token_in_constant_time(comparisons: Comparisons, given: str) -> None:
    """The number of comparisons does not depend on the match; each is of two digests of the same length."""
    tokens = [NotComparable(secret) for secret in SECRETS]
    assert is_valid_token(given, tokens) is (given in SECRETS)
    assert comparisons.lengths == [(32, 32)] * len(SECRETS)


@pytest.mark.parametrize("given", [*SECRETS, "another"])
def test_a_signature_is_compared_with_every_key_in_constant_time(
    comparisons: Comparisons, given: str
) -> None:
    """The number of comparisons does not depend on the key; each is of two digests of the same length."""
    signatures = Signatures(keys=lambda: [NotComparable(secret) for secret in SECRETS], clock=lambda: T)
    body = {"t": T, "sign": hashlib.md5(f"{given}{T}".encode()).hexdigest()}
    if given in SECRETS:
        signatures.check(body)
    else:
        with pytest.raises(CallbackError):
            signatures.check(body)
    assert comparisons.lengths == [(32, 32)] * len(SECRETS)
