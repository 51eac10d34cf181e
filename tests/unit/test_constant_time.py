"""Secrets are compared in constant time: all there are, whichever is right and however much of it."""

import hashlib
import hmac
from collections.abc import Callable

import pytest

from exporter.callbacks.credentials import Signatures, is_valid_token
from exporter.errors import CallbackError

SECRETS = ("first-secret", "second-secret", "third-secret")
#: Right ones at every place, and wrong ones: of another length, right up to the last character, empty.
GIVEN = (*SECRETS, "x", "first-secreT", "first-secret-and-more", "", "x" * 9999, "\udcff")
T = 1_795_500_600


class Comparisons:
    """Counts what is compared, and does it as before."""

    def __init__(self, compare: Callable[[bytes, bytes], bool]) -> None:
        self._compare = compare
        self.lengths: list[tuple[int, int]] = []

    def __call__(self, a: bytes, b: bytes) -> bool:
        """Compare."""
        self.lengths.append((len(a), len(b)))
        return self._compare(a, b)


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> Comparisons:
    """What counts the comparisons in constant time, the only ones that there may be."""
    counted = Comparisons(hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", counted)
    return counted


class Unequal(str):
    """A secret that may not be compared by Python, which ends at the first difference."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared in a time that tells of the secret")

    __hash__ = str.__hash__


@pytest.mark.parametrize("given", GIVEN, ids=range(len(GIVEN)))
def test_a_token_is_held_against_every_token_in_constant_time(comparisons: Comparisons, given: str) -> None:
    """As many comparisons whether the first, the last or none is right, of digests of one length."""
    tokens = [Unequal(secret) for secret in SECRETS]
    assert is_valid_token(given, tokens) is (given in SECRETS)
    assert comparisons.lengths == [(32, 32)] * len(SECRETS)


@pytest.mark.parametrize("given", [*SECRETS, "another"])
def test_a_signature_is_held_against_every_key_in_constant_time(comparisons: Comparisons, given: str) -> None:
    """As many comparisons whichever key it was made with, of digests of one length."""
    signatures = Signatures(keys=lambda: [Unequal(secret) for secret in SECRETS])
    body = {"t": T, "sign": hashlib.md5(f"{given}{T}".encode()).hexdigest()}
    if given in SECRETS:
        signatures.check(body, T)
    else:
        with pytest.raises(CallbackError):
            signatures.check(body, T)
    assert comparisons.lengths == [(32, 32)] * len(SECRETS)
