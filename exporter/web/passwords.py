"""Passwords against bcrypt hashes: dear for who guesses, cheap for who has been let in before.

Guesses are tried one at a time, in a thread that yields to all others, so that callbacks and scrapes don't
wait for them. Only so many may wait.
"""

import asyncio
import contextlib
import hmac
import os
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt

MAX_WAITING = 16
MAX_KNOWN = 256
NICENESS = 10
#: bcrypt looks no further; some of its implementations refuse what is longer, others leave it out.
MAX_PASSWORD_BYTES = 72


class Busy(Exception):  # noqa: N818 - a state rather than a failure
    """So many guesses wait that no further one is taken."""


class Passwords:
    """Tells whether a password is a user's."""

    def __init__(self) -> None:
        # What was right is known again by its digest under a key that never leaves this process.
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, None] = {}
        self._users: Mapping[str, str] = {}
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "passwords", initializer=_yield_to_others)

    async def are_right(self, users: Mapping[str, str], name: str, password: bytes) -> bool:
        """Whether `password` is that of the user `name`.

        Args:
            users: hashes by name, at least one; what is known is forgotten when they are others.

        Raises:
            Busy: too many guesses wait.
        """
        if users is not self._users:
            self._users, self._known = users, {}
        # Who is unknown costs the same: the work is done for another, and its outcome counts for nothing.
        text = users.get(name) or max(users.values(), key=_cost)
        digest = self._digest(name, text, password)
        if digest in self._known:
            return True
        if self._waiting >= MAX_WAITING:
            raise Busy
        self._waiting += 1
        try:
            is_right = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._try, digest, text, password
            )
        finally:
            self._waiting -= 1
        if not is_right or name not in users:
            return False
        self._know(digest)
        return True

    def _try(self, digest: bytes, text: str, password: bytes) -> bool:
        """Compare, unless the same was found right while this waited."""
        return digest in self._known or bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], text.encode())

    def _know(self, digest: bytes) -> None:
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = None

    def _digest(self, name: str, text: str, password: bytes) -> bytes:
        parts = (name.encode("utf-8", "surrogateescape"), text.encode(), password)
        return hmac.digest(self._key, b"".join(len(p).to_bytes(8, "big") + p for p in parts), "sha256")


def _cost(text: str) -> str:
    return text[4:6]


def _yield_to_others() -> None:
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then it has to do without
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
