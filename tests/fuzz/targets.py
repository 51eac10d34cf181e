"""The fuzz targets within a process: each accepts any bytes and raises if an invariant does not hold.

hypothesis, atheris (guided by coverage) and the mutation of valid inputs use the same targets.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from itertools import count
from typing import Any

import orjson
from jsonschema import Draft202012Validator
from msgspec import Struct

from exporter.callbacks.access import ClientAddress, RateLimit, Signatures, is_valid_token
from exporter.config.flags import parse_networks
from exporter.errors import REASONS, CallbackError
from exporter.protocol.callback import Callback, Ignored
from exporter.protocol.events import EventKind
from exporter.protocol.parser import MAX_MESSAGE, Parser
from exporter.protocol.redact import Redactor, redact_text
from exporter.protocol.schemas import MAX_FAULTS, Schemas
from exporter.relay import FoldSettings, Task, fold
from exporter.server.request_head import MAX_PROXY_2_BYTES, PROXY_2_FIXED_BYTES, read_proxy_header
from exporter.store.protocol import decode_task, encode
from exporter.web.operators import _prefers_openmetrics
from exporter.web.pages.status_page import read_query
from tests.fuzz import seeds
from tests.fuzz.fold import check_fold
from tests.fuzz.reader import Reader
from tests.fuzz.seeds import SECRET
from tests.fuzz.store import check_store

#: The limit of processor time for one input of `make fuzz`: a hundred times the time of the largest input.
MAX_SECONDS = 2.0

REDACTOR = Redactor(key=b"key", plain_hosts=["*.myqcloud.com"])
SCHEMAS = Schemas()
PARSER = Parser(schemas=SCHEMAS, redactor=REDACTOR)
ARRIVAL = 1_795_500_000.0


class Target(Struct, frozen=True):
    """A fuzz target.

    Args:
        check: accepts an input, and raises if an invariant does not hold.
        seeds: valid inputs.
    """

    check: Callable[[bytes], None]
    seeds: Sequence[bytes]


def check_parser(data: bytes) -> None:
    """Check that the parser raises only CallbackError, with a reason, and that a callback can be stored."""
    try:
        callback = PARSER.parse(data)
    except CallbackError as rejected:
        assert (rejected.status, rejected.reason) in ((400, "json"), (400, "schema"))
        assert rejected.reason in REASONS
        assert 1 <= len(rejected.faults) <= MAX_FAULTS
        orjson.dumps([{"pointer": fault.pointer, "message": fault.message} for fault in rejected.faults])
        return
    if isinstance(callback, Ignored):
        return
    _check_value(callback)
    task = Task(appid=callback.appid, task_id=callback.task_id or "t", first_seen=ARRIVAL)
    folded = fold(task, callback, ARRIVAL, FoldSettings())
    assert decode_task(encode(folded.task)) == folded.task


def _check_value(callback: Callback) -> None:
    assert callback.appid >= 0
    assert len(callback.task_id) <= 256
    assert callback.task_id or callback.kind is EventKind.EXIT
    assert len(callback.message) <= MAX_MESSAGE
    assert callback.message.isprintable()
    assert callback.duration_seconds >= 0
    assert callback.stated_ms is None or callback.stated_ms > 0
    assert callback.event_time_seconds is None or callback.event_time_seconds > 0
    assert "?" not in callback.to_url
    assert "@" not in callback.to_host


def check_schemas(data: bytes) -> None:
    """Check that both validators give the same verdict on the JSON in the bytes, for every event."""
    try:
        body = orjson.loads(data)
        msg = body["msg"]
        body["msg"] = orjson.loads(msg) if isinstance(msg, str) else msg
    except (orjson.JSONDecodeError, TypeError, KeyError, IndexError):
        return
    for kind in EventKind:
        schema = SCHEMAS.events[kind]
        slow: Draft202012Validator = schema._explainer
        assert bool(schema.explain(body)) == (not schema.is_valid(body)), kind
        assert slow.is_valid(body) == schema.is_valid(body), kind


HOSTS = ("push.example.com", "5000.livepush.myqcloud.com", "[2001:db8::1]:1935", "h:99999")
SCHEMES = ("rtmp://", "RTMPS://", "srt+x://", "9p://", "://", "")


def check_redactor(data: bytes) -> None:
    """Check that redaction removes a secret from every part of a URL or a text, whatever surrounds it."""
    reader = Reader(data)
    scheme, host, place = reader.one_of(SCHEMES), reader.one_of(HOSTS), reader.number() % 4
    before, after, name = reader.text(), reader.text(), reader.text()
    url = (
        scheme
        + (
            f"{_without(before, '/?#@')}{SECRET}@{host}/live/{_without(name, '?#')}",
            f"{host}/live/{_without(before, '?#')}?{after}{SECRET}{name}",
            f"{host}/live/{_without(before, '?#')}#{after}{SECRET}{name}",
            f"push.example.org/{_without(before, '?#')}/{SECRET}",
        )[place]
    )
    stream = (name, SECRET)[place == 3 and scheme[:1].isalpha()]
    shown = REDACTOR.destination(url, stream)
    _, digest = REDACTOR.sources([url])
    assert SECRET not in "".join((*shown[:2], digest)), url
    # The name of a stream is only a secret if it is also the stream key of the destination.
    assert (
        SECRET not in shown[2].partition("?")[0]
        or stream != SECRET
        or place != 3
        or shown[0] == "_unreadable"
    ), url
    if scheme[:1].isalnum():
        _check_texts(url, place, before, name)


def _check_texts(url: str, place: int, before: str, name: str) -> None:
    """Check the URL within a text, where a URL ends at white space, quotation marks and angle brackets."""
    word = "".join(c for c in url if c.isprintable() and not c.isspace() and c not in "\"'<>\\")
    text = f"{before} {word} {name}"[-1500:] if len(url) < 700 else word
    assert SECRET not in REDACTOR.message(text, "rtmp://push.example.com/a/b"), text
    if place < 3:  # the log's filter does not know stream keys, and logged texts have none
        assert SECRET not in redact_text(text), text


def _without(text: str, characters: str) -> str:
    return "".join(c for c in text if c not in characters)


def check_proxy(data: bytes) -> None:
    """Check that only ValueError is raised, and that the length of a header does not depend on its parts."""
    whole = _proxy(data)
    if isinstance(whole, int):
        assert whole <= PROXY_2_FIXED_BYTES + MAX_PROXY_2_BYTES
        for end in range(min(whole, len(data))):
            assert _proxy(data[:end]) in (None, 0) or end == whole, end
    if whole is None:
        assert len(data) <= MAX_PROXY_2_BYTES


def _proxy(data: bytes) -> int | str | None:
    """Return the length of a header, None if more bytes are needed, "bad" if it is not valid."""
    try:
        header = read_proxy_header(data)
    except ValueError:
        return "bad"
    if header is not None and header.source is not None:
        ip_address(header.source[0])
        assert 0 <= header.source[1] <= 65535
    return None if header is None else header.length


TRUSTED = ClientAddress(
    trusted=parse_networks("10.0.0.0/8,127.0.0.0/8,::1"), allowed=parse_networks("192.0.2.0/24")
)
RATE = RateLimit(10, max_senders=100)
TICKS = count()


def check_source(data: bytes) -> None:
    """Check that a source is an address (an untrusted peer's own), and that its wait is limited."""
    header = data.decode("latin-1")
    assert TRUSTED.resolve("203.0.113.9", header) == "203.0.113.9"
    source = TRUSTED.resolve("127.0.0.1", header)
    ip_address(source.partition("%")[0])
    assert isinstance(TRUSTED.may_send(source), bool)
    assert TRUSTED.may_send(header) in (True, False)
    assert 0 <= RATE.acquire(source, next(TICKS) / 50) <= 0.1
    assert 0 <= RATE.acquire(header, next(TICKS) / 50) <= 0.1


KEYS = ("key one", "ключ")
SIGNATURES = Signatures(keys=lambda: KEYS, is_required=True, clock=lambda: 1_795_500_000.0)


def check_credentials(data: bytes) -> None:
    """Check that only the signature MD5(key + t) and only an equal token are accepted."""
    text = data.decode("latin-1")
    assert is_valid_token(text, ["token"]) == (text == "token")
    assert not is_valid_token(data.decode("utf-8", "surrogateescape"), ["another token"])
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        body = {"sign": text, "t": text}
    try:
        SIGNATURES.check(body)
    except CallbackError as rejected:
        assert (rejected.status, rejected.reason) == (403, "signature")
        return
    assert body["sign"] in [_md5(key, body["t"]) for key in KEYS]


def _md5(key: str, t: object) -> str:
    return hashlib.md5(f"{key}{t}".encode()).hexdigest()


def check_web(data: bytes) -> None:
    """Check that no header and no query of a web request causes an error, and that links are valid."""
    reader = Reader(data)
    assert _prefers_openmetrics(data.decode("latin-1")) in (True, False)
    given: Mapping[str, str] = {
        name: reader.text() for name in ("q", "state", "sort", "order", "page", "refresh")
    }
    query = read_query(given.get)
    query.link()
    assert query.sorted_by("runs").startswith("/?")
    assert 1 <= query.page < 1_000_000


def timed(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return `check` with a limit on its processor time for an input."""

    def within(data: bytes) -> None:
        begun = time.thread_time()
        check(data)
        taken = time.thread_time() - begun
        assert taken < MAX_SECONDS, f"{taken:.1f} s for {len(data)} bytes"

    return within


def targets() -> dict[str, Target]:
    """Return the targets by name."""
    bodies = seeds.callbacks()
    histories = [bytes(range(60)), bytes(200), b"\x03\x00\x01\x03\x00" * 30]
    checks: dict[str, tuple[Any, Sequence[bytes]]] = {
        "parser": (check_parser, bodies),
        "schemas": (check_schemas, bodies),
        "redactor": (check_redactor, seeds.URLS),
        "fold": (check_fold, histories),
        "store": (check_store, histories),
        "proxy": (check_proxy, seeds.PROXY_HEADERS),
        "source": (check_source, seeds.FORWARDED),
        "credentials": (check_credentials, seeds.SIGNED),
        "web": (check_web, [b"text/plain;q=0.5, application/openmetrics-text;q=0.9", b"\x04room\x06failed"]),
    }
    return {name: Target(check, good) for name, (check, good) in checks.items()}
