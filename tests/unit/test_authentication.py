"""Passwords: correct ones are remembered, all others are checked one at a time."""

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
    """The hashes that passwords were compared with. The cost of a hash decides how slow it is."""
    hashes: list[str] = []

    def checkpw(password: bytes, text: bytes) -> bool:
        hashes.append(text.decode())
        return compare(password, text)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return hashes


def test_only_the_password_of_the_user_is_accepted() -> None:
    """As everywhere with bcrypt, only the first 72 bytes count."""
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
        for name, password, is_correct in cases * 2:
            assert await passwords.verify(users, name, password) is is_correct, (name, password)

    asyncio.run(run())


def test_a_correct_password_is_remembered_and_a_wrong_one_is_not(compared: list[str]) -> None:
    """A correct password is compared again only after the users have changed; a wrong one each time."""
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
        for number, (current_users, password, is_correct, times) in enumerate(cases):
            compared.clear()
            assert await passwords.verify(current_users, "alice", password) is is_correct, number
            assert len(compared) == times, number

    asyncio.run(run())


def test_an_unknown_user_costs_as_much_as_the_most_expensive_hash(compared: list[str]) -> None:
    """The time of an answer therefore does not reveal which names exist."""
    users = {"cheap": hashed(b"x"), "alice": hashed(b"right", 6), "bob": hashed(b"x", 5)}

    async def run() -> None:
        passwords = Passwords()
        for name, password in (("nobody", b"no"), ("nobody", b"right"), ("", b"no")):
            assert not await passwords.verify(users, name, password)

    asyncio.run(run())
    assert compared == [users["alice"]] * 3


def test_wrong_passwords_are_checked_one_at_a_time_and_few_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remembered password does not wait for them."""
    users = {"alice": hashed(b"right")}
    may_finish, one_at_a_time = threading.Event(), threading.Semaphore(1)

    def checkpw(password: bytes, text: bytes) -> bool:
        assert one_at_a_time.acquire(blocking=False), "two checks at the same time"
        try:
            return password == b"right" or (may_finish.wait(HANG_SECONDS) and compare(password, text))
        finally:
            one_at_a_time.release()

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)

    async def run() -> None:
        passwords = Passwords()
        assert await passwords.verify(users, "alice", b"right")
        guesses = [passwords.verify(users, "alice", b"guess %d" % n) for n in range(3 * MAX_WAITING)]
        flood = asyncio.gather(*guesses, verify_meanwhile(passwords), return_exceptions=True)
        outcomes = await flood
        assert outcomes.pop() is True
        assert outcomes.count(False) == MAX_WAITING
        assert sum(isinstance(outcome, TooManyChecksError) for outcome in outcomes) == 2 * MAX_WAITING
        assert not await passwords.verify(users, "alice", b"wrong")

    async def verify_meanwhile(passwords: Passwords) -> bool:
        """Check a remembered password while all guesses wait, then let them finish."""
        answer = await passwords.verify(users, "alice", b"right")
        may_finish.set()
        return answer

    asyncio.run(run())


def test_the_number_of_remembered_passwords_is_limited() -> None:
    """A long password has many forms that are accepted."""
    users = {"alice": hashed(b"a" * 72)}

    async def run() -> None:
        passwords = Passwords()
        for number in range(MAX_REMEMBERED + 20):
            assert await passwords.verify(users, "alice", b"a" * (72 + number))
        assert len(passwords._remembered) == MAX_REMEMBERED

    asyncio.run(run())
