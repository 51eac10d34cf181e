"""The way to the server: scripts and their answers, what is tried again, and how a failure is told."""

import time
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeVar, cast

import valkey
from msgspec import Struct
from valkey.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    ConnectionError,  # noqa: A004 - the library's own
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    TimeoutError,  # noqa: A004
    ValkeyClusterException,
    ValkeyError,
)

from exporter.config.store_url import StoreUrl
from exporter.errors import StoreUnavailable
from exporter.store.valkey.client import META, connect, execute, execute_kept

R = TypeVar("R")

PAUSE_SECONDS = 0.1


class Script:
    """A script of this package.

    Args:
        name: of its file.
        guarded: whether it runs only on the store that the caller knows.
    """

    def __init__(self, name: str, *, guarded: bool = True) -> None:
        parts = ("common", "guard", name) if guarded else ("common", name)
        folder = Path(__file__).parent
        self.text = "\n".join((folder / f"{part}.lua").read_text() for part in parts)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Answer(Struct, frozen=True):
    """What a script answered.

    Args:
        status: `ok`, or what stood in the way.
        commits: how many commits the store has seen.
        micros: the server's time, microseconds.
        rest: what was asked for.
        replicas: how many have all that it tells or wrote; of those that were waited for.
    """

    status: str
    commits: int
    micros: int
    rest: list[Any]
    replicas: int = 0


class ScriptRunner:
    """Runs scripts on the server, from any thread.

    Args:
        url: where it is.
        password: returns the server's password as it is now; None for that of the URL.
    """

    def __init__(self, url: StoreUrl, password: Callable[[], str] | None = None) -> None:
        self._url = url
        self._client = self._explained(lambda: connect(url, password), 0.0)  # a cluster is asked at once

    def run(
        self,
        script: Script,
        *arguments: str | bytes | float,
        until: float = 0.0,
        replicas: int = 0,
        is_lenient: bool = False,
    ) -> Answer:
        """Run a script and return its answer; it must do no harm to run it again.

        A connection that turned out to be broken is made anew once; up to `until` (monotonic seconds) all
        that may pass is waited for.

        Args:
            replicas: how many must have what it wrote or saw before it is answered, within a second or so.
            is_lenient: whether it is answered, too, where not so many have it.

        Raises:
            StoreUnavailable: the server does not answer, or not as it should; or its replicas do not.
        """

        def once() -> Answer:
            (status, commits, micros, *rest), kept = self._evaluate(script, arguments, replicas)
            if kept < replicas and not is_lenient:
                raise TimeoutError(f"{kept} of {replicas} replicas have it in time")
            return Answer(status.decode(), commits, micros, rest, kept)

        return self._explained(once, until)

    def ask(self, *command: str | bytes | float, until: float = 0.0) -> Any:
        """Return what is answered to a command that writes nothing; failures are as in `run`."""
        return self._explained(lambda: execute(self._client, *command), until)

    def setting(self, name: str) -> str | None:
        """Return a setting of the server, None if it is not told.

        Raises:
            StoreUnavailable: the server does not answer.
        """

        def once() -> dict[Any, Any]:
            try:
                return cast("dict[Any, Any]", self._client.config_get(name))
            except valkey.ResponseError:
                return {}

        values = [v.decode() if isinstance(v, bytes) else str(v) for v in self._explained(once, 0.0).values()]
        return values[0] if values else None

    def close(self) -> None:
        """Let go of all connections."""
        self._client.close()  # type: ignore[no-untyped-call]
        if isinstance(self._client, valkey.Valkey):
            self._client.connection_pool.disconnect()

    def _evaluate(
        self, script: Script, arguments: tuple[str | bytes | float, ...], replicas: int
    ) -> tuple[Any, int]:
        try:
            return self._execute(replicas, "EVALSHA", script.digest, 1, META, *arguments)
        except NoScriptError:
            return self._execute(replicas, "EVAL", script.text, 1, META, *arguments)

    def _execute(self, replicas: int, *command: str | bytes | float) -> tuple[Any, int]:
        if replicas:
            return execute_kept(self._client, replicas, *command)
        return execute(self._client, *command), 0

    def _explained(self, once: Callable[[], R], until: float) -> R:
        """Do it, again if the connection broke, and say what failed in the end."""
        is_first = True
        while True:
            try:
                return once()
            except (ValkeyError, ValkeyClusterException, OSError) as exc:
                if isinstance(exc, ReadOnlyError):
                    self._turn_away()
                again = _is_passing(exc) and (
                    time.monotonic() + PAUSE_SECONDS < until
                    or (is_first and isinstance(exc, ConnectionError))
                )
                if not again:
                    raise StoreUnavailable(f"store {self._url}: {_advice(exc)}") from exc
            if not is_first:
                time.sleep(PAUSE_SECONDS)
            is_first = False

    def _turn_away(self) -> None:
        """Leave a server that has become a replica; the name may lead to another one by now."""
        if isinstance(self._client, valkey.Valkey):
            self._client.connection_pool.disconnect(inuse_connections=False)


def _is_passing(exc: Exception) -> bool:
    """Whether it may go well when it is done again."""
    if isinstance(exc, (AuthenticationError, AuthorizationError, NoPermissionError)):
        return False
    # A cluster moves a store to another server, and for a moment may not know to which.
    of_cluster = (AskError, ClusterError, ValkeyClusterException)
    return isinstance(exc, (ConnectionError, TimeoutError, OSError, ReadOnlyError, *of_cluster))


def _advice(exc: Exception) -> str:
    """Return what happened and what to do about it; a server's texts quote no password."""
    text = " ".join(str(exc).split())
    return next((f"{text}: {what}" for sign, what in ADVICE.items() if sign in text), text)


ADVICE = {
    "WRONGPASS": "give --store.url the right user and password",
    "invalid username-password": "give --store.url the right user and password",
    "Authentication required": "give --store.url a password",
    "without any password": "take the password out of --store.url",
    "permissions": "give its user +@read +@write +@scripting +@connection +time +wait on ~css-relay:*",
    "refused": "the server is not there; it is tried again",
    "Name or service": "the server's name is not known; it is tried again",
    "Timeout": "the server does not answer in time; it is tried again",
    "timed out": "the server does not answer in time; it is tried again",
    "LOADING": "the server still reads its files; it is tried again",
    "loading the dataset": "the server still reads its files; it is tried again",
    "read only replica": "the server is a replica; point --store.url at a name that leads to the primary",
    "MISCONF": "the server can't write its files; look at its log",
    "NOREPLICAS": "the server has too few replicas that keep up; look at them, or at min-replicas-to-write",
    "replicas have it": "look at the server's replicas, or lower ?wait-replicas= of --store.url",
    "used memory": "the server's memory is full; raise its maxmemory",
    "certificate": "give --store.url ?ca-file= of those who signed the server's certificate",
    "DB index is out of range": "give --store.url another database",
}
