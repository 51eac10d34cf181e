"""How scripts run on the server: their answers, retries, and the texts of errors."""

import time
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeVar, cast

import valkey
from msgspec import Struct
from valkey.exceptions import (
    AskError,
    AuthorizationError,
    ClusterError,
    NoScriptError,
    ValkeyClusterException,
)

from exporter.config.store_url import StoreUrl
from exporter.errors import StoreUnavailable
from exporter.store.valkey.client import META, connect, execute

R = TypeVar("R")

#: Between two attempts.
PAUSE_SECONDS = 0.1
#: Errors of a cluster that moves the store to another server. They last for a moment.
MOVING = AskError, ClusterError, ValkeyClusterException
#: Errors after which a retry may succeed; PERMANENT has the kinds of ConnectionError after which it can't.
TEMPORARY = valkey.ConnectionError, valkey.TimeoutError, OSError, valkey.ReadOnlyError, *MOVING
PERMANENT = valkey.AuthenticationError, AuthorizationError


class Script:
    """A script of this package.

    Args:
        name: the name of its file.
        guarded: whether it runs only on the store that the exporter knows, see guard.lua.
    """

    def __init__(self, name: str, *, guarded: bool = True) -> None:
        parts = ("common", "guard", name) if guarded else ("common", name)
        folder = Path(__file__).parent
        self.text = "\n".join((folder / f"{part}.lua").read_text() for part in parts)
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Answer(Struct, frozen=True):
    """The answer of a script.

    Args:
        status: `ok`, or the reason why the script did nothing.
        commits: the number of commits of the store.
        micros: the server's time, microseconds.
    """

    status: str
    commits: int
    micros: int
    rest: list[Any]


class ScriptRunner:
    """Runs scripts on the server, from any thread. The arguments are those of `connect`."""

    def __init__(self, url: StoreUrl, password: Callable[[], str] | None = None) -> None:
        self._url = url
        # The client of a cluster connects immediately, so this may fail.
        self._client = self._retry(lambda: connect(url, password))

    def run(
        self,
        script: Script,
        *arguments: str | bytes | float,
        until: float = 0.0,
        replicas: int = 0,
        accepts_fewer_replicas: bool = False,
    ) -> Answer:
        """Run a script and return its answer. It may run twice, so that must have the same result.

        Args:
            until: retry temporary errors until then, monotonic seconds; a broken connection at least once.
            replicas: how many server replicas must confirm what was read or written, within REPLICAS_SECONDS.
            accepts_fewer_replicas: return the answer also if fewer server replicas confirm.

        Raises:
            StoreUnavailable: the server answers with an error or not at all; or too few server replicas
                confirm, although the script has run.
        """

        def once() -> Answer:
            words = 1, META, *arguments
            # A server that has the script needs its digest only. A restart deletes scripts.
            try:
                result = execute(self._client, "EVALSHA", script.digest, *words, replicas=replicas)
            except NoScriptError:
                result = execute(self._client, "EVAL", script.text, *words, replicas=replicas)
            (status, commits, micros, *rest), confirmed = result
            if confirmed < replicas and not accepts_fewer_replicas:
                raise valkey.TimeoutError(f"only {confirmed} of {replicas} server replicas confirmed in time")
            return Answer(status.decode(), commits, micros, rest)

        return self._retry(once, until)

    def ask(self, *command: str | bytes | float) -> Any:
        """Return the answer to a command that only reads; errors are as in `run`."""
        return self._retry(lambda: execute(self._client, *command))[0]

    def setting(self, name: str) -> str | None:
        """Return a setting of the server, None if the server refuses to; other errors are as in `run`."""

        def once() -> str | None:
            try:
                return cast("dict[str, str]", self._client.config_get(name)).get(name)
            except valkey.ResponseError:
                return None

        return self._retry(once)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _retry(self, once: Callable[[], R], until: float = 0.0) -> R:
        """Return what `once` returns; retry temporary errors, and raise StoreUnavailable with advice."""
        is_first = True
        while True:
            try:
                return once()
            except (valkey.ValkeyError, ValkeyClusterException, OSError) as exc:
                # The server became a replica: its name may lead to the primary now, so use new connections.
                if isinstance(exc, valkey.ReadOnlyError) and isinstance(self._client, valkey.Valkey):
                    self._client.connection_pool.disconnect(inuse_connections=False)
                # The server may have closed an idle connection: so the first retry has no pause before it.
                is_in_time = time.monotonic() + PAUSE_SECONDS < until
                is_retried = is_in_time or (is_first and isinstance(exc, valkey.ConnectionError))
                if not is_retried or not isinstance(exc, TEMPORARY) or isinstance(exc, PERMANENT):
                    # No text of a server quotes a password.
                    text = " ".join(str(exc).split())
                    advice = next((f": {what}" for part, what in ADVICE.items() if part in text), "")
                    raise StoreUnavailable(f"store {self._url}: {text}{advice}") from exc
            if not is_first:
                time.sleep(PAUSE_SECONDS)
            is_first = False


#: What to do about an error, by a part of its text.
ADVICE = {
    "WRONGPASS": "set the right user and password in --store.url or --store.password-file",
    "invalid username-password": "set the right user and password in --store.url or --store.password-file",
    "Authentication required": "set a password in --store.url or --store.password-file",
    "without any password": "remove the password from --store.url or --store.password-file",
    "permissions": "give its user +@read +@write +@scripting +@connection +time +wait on ~css-relay:*",
    "refused": "no server is there; start it, or check --store.url. The exporter retries",
    "Name or service": "the server's name is unknown; check --store.url and the DNS. The exporter retries",
    "Timeout": "the server does not answer in time; check its load and the network. The exporter retries",
    "timed out": "the server does not answer in time; check its load and the network. The exporter retries",
    "LOADING": "the server is still reading its files; wait. The exporter retries",
    "loading the dataset": "the server is still reading its files; wait. The exporter retries",
    "read only replica": "the server is a replica; set --store.url to a name that leads to the primary",
    "MISCONF": "the server can't write its files; check its disk and its log",
    "NOREPLICAS": "too few server replicas keep up; check them, or lower the server's min-replicas-to-write",
    "replicas confirmed": "check the server's replicas, or lower ?wait-replicas= in --store.url",
    "used memory": "the server's memory is full; raise its maxmemory",
    "certificate": "set ?ca-file= in --store.url to the authority that signed the server's certificate",
    "DB index is out of range": "set another database in --store.url",
}
