"""Access to the callback listener: client addresses, tokens, signatures, rate limits, the PROXY protocol."""

import hashlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.callbacks.access import ClientAddress, RateLimit, Signatures, is_token, is_valid_token
from exporter.config.flags import parse_networks
from exporter.errors import CallbackError
from exporter.server.request_head import ProxyHeader, read_proxy_header
from tests.unit.histories import max_examples

PROXIES = parse_networks("10.0.0.0/8, 2001:db8:ffff::/48")
NOW = 1_795_500_000.0


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.9, rubbish", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9,,", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:ffff::1", "2001:DB8::0:7", "2001:db8::7"),
        ("", "198.51.100.7", ""),
    ],
)
def test_a_client_address_is_read_from_trusted_proxies_only(peer: str, forwarded: str, source: str) -> None:
    """The header is read from its end, as long as the addresses are trusted."""
    assert ClientAddress(trusted=PROXIES).resolve(peer, forwarded) == source


def test_no_proxy_is_trusted_by_default() -> None:
    """The header is ignored."""
    assert ClientAddress().resolve("10.0.0.1", "198.51.100.7") == "10.0.0.1"


def test_only_allowed_networks_may_send() -> None:
    """All networks if none is set; an invalid address may not send."""
    source = ClientAddress(allowed=parse_networks("192.0.2.0/24,2001:db8::/32"))
    assert source.may_send("192.0.2.255")
    assert source.may_send("::ffff:192.0.2.1")
    assert source.may_send("2001:db8::1")
    assert not source.may_send("192.0.3.0")
    assert not source.may_send("2001:db9::1")
    assert not source.may_send("")
    assert ClientAddress().may_send("")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "a", "10.0.0.0/33", "10.0.0.0/8;11.0.0.0/8"])
def test_an_invalid_network_is_refused(text: str) -> None:
    """So is an address with host bits, which is probably a mistake."""
    with pytest.raises(ValueError, match="expected networks"):
        parse_networks(text)


def test_any_of_the_tokens_is_valid() -> None:
    """No similar text is valid."""
    tokens = ("first-token", "second-token")
    assert is_valid_token("first-token", tokens)
    assert is_valid_token("second-token", tokens)
    for wrong in ("", "first-toke", "first-tokens", "FIRST-TOKEN", "first-token\0", "\udcff"):
        assert not is_valid_token(wrong, tokens)
    assert not is_valid_token("", ())


@pytest.mark.parametrize(
    ("text", "is_usable"), [("aB1._~-", True), ("", False), ("a/b", False), ("a b", False), ("é", False)]
)
def test_a_token_must_be_valid_in_a_path(text: str, is_usable: bool) -> None:
    """It must need no escape."""
    assert is_token(text) is is_usable


def signed(key: str, t: object) -> dict[str, object]:
    """Return the fields of a signature."""
    return {"t": t, "sign": hashlib.md5(f"{key}{t}".encode()).hexdigest()}


def fault_of(body: object, *, keys: tuple[str, ...] = ("k1", "k2"), is_required: bool = False) -> str:
    """Return the pointer of a signature's fault, empty if there is none."""
    try:
        Signatures(keys=lambda: keys, is_required=is_required, clock=lambda: NOW).check(body)
    except CallbackError as rejected:
        is_for_signature = (rejected.status, rejected.reason) == (403, "signature")
        return rejected.faults[0].pointer if is_for_signature else "not rejected for its signature"
    return ""


def test_a_signature_with_any_of_the_keys_is_valid() -> None:
    """It is valid until its time plus the leeway of 60 s. `t` may be a number or a string."""
    assert fault_of(signed("k1", 1_795_500_600)) == ""
    assert fault_of(signed("k2", "1795500600")) == ""
    assert fault_of(signed("k1", int(NOW) - 60)) == ""
    assert fault_of(signed("k1", int(NOW) - 61)) == "/t"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (signed("other", 1_795_500_600), "/sign"),
        (signed("k1", 1_795_500_600) | {"t": 1_795_500_601}, "/sign"),
        (signed("k1", 1_795_500_600) | {"sign": None}, "/sign"),
        (signed("k1", 1_795_500_600) | {"sign": 7}, "/sign"),
        (signed("k1", 1_795_500_600) | {"sign": "é\udcff"}, "/sign"),
        ({"sign": "00"}, "/t"),
        (signed("k1", "soon"), "/t"),
        (signed("k1", "١٧٩٥٥٠٠٦٠٠"), "/t"),
        (signed("k1", "9" * 5000), "/t"),
        (signed("k1", -1), "/t"),
        (signed("k1", 1.5), "/t"),
        (signed("k1", True), "/t"),
        ({"t": [], "sign": "00"}, "/t"),
    ],
)
def test_a_wrong_signature_is_refused(body: object, pointer: str) -> None:
    """Whether a signature is required or not."""
    assert fault_of(body) == pointer
    assert fault_of(body, is_required=True) == pointer


