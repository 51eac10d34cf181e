"""Where a request comes from, past proxies that are trusted to say it, and whether that may be."""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

REMEMBERED = 4096


def parse_networks(text: str) -> Networks:
    """Return the networks in `text`, in CIDR notation with commas between them."""
    try:
        return tuple(ip_network(item.strip()) for item in text.split(",") if item.strip())
    except ValueError as exc:
        raise ValueError("expected networks such as 10.0.0.0/8,2001:db8::/32") from exc


class Source:
    """Finds out where requests come from.

    Args:
        trusted: networks of the proxies whose word is taken.
        allowed: networks that may send, all if there are none.
    """

    def __init__(self, *, trusted: Networks = (), allowed: Networks = ()) -> None:
        self._trusted = trusted
        self._allowed = allowed
        #: Whether an address is that of a trusted proxy, and whether one may send: the same few ask again.
        self.is_trusted: Callable[[str], bool] = lru_cache(REMEMBERED)(self._is_trusted)
        self.may_send: Callable[[str], bool] = lru_cache(REMEMBERED)(self._may_send)

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


def _address(text: str) -> Address | None:
    """Return the address in `text`; one of IPv4 in the clothes of IPv6 is one of IPv4."""
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
