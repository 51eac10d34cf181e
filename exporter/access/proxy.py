"""How a proxy says whose a connection is, before all else: the PROXY protocol, versions 1 and 2."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

SIGNATURE_1 = b"PROXY "
SIGNATURE_2 = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_BYTES_1, FIXED_BYTES_2, MAX_BYTES_2 = 107, 16, 4096
FORMS = {0x11: (4, IPv4Address), 0x21: (16, IPv6Address)}


class ProxyHeader(Struct, frozen=True):
    """What a proxy said.

    Args:
        source: the address of its caller and the port, None where it speaks for itself.
        length: bytes of the header, 0 where there is none.
    """

    source: tuple[str, int] | None = None
    length: int = 0


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header that `data` begins with, None while more of it must come.

    Raises:
        ValueError: it begins like a header, and is none.
    """
    if SIGNATURE_2.startswith(data[:12]) and len(data) < FIXED_BYTES_2:
        return None
    if data.startswith(SIGNATURE_2):
        return _second(data)
    if SIGNATURE_1.startswith(data[:6]) and len(data) < len(SIGNATURE_1):
        return None
    return _first(data) if data.startswith(SIGNATURE_1) else ProxyHeader()


def _first(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:MAX_BYTES_1].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_BYTES_1:
            raise ValueError("expected the end of a PROXY line")
        return None
    length = len(line) + len(end)
    words = line.decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(None, length)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ValueError("expected PROXY TCP4 or TCP6, two addresses and two ports")
    address, port = _address(words[2]), words[4]
    if not port.isdigit() or int(port) > 65535:
        raise ValueError("expected a port")
    return ProxyHeader((str(address), int(port)), length)


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as exc:  # its own text repeats what was sent
        raise ValueError("expected an address") from exc


def _second(data: bytes) -> ProxyHeader | None:
    version, command = data[12] >> 4, data[12] & 15
    length = FIXED_BYTES_2 + int.from_bytes(data[14:16])
    if version != 2 or command > 1 or length > MAX_BYTES_2:
        raise ValueError("expected version 2 of the PROXY protocol")
    if len(data) < length:
        return None
    size, form = FORMS.get(data[13], (0, None))
    if command == 0 or form is None:
        return ProxyHeader(None, length)
    if length < FIXED_BYTES_2 + 2 * size + 4:
        raise ValueError("expected two addresses and two ports")
    address = form(data[16 : 16 + size])
    port = int.from_bytes(data[16 + 2 * size : 18 + 2 * size])
    return ProxyHeader((str(address), port), length)
