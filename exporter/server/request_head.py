"""What comes before a request's body: the header of a proxy, the request line, the headers.

A proxy says whose a connection is by the PROXY protocol, versions 1 and 2. Some requests are refused by their
head before anything looks at them, though the parser has nothing against them.
"""

from collections.abc import Mapping
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

#: Everything of a request but its body: first line, headers, sizes of chunks, what follows the last chunk.
MAX_HEAD_BYTES = 32_768
MAX_TARGET_BYTES, MAX_HEADERS = 4096, 100
#: Two of one of them are read by one program as the first, by another as the second (RFC 9112, 3.2 and 6.3).
ONLY_ONCE = frozenset((b"host", b"content-type", b"content-length", b"transfer-encoding"))

#: The status of an answer, and what it says.
Refusal = tuple[HTTPStatus, str]

NO_HTTP: Refusal = HTTPStatus.BAD_REQUEST, "expected an HTTP/1.1 request"
HEAD_TOO_LONG: Refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long"

#: How the two versions of the PROXY protocol begin, how long they are, and the forms of addresses.
PROXY_1_BEGINS = b"PROXY "
PROXY_2_BEGINS = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_PROXY_1_BYTES, PROXY_2_FIXED_BYTES, MAX_PROXY_2_BYTES = 107, 16, 4096
PROXY_2_ADDRESSES = {0x11: (4, IPv4Address), 0x21: (16, IPv6Address)}


def refusal_of(version: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> Refusal | None:
    """Return why a request is refused by its headers, None if it is not.

    Refused is what another program in front might read differently (RFC 9112, 3.2 and 6), and what is out of
    all bounds.

    Args:
        version: of HTTP, such as 1.1.
        target: what is asked for, as it came.
        headers: their names in lower case.
    """
    if version not in ("1.0", "1.1"):
        return HTTPStatus.BAD_REQUEST, "expected HTTP/1.1"
    if len(target) > MAX_TARGET_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG, "the request target is too long"
    if len(headers) > MAX_HEADERS:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "there are too many headers"
    seen = set()
    for name, value in headers:
        if name not in ONLY_ONCE:
            continue
        if name in seen:
            return HTTPStatus.BAD_REQUEST, f"expected {name.decode()} only once"
        seen.add(name)
        if name == b"transfer-encoding" and (version != "1.1" or value.strip().lower() != b"chunked"):
            return HTTPStatus.BAD_REQUEST, "expected no transfer-encoding but chunked, in HTTP/1.1"
    return None


def origin_form(target: bytes) -> bytes:
    """Return a request target as path and query, whichever of its forms it has (RFC 9112, 3.2)."""
    if not target.startswith(b"/"):
        _, has_scheme, rest = target.partition(b"://")
        target = b"/" + (rest.partition(b"/")[2] if has_scheme else target)
    return target.replace(b"#", b"%23")  # it would end the path unseen


def answer(refusal: Refusal, headers: Mapping[str, str]) -> bytes:
    """Return the answer to a request that is refused, after which its connection closes."""
    status, text = refusal
    own = {"content-type": "text/plain", "content-length": str(len(text)), "connection": "close"}
    own |= {name.lower(): value for name, value in headers.items()}
    lines = f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in own.items())
    return ("\r\n".join(lines) + "\r\n\r\n" + text).encode("latin-1")


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
    if PROXY_2_BEGINS.startswith(data[:12]) and len(data) < PROXY_2_FIXED_BYTES:
        return None
    if data.startswith(PROXY_2_BEGINS):
        return _read_version_2(data)
    if PROXY_1_BEGINS.startswith(data[:6]) and len(data) < len(PROXY_1_BEGINS):
        return None
    return _read_version_1(data) if data.startswith(PROXY_1_BEGINS) else ProxyHeader()


def _read_version_1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:MAX_PROXY_1_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_PROXY_1_BYTES:
            raise ValueError("expected the end of a PROXY line")
        return None
    length = len(line) + len(end)
    words = line.decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(None, length)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ValueError("expected PROXY TCP4 or TCP6, two addresses and two ports")
    address, port = _proxy_address(words[2]), words[4]
    if not port.isdigit() or int(port) > 65535:
        raise ValueError("expected a port")
    return ProxyHeader((str(address), int(port)), length)


def _proxy_address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as exc:  # its own text repeats what was sent
        raise ValueError("expected an address") from exc


def _read_version_2(data: bytes) -> ProxyHeader | None:
    version, command = data[12] >> 4, data[12] & 15
    length = PROXY_2_FIXED_BYTES + int.from_bytes(data[14:16])
    if version != 2 or command > 1 or length > MAX_PROXY_2_BYTES:
        raise ValueError("expected version 2 of the PROXY protocol")
    if len(data) < length:
        return None
    size, form = PROXY_2_ADDRESSES.get(data[13], (0, None))
    if command == 0 or form is None:
        return ProxyHeader(None, length)
    if length < PROXY_2_FIXED_BYTES + 2 * size + 4:
        raise ValueError("expected two addresses and two ports")
    address = form(data[16 : 16 + size])
    port = int.from_bytes(data[16 + 2 * size : 18 + 2 * size])
    return ProxyHeader((str(address), port), length)
