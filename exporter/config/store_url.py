"""The value of `--store.url`: how it is parsed, and how it is shown without its password."""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

EXPECTED = "expected sqlite:PATH, or valkey://[USER:PASSWORD@]HOST[:PORT][/DATABASE]"
TLS_OPTIONS = frozenset({"ca-file", "cert-file", "key-file"})
WAIT_OPTION = "wait-replicas"
DEFAULT_PORT = 6379

#: Schemes of a server. For each: whether the connection uses TLS, and whether the server is a cluster.
SERVERS = {
    "valkey": (False, False),
    "redis": (False, False),
    "valkeys": (True, False),
    "rediss": (True, False),
    "valkey-cluster": (False, True),
    "valkeys-cluster": (True, True),
}


class StoreUrl(Struct, frozen=True, kw_only=True):
    """The location of a store. Its text does not contain the password.

    Args:
        scheme: sqlite, or one of SERVERS.
        path: the file of an embedded store. The other fields are those of a server.
        ca_file, cert_file, key_file: PEM files for TLS: trusted authorities, client certificate and its key.
        wait_replicas: number of server replicas that must have a commit before its callbacks are answered.
    """

    scheme: str = "sqlite"
    path: str = ""
    host: str = ""
    port: int = DEFAULT_PORT
    database: int = 0
    user: str = ""
    password: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    wait_replicas: int = 0

    def __str__(self) -> str:
        if self.is_embedded:
            return f"sqlite:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.database}"

    # msgspec would show all fields, and the password with them: in a traceback, for example.
    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"

    @property
    def is_embedded(self) -> bool:
        """Whether the store is an SQLite file."""
        return self.scheme == "sqlite"

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection to the server uses TLS."""
        return SERVERS[self.scheme][0]

    @property
    def is_cluster(self) -> bool:
        """Whether the server belongs to a cluster."""
        return SERVERS[self.scheme][1]


def parse_store(text: str) -> StoreUrl:
    """Return the location in `text`.

    Raises:
        ValueError: the text is malformed. The message never quotes the text: it may contain a password.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "sqlite" and rest:
        return StoreUrl(path=rest)
    if scheme not in SERVERS or not rest.startswith("//"):
        raise ValueError(EXPECTED)
    # Before the text is split, which would treat the end of a password after # as a fragment.
    if "#" in rest:
        raise ValueError("expected no #; write it as %23 in user and password")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(EXPECTED) from None  # the original message may quote the text
    database = parts.path.removeprefix("/")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.hostname or not re.fullmatch(r"[0-9]{0,5}", database):
        raise ValueError(EXPECTED)
    # One digit, so that a typing error can't ask for hundreds of replicas.
    replicas = options.pop(WAIT_OPTION, "0")
    if not re.fullmatch(r"[0-9]", replicas):
        raise ValueError(f"expected a number from 0 to 9 for {WAIT_OPTION}")
    if not options.keys() <= TLS_OPTIONS or (options and not SERVERS[scheme][0]):
        raise ValueError(f"expected after ? only {WAIT_OPTION}; with TLS also ca-file, cert-file, key-file")
    if SERVERS[scheme][1] and int(database or 0):
        raise ValueError("expected database 0: a cluster has no other one")
    return StoreUrl(
        scheme=scheme,
        host=parts.hostname,
        port=DEFAULT_PORT if port is None else port,
        database=int(database or 0),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        wait_replicas=int(replicas),
        **{name.replace("-", "_"): value for name, value in options.items()},
    )
