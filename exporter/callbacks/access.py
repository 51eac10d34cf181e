"""Who may send callbacks: from where, how often, and by which path."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from exporter.callbacks.credentials import knows_token
from exporter.config.flags import Networks
from exporter.errors import CallbackError, Fault

PATH = "/callbacks"
BURST_SECONDS = 2.0
#: Addresses whose place in the networks is remembered, and sources whose requests are counted.
MAX_ADDRESSES, MAX_SOURCES = 4096, 10_000


class ClientAddress:
    """Finds out where requests come from.

    Args:
        trusted: networks of the proxies whose word is taken.
        allowed: networks that may send, all if there are none.
    """

    def __init__(self, *, trusted: Networks = (), allowed: Networks = ()) -> None:
        self._trusted = trusted
        self._allowed = allowed
        #: Whether an address is that of a trusted proxy, and whether one may send: the same few ask again.
        self.is_trusted: Callable[[str], bool] = lru_cache(MAX_ADDRESSES)(self._is_trusted)
        self.may_send: Callable[[str], bool] = lru_cache(MAX_ADDRESSES)(self._may_send)

    def of(self, peer: str, forwarded: str | None) -> str:
        """Return the address that a request comes from.

        Args:
            peer: the other end of the connection.
            forwarded: its X-Forwarded-For header. Each proxy adds whom it got the request from, so that it
                is read from its end for as long as trusted proxies speak; anybody may have written the rest.
        """
        if not forwarded or not self._trusted:
            return peer
        for entry in reversed(forwarded.split(",")):
            if not self.is_trusted(peer):
                break
            address = _address(_without_port(entry.strip()))
            if address is None:
                break
            peer = str(address)
        return peer

    def _is_trusted(self, text: str) -> bool:
        return _is_in(text, self._trusted)

    def _may_send(self, text: str) -> bool:
        return not self._allowed or _is_in(text, self._allowed)


def _is_in(text: str, networks: Networks) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in `text`; an IPv4-mapped IPv6 address is one of IPv4."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(entry: str) -> str:
    """Return the host of ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


class RateLimit:
    """Lets each source ask so many times a second, and twice as many at once.

    Args:
        per_second: requests of one source; all addresses of an IPv6 /64 are one.
        remembered: sources that are kept in mind; past it the one heard longest ago is taken for a new one.
    """

    def __init__(self, per_second: float, *, remembered: int = MAX_SOURCES) -> None:
        self._per_second = per_second
        self._full = max(per_second * BURST_SECONDS, 1.0)
        self._remembered = remembered
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, source: str, now: float) -> float:
        """Count a request; return 0, or if it is one too many, after how many seconds it would not be.

        Args:
            source: the address it comes from.
            now: seconds on a clock that never goes back.
        """
        name = _household(source)
        left, since = self._buckets.pop(name, (self._full, now))
        left = min(self._full, left + (now - since) * self._per_second)
        wait = 0.0 if left >= 1 else (1 - left) / self._per_second
        self._buckets[name] = (left - 1 if wait == 0 else left), now
        if len(self._buckets) > self._remembered:
            self._buckets.popitem(last=False)
        return wait


def _household(source: str) -> str:
    if ":" not in source:
        return source
    try:
        return str(ip_network((ip_address(source.partition("%")[0]), 64), strict=False))
    except ValueError:
        return source


class CallbackAccess:
    """Lets in whom it should, and knows where they come from.

    Args:
        source: finds addresses, and says which may send.
        clock: seconds on a clock that never goes back.
        rate: how often each may, None for as often as it likes.
        tokens: gives the secrets that the path must end with, None for a path without.
    """

    def __init__(
        self,
        *,
        source: ClientAddress,
        clock: Callable[[], float],
        rate: RateLimit | None = None,
        tokens: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._source = source
        self._rate = rate
        self._tokens = tokens
        self._clock = clock

    def source_of(self, peer: str, forwarded: str | None) -> str:
        """Return the address that a request comes from, as `Source.of` does."""
        return self._source.of(peer, forwarded)

    def admit(self, source: str, path: str) -> None:
        """Let a request in.

        Args:
            source: the address it comes from.
            path: what it asks for.

        Raises:
            CallbackError: the address may not send, or sends too often, or the path is unknown. A wrong token
                gets the answer of an unknown path.
        """
        if not self._source.may_send(source):
            raise CallbackError(403, "address", (Fault("", "this address may not send"),))
        if self._rate is not None and (wait := self._rate.wait(source, self._clock())):
            raise CallbackError(429, "rate", (Fault("", "too many"),), {"Retry-After": str(math.ceil(wait))})
        if not self._leads_here(path):
            raise CallbackError(404, "token", (Fault("", "there is nothing here"),))

    def _leads_here(self, path: str) -> bool:
        if self._tokens is None:
            return path == PATH
        return knows_token(path.removeprefix(PATH + "/"), self._tokens()) and path.startswith(PATH + "/")
