"""Passwords and rates: who is right is known again at once, who guesses waits, whoever it is."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

import bcrypt
import pytest

from exporter.web.guard import Bucket
from exporter.web.passwords import MAX_KNOWN, MAX_WAITING, Busy, Passwords
from exporter.webconfig import Rate

T = TypeVar("T")


def hashed(password: bytes, cost: int = 4) -> str:
    """Return a bcrypt hash."""
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """Return what some work gives, and how long it takes, seconds."""
    begun = time.perf_counter()
    return await work, time.perf_counter() - begun


def test_the_right_password_and_no_other_is_right() -> None:
    """Of that user alone; what follows its 72nd byte counts for nothing, as everywhere with bcrypt."""
    users = {"alice": hashed(b"a" * 72), "bob": hashed("pässword".encode()), "eve": hashed(b"")}
    cases = [
        ("alice", b"a" * 72, True),
        ("alice", b"a" * 80, True),
        ("alice", b"a" * 71, False),
        ("alice", "pässword".encode(), False),
        ("bob", "pässword".encode(), True),
        ("bob", "pässword".encode("latin-1"), False),
        ("bob", b"\0", False),
        ("eve", b"", True),
        ("mallory", b"", False),
        ("mallory", b"a" * 72, False),
        ("", b"", False),
        ("\udcff", b"x", False),
    ]

    async def run() -> None:
        passwords = Passwords()
        for name, password, right in cases * 2:
            assert await passwords.are_right(users, name, password) is right, (name, password)

    asyncio.run(run())


def test_what_was_right_is_known_again_and_what_was_wrong_is_not() -> None:
    """Nor is it once the users are others."""
    users = {"alice": hashed(b"right", 10)}

    async def run() -> None:
        passwords = Passwords()
        assert await passwords.are_right(users, "alice", b"right")
        _, known = await timed(passwords.are_right(users, "alice", b"right"))
        _, wrong = await timed(passwords.are_right(users, "alice", b"wrong"))
        _, again = await timed(passwords.are_right(users, "alice", b"wrong"))
        _, other = await timed(passwords.are_right(dict(users), "alice", b"right"))
        assert min(wrong, again, other) > 10 * known
        assert not await passwords.are_right({"alice": hashed(b"another")}, "alice", b"right")

    asyncio.run(run())


def test_who_is_unknown_costs_as_much_as_who_is_known() -> None:
    """As much as the dearest of all hashes, so that names can't be found out by the time an answer takes."""
    users = {"cheap": hashed(b"x"), "alice": hashed(b"right", 10)}

    async def run() -> None:
        passwords = Passwords()
        known, unknown = [], []
        for n in range(9):
            known.append((await timed(passwords.are_right(users, "alice", b"no%d" % n)))[1])
            unknown.append((await timed(passwords.are_right(users, "nobody", b"no%d" % n)))[1])
        # By the cheap hash it would be a sixtieth, without one a thousandth.
        assert 0.2 < min(unknown) / min(known) < 5

    asyncio.run(run())


def test_guesses_wait_for_one_another_and_only_so_many() -> None:
    """Whoever has been let in does not wait with them."""
    users = {"alice": hashed(b"right", 8)}

    async def run() -> None:
        passwords = Passwords()
        assert await passwords.are_right(users, "alice", b"right")
        guesses = [passwords.are_right(users, "alice", b"guess %d" % n) for n in range(3 * MAX_WAITING)]
        flood = asyncio.gather(*guesses, return_exceptions=True)
        await asyncio.sleep(0)
        assert await passwords.are_right(users, "alice", b"right")
        assert not flood.done()
        outcomes = await flood
        assert outcomes.count(False) == MAX_WAITING
        assert sum(isinstance(outcome, Busy) for outcome in outcomes) == 2 * MAX_WAITING
        assert not await passwords.are_right(users, "alice", b"wrong")

    asyncio.run(run())


def test_what_is_known_is_bounded() -> None:
    """A long password has many forms that are right."""
    users = {"alice": hashed(b"a" * 72)}

    async def run() -> None:
        passwords = Passwords()
        for number in range(MAX_KNOWN + 20):
            assert await passwords.are_right(users, "alice", b"a" * (72 + number))
        assert len(passwords._known) == MAX_KNOWN

    asyncio.run(run())


def test_a_bucket_lets_a_burst_through_and_then_one_an_interval() -> None:
    """And begins anew when the rate is another."""
    now = [0.0]
    bucket, rate = Bucket(lambda: now[0]), Rate(2.0, 3)
    assert [bucket.wait(Rate()) for _ in range(5)] == [0] * 5
    assert [bucket.wait(rate) for _ in range(4)] == [0, 0, 0, 2]
    now[0] = 1.0
    assert bucket.wait(rate) == pytest.approx(1.0)
    now[0] = 2.5
    assert [bucket.wait(rate), bucket.wait(rate)] == [0, pytest.approx(1.5)]
    now[0] = 1000.0
    assert [bucket.wait(rate) > 0 for _ in range(4)] == [False, False, False, True]
    assert bucket.wait(Rate(2.0, 1)) == 0
