"""Passwords: right ones are remembered, all others are checked one at a time."""

import asyncio
import threading
from collections.abc import Callable

import bcrypt
import pytest

from exporter.web.authentication import MAX_REMEMBERED, MAX_WAITING, Passwords, TooManyChecksError
from tests.support import HANG_SECONDS

compare: Callable[[bytes, bytes], bool] = bcrypt.checkpw


def hashed(password: bytes, cost: int = 4) -> str:
    """Return a bcrypt hash."""
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that have been compared with: that is what takes time, by the cost of each."""
    hashes: list[str] = []

    def checkpw(password: bytes, text: bytes) -> bool:
        hashes.append(text.decode())
        return compare(password, text)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return hashes


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
            assert await passwords.verify(users, name, password) is right, (name, password)

    asyncio.run(run())


def test_what_was_right_is_known_again_and_what_was_wrong_is_not(compared: list[str]) -> None:
    """What was right is not compared again unless the users are others; what was wrong is, each time."""
    users = {"alice": hashed(b"right")}
    cases = [
        (users, b"right", True, 1),
        (users, b"right", True, 0),
        (users, b"wrong", False, 1),
        (users, b"wrong", False, 1),
        (users, b"right", True, 0),
        (dict(users), b"right", True, 1),
        ({"alice": hashed(b"another")}, b"right", False, 1),
    ]

    async def run() -> None:
        passwords = Passwords()
        for number, (those, password, right, times) in enumerate(cases):
            compared.clear()
            assert await passwords.verify(those, "alice", password) is right, number
            assert len(compared) == times, number

    asyncio.run(run())


def test_who_is_unknown_costs_as_much_as_who_is_known(compared: list[str]) -> None:
    """As much as the dearest of all hashes, so that names can't be found out by the time an answer takes."""
    users = {"cheap": hashed(b"x"), "alice": hashed(b"right", 6), "bob": hashed(b"x", 5)}

    async def run() -> None:
        passwords = Passwords()
        for name, password in (("nobody", b"no"), ("nobody", b"right"), ("", b"no")):
            assert not await passwords.verify(users, name, password)

    asyncio.run(run())
    assert compared == [users["alice"]] * 3


def test_guesses_wait_for_one_another_and_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that is remembered does not wait with them."""
    users = {"alice": hashed(b"right")}
    let_go, at_once = threading.Event(), threading.Semaphore(1)

    def checkpw(password: bytes, text: bytes) -> bool:
        assert at_once.acquire(blocking=False), "two guesses at once"
        try:
            return password == b"right" or (let_go.wait(HANG_SECONDS) and compare(password, text))
        finally:
            at_once.release()

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)

    async def run() -> None:
        passwords = Passwords()
        assert await passwords.verify(users, "alice", b"right")
        guesses = [passwords.verify(users, "alice", b"guess %d" % n) for n in range(3 * MAX_WAITING)]
        flood = asyncio.gather(*guesses, knows(passwords), return_exceptions=True)
        outcomes = await flood
        assert outcomes.pop() is True
        assert outcomes.count(False) == MAX_WAITING
        assert sum(isinstance(outcome, TooManyChecksError) for outcome in outcomes) == 2 * MAX_WAITING
        assert not await passwords.verify(users, "alice", b"wrong")

    async def knows(passwords: Passwords) -> bool:
        """Check a remembered password while all guesses wait, and only then let them finish."""
        answer = await passwords.verify(users, "alice", b"right")
        let_go.set()
        return answer

    asyncio.run(run())


def test_what_is_known_is_bounded() -> None:
    """A long password has many forms that are right."""
    users = {"alice": hashed(b"a" * 72)}

    async def run() -> None:
        passwords = Passwords()
        for number in range(MAX_REMEMBERED + 20):
            assert await passwords.verify(users, "alice", b"a" * (72 + number))
        assert len(passwords._remembered) == MAX_REMEMBERED

    asyncio.run(run())
