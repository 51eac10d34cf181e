"""Who may send callbacks: from where, how often, by which path and with which signature.

Nothing here knows a clock, a file or a framework; the callback listener asks it.
"""

from exporter.access.addresses import Networks, Source, parse_networks
from exporter.access.credentials import Signatures, is_token, knows_token
from exporter.access.proxy import ProxyHeader, read_proxy_header
from exporter.access.rate import Rate

__all__ = [
    "Networks",
    "ProxyHeader",
    "Rate",
    "Signatures",
    "Source",
    "is_token",
    "knows_token",
    "parse_networks",
    "read_proxy_header",
]
