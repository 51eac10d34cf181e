"""The part of a request before its body: PROXY protocol header, request line, headers.

A proxy states the address of its client with the PROXY protocol, versions 1 and 2. Some requests are rejected
because of their head, before an app is called, although the HTTP parser accepts them. For the others the app
is called as soon as the head is complete, see `DeferBody`.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from msgspec import Struct

from exporter.server.listener import App

#: The first part of a body that an app receives: empty, and more follows.
EMPTY_FIRST_PART = {"type": "http.request", "body": b"", "more_body": True}

#: All bytes of a request except its body: request line, headers, chunk sizes, trailers.
MAX_HEAD_BYTES = 32_768
MAX_TARGET_BYTES, MAX_HEADERS = 4096, 100
#: Headers that must not be repeated. A proxy may use the first one and this server the last one, so that they
#: disagree about the request: request smuggling (RFC 9112, 3.2 and 6.3).
ONLY_ONCE = frozenset((b"host", b"content-type", b"content-length", b"transfer-encoding"))

#: The status and the text of an answer.
ErrorAnswer = tuple[HTTPStatus, str]

NOT_HTTP: ErrorAnswer = HTTPStatus.BAD_REQUEST, "expected an HTTP/1.1 request"
HEAD_TOO_LONG: ErrorAnswer = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "expected shorter headers"

#: The PROXY protocol. Version 1 is one line of text. Version 2 is binary: 16 fixed bytes, and a rest with its
#: length in them. The address families (TCP over IPv4, over IPv6) have the size and the type of an address.
PROXY_1_BEGINS = b"PROXY "
PROXY_2_BEGINS = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_PROXY_1_BYTES, PROXY_2_FIXED_BYTES, MAX_PROXY_2_BYTES = 107, 16, 4096
PROXY_2_ADDRESSES = {0x11: (4, IPv4Address), 0x21: (16, IPv6Address)}


def check_head(version: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> ErrorAnswer | None:
    """Return the answer that rejects a request because of its head, or None if the head is accepted.

    A request is rejected if a proxy in front might understand it differently (RFC 9112, 3.2 and 6), or if it
    exceeds a limit.

    Args:
        version: the HTTP version, such as 1.1.
        target: the request target as received.
        headers: names in lower case, and values.
    """
    if version not in ("1.0", "1.1"):
        return HTTPStatus.BAD_REQUEST, "expected HTTP/1.1"
    if len(target) > MAX_TARGET_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG, f"expected at most {MAX_TARGET_BYTES} bytes of path and query"
    if len(headers) > MAX_HEADERS:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"expected at most {MAX_HEADERS} headers"
    seen = set()
    for name, value in headers:
        if name not in ONLY_ONCE:
            continue
        if name in seen:
            return HTTPStatus.BAD_REQUEST, f"expected only one {name.decode()} header"
        seen.add(name)
        # HTTP/1.0 has no chunks: a proxy would treat them as the body itself, or as another request.
        if name == b"transfer-encoding" and (version != "1.1" or value.strip().lower() != b"chunked"):
            return HTTPStatus.BAD_REQUEST, "expected only chunked transfer-encoding, in HTTP/1.1"
    return None


def origin_form(target: bytes) -> bytes:
    """Return the path and query of a request target, which may have any form (RFC 9112, 3.2)."""
    if not target.startswith(b"/"):
        _, has_scheme, rest = target.partition(b"://")
        target = b"/" + (rest.partition(b"/")[2] if has_scheme else target)
    return target.replace(b"#", b"%23")  # the URL parser would drop it and the rest


class DeferBody:
    """An ASGI wrapper that calls an app as soon as the headers of a request are complete.

    Falcon waits for the first part of a body before it calls a handler. Without this wrapper a client that
    announces a body and sends none would wait without a limit. A request with a wrong path or a body that is
    too long would not be answered before its body arrives, not even with `Expect: 100-continue`.

    Args:
        app: a Falcon app.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """Call the app with an empty first part of the body."""
        is_first_call = True

        async def deferred() -> Any:
            nonlocal is_first_call
            if not is_first_call:
                return await receive()
            is_first_call = False
            return EMPTY_FIRST_PART

        await self._app(scope, deferred, send)


def error_bytes(error: ErrorAnswer, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of an error answer. The connection must be closed after it."""
    status, text = error
    own = {"content-type": "text/plain", "content-length": str(len(text)), "connection": "close"}
    own |= {name.lower(): value for name, value in headers.items()}
    lines = f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in own.items())
    return ("\r\n".join(lines) + "\r\n\r\n" + text).encode("latin-1")


class ProxyHeader(Struct, frozen=True):
    """A PROXY protocol header.

    Args:
        source: address and port of the proxy's client; None if the header names none, as in a health check.
        length: bytes of the header; 0 if there is no header.
    """

    source: tuple[str, int] | None = None
    length: int = 0


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header at the start of `data`, or None if more bytes are needed to decide.

    Raises:
        ValueError: the data begins like a header and is malformed. The text quotes nothing of it.
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
            raise ValueError(f"expected a PROXY line of at most {MAX_PROXY_1_BYTES} bytes")
        return None
    length = len(line) + len(end)
    words = line.decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader(None, length)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ValueError("expected PROXY TCP4 or TCP6, two addresses and two ports")
    address, port = _proxy_address(words[2]), words[4]
    if not port.isdigit() or int(port) > 65535:
        raise ValueError("expected a port from 0 to 65535")
    return ProxyHeader((str(address), int(port)), length)


def _proxy_address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as exc:  # the original text quotes what was sent
        raise ValueError("expected an IP address") from exc


def _read_version_2(data: bytes) -> ProxyHeader | None:
    version, command = data[12] >> 4, data[12] & 15
    length = PROXY_2_FIXED_BYTES + int.from_bytes(data[14:16])
    if version != 2 or command > 1 or length > MAX_PROXY_2_BYTES:
        raise ValueError(f"expected PROXY protocol version 2, at most {MAX_PROXY_2_BYTES} bytes")
    if len(data) < length:
        return None
    size, form = PROXY_2_ADDRESSES.get(data[13], (0, None))
    # Command 0 is LOCAL: the proxy's own connection, such as a health check. Other families have no IP.
    if command == 0 or form is None:
        return ProxyHeader(None, length)
    if length < PROXY_2_FIXED_BYTES + 2 * size + 4:
        raise ValueError("expected two addresses and two ports")
    address = form(data[16 : 16 + size])
    port = int.from_bytes(data[16 + 2 * size : 18 + 2 * size])
    return ProxyHeader((str(address), port), length)
