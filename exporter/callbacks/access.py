"""Access to the callback listener: client addresses, allowed networks, rate limits and path tokens."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from exporter.callbacks.credentials import is_valid_token
from exporter.config.flags import Networks
from exporter.errors import CallbackError, Fault

PATH = "/callbacks"
#: A sender that was idle may send the requests of this many seconds together.
BURST_SECONDS = 2.0
#: How many addresses have their network checks cached, and how many senders have a rate limit of their own.
#: Both limits bound the memory, since anybody on the internet can send from many addresses.
MAX_ADDRESSES, MAX_SENDERS = 4096, 10_000


class ClientAddress:
    """Finds the client address of a request, and checks it against the allowed networks.

    Args:
        trusted: networks of proxies; only their X-Forwarded-For entries are believed.
        allowed: networks that may send callbacks; if empty, every address may.
    """

    def __init__(self, *, trusted: Networks = (), allowed: Networks = ()) -> None:
        self._trusted = trusted
        self._allowed = allowed
        # Parsing an address and comparing it with each network is slow, and the same few senders send most
        # requests, so both results are cached. The caches belong to this object and are freed with it.
        self.is_trusted: Callable[[str], bool] = lru_cache(MAX_ADDRESSES)(self._is_trusted)
        self.may_send: Callable[[str], bool] = lru_cache(MAX_ADDRESSES)(self._may_send)

    def resolve(self, peer: str, forwarded: str | None) -> str:
        """Return the client address of a request.

        Args:
            peer: the address at the other end of the connection.
            forwarded: the X-Forwarded-For header, None without one. Each proxy appends the address that it
                received the request from. The header is therefore read from its end, and only as long as the
                entry before was a trusted proxy: the sender may have written the rest.
        """
        if not forwarded or not self._trusted:
            return peer
        for entry in reversed(forwarded.split(",")):
            if not self.is_trusted(peer):
                break
            address = _address(_without_port(entry.strip()))
            # An entry that is no address ends the chain: the last proxy is then the sender.
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
    """Return the address in `text`, or None. An IPv4-mapped IPv6 address is returned as IPv4."""
    try:
        # Link-local IPv6 addresses carry a zone ("fe80::1%eth0"), which is no part of the address.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket reports IPv4 senders as ::ffff:a.b.c.d; operators configure IPv4 networks for them.
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(entry: str) -> str:
    """Return the host of ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    # One colon is IPv4 with a port. More colons are an IPv6 address without brackets, which has no port.
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


class RateLimit:
    """Limits the rate of each sender, with bursts (a token bucket).

    Args:
        per_second: requests per second of one sender, above 0; bursts may be BURST_SECONDS times as large.
            All addresses of an IPv6 /64 network are one sender.
        max_senders: maximum number of senders that are remembered. Above it the sender that was idle longest
            is dropped, and may send a whole burst next time.
    """

    def __init__(self, per_second: float, *, max_senders: int = MAX_SENDERS) -> None:
        self._per_second = per_second
        # At least one: with a rate below 0.5 per second no request would ever be allowed otherwise.
        self._capacity = max(per_second * BURST_SECONDS, 1.0)
        self._max_senders = max_senders
        #: By sender, the longest idle first: the requests that it may send now, and the time of the last one.
        self._senders: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def acquire(self, source: str, now: float) -> float:
        """Count a request; return 0 if it is allowed, else the seconds until the next one would be.

        Args:
            source: the client address.
            now: seconds on a monotonic clock.
        """
        sender = _sender_of(source)
        # Removed and inserted again, so that the order of the senders is that of their last requests.
        allowance, updated_at = self._senders.pop(sender, (self._capacity, now))
        allowance = min(self._capacity, allowance + (now - updated_at) * self._per_second)
        # A request over the limit uses up nothing: a sender that keeps trying is allowed again after a while.
        wait_seconds = 0.0 if allowance >= 1 else (1 - allowance) / self._per_second
        self._senders[sender] = (allowance - 1 if wait_seconds == 0 else allowance), now
        if len(self._senders) > self._max_senders:
            self._senders.popitem(last=False)
        return wait_seconds


def _sender_of(source: str) -> str:
    """Return the sender at an address: an IPv4 address, or the /64 network of an IPv6 address."""
    if ":" not in source:
        return source
    # One IPv6 customer usually has a whole /64; a limit for each address would limit nothing.
    try:
        return str(ip_network((ip_address(source.partition("%")[0]), 64), strict=False))
    except ValueError:
        return source


class CallbackAccess:
    """Checks whether a request may be handled as a callback, and finds its client address.

    Args:
        client_addresses: finds client addresses, and knows the allowed networks.
        clock: returns seconds on a monotonic clock.
        rate_limit: the rate limit, None for no limit.
        tokens: returns the valid path tokens, of which the path must end with one; None if the path is
            `/callbacks` without a token.
    """

    def __init__(
        self,
        *,
        client_addresses: ClientAddress,
        clock: Callable[[], float],
        rate_limit: RateLimit | None = None,
        tokens: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._client_addresses = client_addresses
        self._rate_limit = rate_limit
        self._tokens = tokens
        self._clock = clock

    def client_address(self, peer: str, forwarded: str | None) -> str:
        """Return the client address of a request, see `ClientAddress.resolve`."""
        return self._client_addresses.resolve(peer, forwarded)

    def check(self, source: str, path: str) -> None:
        """Check the address, the rate and the path of a request.

        Args:
            source: the client address.

        Raises:
            CallbackError: the address may not send, sends too often, or uses a wrong path or token. A wrong
                token gets the same answer as a wrong path, so that nobody learns which it was.
        """
        # The cheap checks come first, and the rate is limited before tokens are compared: it limits guesses.
        if not self._client_addresses.may_send(source):
            raise CallbackError(403, "address", (Fault("", "this address may not send callbacks"),))
        if self._rate_limit is not None and (wait := self._rate_limit.acquire(source, self._clock())):
            retry = {"Retry-After": str(math.ceil(wait))}
            fault = Fault("", "too many requests; send the callback again later")
            raise CallbackError(429, "rate", (fault,), retry)
        if not self._is_callback_path(path):
            raise CallbackError(404, "token", (Fault("", "the path or its token is wrong"),))

    def _is_callback_path(self, path: str) -> bool:
        if self._tokens is None:
            return path == PATH
        # The token is compared first, also for a path that can't be right: the time must not depend on it.
        return is_valid_token(path.removeprefix(PATH + "/"), self._tokens()) and path.startswith(PATH + "/")
