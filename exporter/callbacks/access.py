"""Who may send callbacks: client addresses, allowed networks, rate limits, path tokens and signatures.

Tokens and signatures are compared in constant time, so that response times reveal nothing about the secrets.
"""

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from exporter.config.flags import Networks
from exporter.errors import CallbackError, Fault

#: A sender that was idle may send the requests of this many seconds together.
BURST_SECONDS = 2.0
#: How many addresses have their network checks cached, and how many senders have a rate limit of their own.
#: Both limits bound the memory, since anybody on the internet can send from many addresses.
MAX_ADDRESSES, MAX_SENDERS = 4096, 10_000
#: More digits are no UNIX time. Python's conversion of very long numbers is slow, too.
MAX_T_DIGITS = 12


class ClientAddress:
    """Finds the client address of a request, and checks it against the allowed networks.

    Args:
        trusted: networks of proxies; only their X-Forwarded-For entries are believed.
        allowed: networks that may send callbacks; if empty, every address may.
    """

    def __init__(self, *, trusted: Networks = (), allowed: Networks = ()) -> None:
        # Parsing an address and comparing it with each network is slow, and the same few senders send most
        # requests, so both results are cached. The caches belong to this object and are freed with it.
        cached = lru_cache(MAX_ADDRESSES)
        self.is_trusted: Callable[[str], bool] = cached(lambda text: _is_in(text, trusted))
        self.may_send: Callable[[str], bool] = cached(lambda text: not allowed or _is_in(text, allowed))

    def resolve(self, peer: str, forwarded: str) -> str:
        """Return the client address of a request.

        Args:
            peer: the address at the other end of the connection.
            forwarded: the X-Forwarded-For header. Each proxy appends the address that it received the request
                from. The header is therefore read from its end, and only as long as the entry before was a
                trusted proxy: the sender may have written the rest.
        """
        for entry in reversed(forwarded.split(",")):
            if not self.is_trusted(peer):
                break
            address = _address(_without_port(entry.strip()))
            # An entry that is no address ends the chain: the last proxy is then the sender.
            if address is None:
                break
            peer = str(address)
        return peer


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


def is_token(text: str) -> bool:
    """Return whether `text` can be a path segment without percent-encoding."""
    return re.fullmatch(r"[A-Za-z0-9._~-]+", text) is not None


def is_valid_token(given: str, tokens: Sequence[str]) -> bool:
    """Return whether `given` is one of `tokens`, in a time that does not depend on the tokens' content.

    Digests of equal length are compared, so that the time does not reveal the length of a token. All tokens
    are compared, so that it does not reveal which one matches.
    """
    digest = _digest(given)
    matches = [hmac.compare_digest(digest, _digest(token)) for token in tokens]
    return any(matches)


def _digest(text: str) -> bytes:
    # surrogateescape: a path may hold bytes that are not UTF-8, which must be a wrong token and no error.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Signatures:
    """Checks the signature of callbacks, their fields `sign` and `t`.

    `t` is the UNIX time at which the signature expires, `sign` the lower-case hex of MD5(key + t). Related
    callbacks of the same service carry both; those of relay tasks are mostly unsigned.

    Args:
        keys: returns the keys that are valid now, several during a rotation.
        is_required: whether a callback without a signature is rejected.
        leeway: how long a signature is still accepted after it has expired, seconds.
        clock: returns UNIX time, seconds.
    """

    def __init__(
        self,
        *,
        keys: Callable[[], Sequence[str]],
        is_required: bool = False,
        leeway: float = 60.0,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._is_required = is_required
        self._leeway = leeway
        self._clock = clock

    def check(self, body: object) -> None:
        """Check the signature of a body.

        Args:
            body: the parsed JSON.

        Raises:
            CallbackError: the signature is wrong or has expired, or is missing where it is required.
        """
        # Signatures are checked before the schema, so the body may be any JSON value.
        fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
        sign, t = fields.get("sign"), fields.get("t")
        if sign is None and t is None:
            if self._is_required:
                raise _error("/sign", "expected a signature")
            return
        expires_at = _unix_seconds(t)
        if expires_at is None:
            raise _error("/t", "expected UNIX seconds")
        # The key is checked before the time, so that only a sender with the key learns that it is late.
        if not isinstance(sign, str) or not _matches_a_key(sign, str(t), self._keys()):
            raise _error("/sign", "the signature matches no configured key")
        if expires_at + self._leeway < self._clock():
            raise _error("/t", "the signature has expired")


def _matches_a_key(sign: str, t: str, keys: Sequence[str]) -> bool:
    given = sign.encode("utf-8", "surrogateescape")
    # All keys are compared, as all tokens are above.
    matches = [hmac.compare_digest(given, _signature(key, t)) for key in keys]
    return any(matches)


def _signature(key: str, t: str) -> bytes:
    # MD5 is what the service uses; it is not our choice.
    return hashlib.md5((key + t).encode(), usedforsecurity=False).hexdigest().encode()


def _unix_seconds(t: object) -> int | None:
    """Return the value of a whole number or of a string of ASCII digits, else None."""
    # bool is a subclass of int in Python.
    if isinstance(t, bool) or not isinstance(t, (int, str)):
        return None
    text = str(t)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_T_DIGITS else None


def _error(pointer: str, message: str) -> CallbackError:
    return CallbackError(403, "signature", (Fault(pointer, message),))
