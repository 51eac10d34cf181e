"""The client of a server or a cluster, and the one server of it that has the store."""

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
#: How long the server waits for its replicas before it answers; the client must wait longer.
REPLICAS_SECONDS = 1.0

#: The tag in it puts all keys of a store into the same slot of a cluster.
KEY_PREFIX = "css-relay:{0}:"
META = KEY_PREFIX + "meta"
#: What is written for WAIT to wait for.
MARK = KEY_PREFIX + "mark"

Client = valkey.Valkey | ValkeyCluster


class _Credentials(CredentialProvider):
    """What a new connection shows: the password as it is then, so that it changes without a restart."""

    def __init__(self, user: str, password: Callable[[], str]) -> None:
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return (self._user, self._password()) if self._user else (self._password(),)


def connect(url: StoreUrl, password: Callable[[], str] | None = None) -> Client:
    """Return a client of the server, or of the cluster.

    Args:
        password: asked at each new connection; None for that of the URL.
    """
    options: dict[str, Any] = {
        "host": url.host,
        "port": url.port,
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        "ssl": url.is_encrypted,
    }
    if url.is_encrypted:
        options |= {
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
    return valkey.Valkey(db=url.database, retry=Retry(NoBackoff(), 0), **options)


def execute(client: Client, *command: str | bytes | float) -> Any:
    """Return what the server that has the store answers to a command."""
    run: Callable[..., Any] = client.execute_command
    return run(*command)


def execute_kept(client: Client, replicas: int, *command: str | bytes | float) -> tuple[Any, int]:
    """Return what is answered to a command, and how many replicas have all that it wrote or saw.

    WAIT speaks of what its own connection has written. So it follows on the same one, and a mark is written
    in between: what the command saw of others' writes, or of its own before a lost answer, is older.

    Args:
        replicas: how many are waited for, up to REPLICAS_SECONDS.
    """
    try:
        answer, marked, kept = _in_a_row(
            _server_of(client), command, ("SET", MARK, 1), ("WAIT", replicas, round(REPLICAS_SECONDS * 1000))
        )
        if isinstance(answer, Exception):
            raise answer
    except (valkey.ConnectionError, valkey.TimeoutError, AskError, ClusterDownError):
        _look_for_servers(client)
        raise
    for error in (marked, kept):
        if isinstance(error, NoPermissionError):
            raise error
    # A server that takes no writes now, or has become a replica, says of no replica that it has it.
    is_known = not isinstance(marked, Exception) and not isinstance(kept, Exception)
    return answer, int(kept) if is_known else 0


def _in_a_row(server: valkey.Valkey, *commands: tuple[str | bytes | float, ...]) -> list[Any]:
    """Return answers and errors of commands that go to a server on one connection, at once."""
    with server.pipeline(transaction=False) as pipe:
        add: Callable[..., Any] = pipe.execute_command
        for command in commands:
            add(*command)
        send: Callable[..., list[Any]] = pipe.execute
        return send(raise_on_error=False)


def _server_of(client: Client) -> valkey.Valkey:
    """Return the server that has the store's keys."""
    if isinstance(client, valkey.Valkey):
        return client
    node = client.get_node_from_key(META)  # type: ignore[no-untyped-call]
    return cast("valkey.Valkey", client.get_valkey_connection(node))  # type: ignore[no-untyped-call]


def _look_for_servers(client: Client) -> None:
    """Learn anew which server of a cluster has what; for plain commands the client does so by itself."""
    if isinstance(client, ValkeyCluster):
        client.nodes_manager.initialize()  # type: ignore[no-untyped-call]
