"""How often a source may ask: a bucket each, which fills again with time."""

from collections import OrderedDict
from ipaddress import ip_address, ip_network

BURST_SECONDS = 2.0
REMEMBERED = 10_000


class Rate:
    """Lets each source ask so many times a second, and twice as many at once.

    Args:
        per_second: requests of one source; all addresses of an IPv6 /64 are one.
        remembered: sources that are kept in mind; past it the one heard longest ago is taken for a new one.
    """

    def __init__(self, per_second: float, *, remembered: int = REMEMBERED) -> None:
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
