"""Where a store is: what `--store.url` says, and how that may be shown."""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

EXPECTED = "expected sqlite:PATH, or valkey://[USER:PASSWORD@]HOST[:PORT][/DATABASE]"
TLS_OPTIONS = frozenset({"ca-file", "cert-file", "key-file"})
WAIT_OPTION = "wait-replicas"
DEFAULT_PORT = 6379

#: Schemes of a server, and whether it is spoken to over TLS and is a cluster.
SERVERS = {
    "valkey": (False, False),
    "redis": (False, False),
    "valkeys": (True, False),
    "rediss": (True, False),
    "valkey-cluster": (False, True),
    "valkeys-cluster": (True, True),
}


class StoreUrl(Struct, frozen=True, kw_only=True):
    """Where a store is; as text it is without the password.

    Args:
        scheme: sqlite, or one of SERVERS.
        path: the file of an embedded store.
        host, port, database, user, password: of a server.
        ca_file, cert_file, key_file: PEM files for TLS: whom to believe, and who this is.
        wait_replicas: how many replicas of a server must have a commit before it is answered.
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

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"

    @property
    def is_embedded(self) -> bool:
        """Whether it is a file."""
        return self.scheme == "sqlite"

    @property
    def is_encrypted(self) -> bool:
        """Whether the server is spoken to over TLS."""
        return SERVERS[self.scheme][0]

    @property
    def is_cluster(self) -> bool:
        """Whether the server is one of a cluster."""
        return SERVERS[self.scheme][1]


def parse_store(text: str) -> StoreUrl:
    """Return where the store is.

    Raises:
        ValueError: the text is malformed; what is said of it names no password.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "sqlite" and rest:
        return StoreUrl(path=rest)
    if scheme not in SERVERS or not rest.startswith("//"):
        raise ValueError(EXPECTED)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(EXPECTED) from None  # it may quote the text
    database = parts.path.removeprefix("/")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.hostname or parts.fragment or not re.fullmatch(r"[0-9]{0,5}", database):
        raise ValueError(EXPECTED)
    replicas = options.pop(WAIT_OPTION, "0")
    if not re.fullmatch(r"[0-9]", replicas):
        raise ValueError(f"expected in {WAIT_OPTION} a number up to 9")
    if not options.keys() <= TLS_OPTIONS or (options and not SERVERS[scheme][0]):
        raise ValueError(
            f"expected after ? only {WAIT_OPTION}, and ca-file, cert-file, key-file of rediss:// or valkeys://"
        )
    if SERVERS[scheme][1] and int(database or 0):
        raise ValueError("a cluster has no databases but 0")
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