def test_a_missing_signature_is_refused_only_if_required() -> None:
    """A body that is not an object has no signature."""
    for body in ({}, {"msg": "sign"}, [], None, "sign"):
        assert fault_of(body) == ""
        assert fault_of(body, is_required=True) == "/sign"


def test_a_client_is_limited_to_a_rate() -> None:
    """Bursts up to twice the rate; other clients are not affected."""
    rate = RateLimit(2)
    assert [rate.acquire("192.0.2.1", 0.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert rate.acquire("192.0.2.2", 0.0) == 0
    assert rate.acquire("192.0.2.1", 0.25) == 0.25
    assert rate.acquire("192.0.2.1", 0.5) == 0
    assert rate.acquire("192.0.2.1", 0.5) == 0.5
    assert [rate.acquire("192.0.2.1", 1000.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]


def test_addresses_of_one_ipv6_network_share_a_bucket() -> None:
    """One client can have many of these addresses."""
    rate = RateLimit(1)
    assert [rate.acquire(f"2001:db8:0:1::{n:x}", 0.0) for n in range(3)] == [0, 0, 1]
    assert rate.acquire("2001:db8:0:2::1", 0.0) == 0
    assert rate.acquire("fe80::1%eth0", 0.0) == 0
    assert rate.acquire("no:address", 0.0) == 0


def test_the_number_of_remembered_clients_is_limited() -> None:
    """The client not seen for the longest time is forgotten first."""
    rate = RateLimit(1, max_senders=2)
    for source in ("a", "b", "a", "c"):
        assert rate.acquire(source, 0.0) == 0
    assert rate.acquire("a", 0.0) == 1
    assert rate.acquire("b", 0.0) == 0


REQUEST = b"POST /callbacks HTTP/1.1\r\n"


def proxy_v2_header(command: int, form: int, addresses: bytes, *, version: int = 2) -> bytes:
    """Return a header of version 2 of the PROXY protocol."""
    head = b"\r\n\r\n\0\r\nQUIT\n" + bytes([version << 4 | command, form])
    return head + len(addresses).to_bytes(2) + addresses


def packed(source: str, target: str, ports: tuple[int, int]) -> bytes:
    """Return two addresses and two ports in the form of version 2."""
    hosts = b"".join(ipaddress.ip_address(host).packed for host in (source, target))
    return hosts + b"".join(port.to_bytes(2) for port in ports)


HEADERS = {
    b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 8314\r\n": ("198.51.100.7", 4711),
    b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 8314\r\n": ("2001:db8::7", 4711),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN anything at all\r\n": None,
    proxy_v2_header(1, 0x11, packed("198.51.100.7", "192.0.2.1", (4711, 8314))): ("198.51.100.7", 4711),
    proxy_v2_header(1, 0x21, packed("2001:db8::7", "2001:db8::1", (4711, 8314)) + b"more"): (
        "2001:db8::7",
        4711,
    ),
    proxy_v2_header(0, 0x11, packed("198.51.100.7", "192.0.2.1", (4711, 8314))): None,
    proxy_v2_header(1, 0x31, bytes(216)): None,
    proxy_v2_header(0, 0, b""): None,
}


@pytest.mark.parametrize("header", HEADERS)
def test_the_address_of_a_proxy_header_is_read(header: bytes) -> None:
    """Each form is read, in pieces of any size; the bytes that follow are not read."""
    expected = ProxyHeader(HEADERS[header], len(header))
    assert read_proxy_header(header + REQUEST) == expected
    for end in range(len(header)):
        assert read_proxy_header(header[:end]) is None
    assert read_proxy_header(header) == expected


def test_a_connection_may_begin_without_a_proxy_header() -> None:
    """The connection then begins with a request."""
    assert read_proxy_header(REQUEST) == ProxyHeader()
    assert read_proxy_header(b"PUT") == ProxyHeader()


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 198.51.100.7 192.0.2.1 4711\r\n",
        b"PROXY TCP4 198.51.100.700 192.0.2.1 4711 8314\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 x 8314\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 99999 8314\r\n",
        b"PROXY UDP4 198.51.100.7 192.0.2.1 4711 8314\r\n",
        b"PROXY " + b"x" * 200,
        proxy_v2_header(1, 0x11, b"short"),
        proxy_v2_header(2, 0x11, bytes(12)),
        proxy_v2_header(1, 0x11, bytes(12), version=1),
        proxy_v2_header(1, 0x11, bytes(5000)),
    ],
)
def test_a_broken_header_is_refused(data: bytes) -> None:
    """It is not read as a request."""
    with pytest.raises(ValueError, match=r"."):
        read_proxy_header(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n"]))
@max_examples(100)
def test_any_bytes_are_read_or_refused(data: bytes, begin: bytes) -> None:
    """A header is read, is incomplete, is absent, or is refused."""
    try:
        header = read_proxy_header(begin + data)
    except ValueError:
        return
    assert header is None or 0 <= header.length <= len(begin + data)
