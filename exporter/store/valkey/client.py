"""The client of a server or a cluster, and of the one server in a cluster that has the store."""

from collections.abc import Callable
from typing import Any, cast

import valkey
from valkey.backoff import NoBackoff
from valkey.cluster import ValkeyCluster
from valkey.credentials import CredentialProvider
from valkey.exceptions import AskError, ClusterDownError, NoPermissionError
from valkey.retry import Retry

from exporter.config.store_url import StoreUrl

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 3.0
#: How long the server waits for server replicas before it answers. It must be less than ANSWER_SECONDS.
REPLICAS_SECONDS = 1.0

#: A cluster chooses the slot of a key by the text in braces. So all keys of a store are in the same slot, and
#: one script can use them all.
KEY_PREFIX = "css-relay:{0}:"
META = KEY_PREFIX + "meta"
#: A key that is only written so that WAIT has a write to wait for.
WAIT_KEY = KEY_PREFIX + "mark"

Client = valkey.Valkey | ValkeyCluster


class _Credentials(CredentialProvider):
    """The credentials of new connections. The password may change without a restart."""

    def __init__(self, user: str, password: Callable[[], str]) -> None:
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return (self._user, self._password()) if self._user else (self._password(),)


def connect(url: StoreUrl, password: Callable[[], str] | None = None) -> Client:
    """Return a client of the server, or of the cluster.

    Args:
        password: called for each new connection; None to use the password in the URL.
    """
    options: dict[str, Any] = {
        "host": url.host,
        "port": url.port,
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        "ssl": url.is_encrypted,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": url.ca_file or None,
        "ssl_certfile": url.cert_file or None,
        "ssl_keyfile": url.key_file or None,
    }
    if password is None:
        options |= {"username": url.user or None, "password": url.password or None}
    else:
        options["credential_provider"] = _Credentials(url.user, password)
    if url.is_cluster:
        return ValkeyCluster(**options)
    # No retries in the library: ScriptRunner decides what may be run again.
    return valkey.Valkey(db=url.database, retry=Retry(NoBackoff(), 0), **options)


def execute(client: Client, *command: str | bytes | float, replicas: int = 0) -> tuple[Any, int]:
    """Return the answer to a command, and how many server replicas have all that it wrote or read.

    Args:
        replicas: the number of server replicas to wait for, up to REPLICAS_SECONDS.
    """
    if not replicas:
        return client.execute_command(*command), 0  # type: ignore[no-untyped-call]
    # WAIT covers only writes of its own connection, so it follows the command on the same one. WAIT_KEY is
    # written in between, since the command may write nothing itself: it may read what others wrote, or be a
    # retry after its answer was lost. Server replicas that have this write have all writes before it.
    commands = command, ("SET", WAIT_KEY, 1), ("WAIT", replicas, round(REPLICAS_SECONDS * 1000))
    try:
        with _server_of(client).pipeline(transaction=False) as pipe:
            for each in commands:
                pipe.execute_command(*each)  # type: ignore[no-untyped-call]
            answer, written, replicated = pipe.execute(raise_on_error=False)  # type: ignore[no-untyped-call]
        if isinstance(answer, Exception):
            raise answer
    except (valkey.ConnectionError, valkey.TimeoutError, AskError, ClusterDownError):
        # For single commands the library reads the cluster's map again itself, for a pipeline it does not.
        if isinstance(client, ValkeyCluster):
            client.nodes_manager.initialize()  # type: ignore[no-untyped-call]
        raise
    for error in (written, replicated):
        if isinstance(error, NoPermissionError):
            raise error
    # A server that accepts no writes now, or has become a server replica, can't confirm any.
    is_confirmed = not isinstance(written, Exception) and not isinstance(replicated, Exception)
    return answer, int(replicated) if is_confirmed else 0


def _server_of(client: Client) -> valkey.Valkey:
    """Return the server that has the store's keys."""
    if isinstance(client, valkey.Valkey):
        return client
    node = client.get_node_from_key(META)  # type: ignore[no-untyped-call]
    return cast("valkey.Valkey", client.get_valkey_connection(node))  # type: ignore[no-untyped-call]
