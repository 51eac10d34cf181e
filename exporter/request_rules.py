"""Which requests are refused before anything looks at them, though the parser has nothing against them."""

from collections.abc import Mapping
from http import HTTPStatus

#: Everything of a request but its body: first line, headers, sizes of chunks, what follows the last chunk.
MAX_HEAD_BYTES = 32_768
MAX_TARGET_BYTES, MAX_HEADERS = 4096, 100
#: Two of one of them are read by one program as the first, by another as the second (RFC 9112, 3.2 and 6.3).
ONLY_ONCE = frozenset((b"host", b"content-type", b"content-length", b"transfer-encoding"))

#: The status of an answer, and what it says.
Refusal = tuple[HTTPStatus, str]

NO_HTTP: Refusal = HTTPStatus.BAD_REQUEST, "expected an HTTP/1.1 request"
HEAD_TOO_LONG: Refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long"


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
