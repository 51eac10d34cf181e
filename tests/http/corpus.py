"""Bad input, and odd but good input: what is sent to the callback listener, and what must come back."""

import json
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from tests.support import SAMPLES, sample

GOOD = sample("derived/task_start_event_time")
MAX_BODY = 65536


class Case(Struct, frozen=True):
    """Something sent, and what must come back.

    Args:
        name: what it is.
        data: the bytes of the connection.
        status: the status of the first answer; None where the connection may just be closed.
        reason: why it is refused; empty where the answer is not the program's own.
    """

    name: str
    data: bytes
    status: int | None
    reason: str = ""


def post(
    body: bytes, path: str = "/callbacks", method: str = "POST", *headers: str, length: int | None = -1
) -> bytes:
    """Return a request as bytes; its connection ends with it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close", *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", headers: tuple[str, ...] = ()) -> bytes:
    """Return a request with a chunked body."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return post(body, "/callbacks", "POST", "Transfer-Encoding: chunked", *headers, length=None)


def body(**changes: Any) -> bytes:
    """Return the good callback with changes; a value of None leaves a field out."""
    merged = json.loads(GOOD) | changes
    return json.dumps({k: v for k, v in merged.items() if v is not None}).encode()


def cases() -> list[Case]:
    """Return every case."""
    return [
        *truncated(),
        *not_json(),
        *wrong_values(),
        *odd_but_good(),
        *framing(),
        *requests(),
        *broken_http(),
    ]


def _short(value: object) -> str:
    """Return a name for a value: its beginning and its length."""
    text = repr(value)
    return text if len(text) < 30 else f"{text[:20]}… of {len(text)}"


def truncated() -> Iterator[Case]:
    """The good callback, cut anywhere."""
    for end in range(0, len(GOOD.strip()), 14):
        yield Case(f"cut after {end} bytes", post(GOOD[:end]), 400, "json")


NOT_JSON = {
    "nothing but white space": b" \r\n\t ",
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "Latin-1": '{"task_id":"é"}'.encode("latin-1"),
    "a lone continuation byte": b'{"a":"\x80"}',
    "an overlong slash": b'{"a":"\xc0\xaf"}',
    "an overlong null": b'{"a":"\xc0\x80"}',
    "an encoded surrogate": b'{"a":"\xed\xa0\x80"}',
    "past the end of Unicode": b'{"a":"\xf4\x90\x80\x80"}',
    "a cut UTF-8 sequence": b'{"a":"\xe4\xbd"}',
    "a lone surrogate escape": b'{"a":"\\ud800"}',
    "half a surrogate pair": b'{"a":"\\ud83d\\u0041"}',
    "a bad escape": b'{"a":"\\x41"}',
    "a raw newline in a string": b'{"a":"\n"}',
    "a raw null in a string": b'{"a":"\0"}',
    "null bytes": b"\0" * 100,
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "a number past double": b'{"a":1e400}',
    "a number of 5000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "a leading zero": b'{"a":01}',
    "a leading plus": b'{"a":+1}',
    "hexadecimal": b'{"a":0x10}',
    "a bare point": b'{"a":1.}',
    "a comment": b'{"a":1/*x*/}',
    "a trailing comma": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "bare keys": b"{a:1}",
    "Python's True": b'{"a":True}',
    "two values": GOOD + GOOD,
    "something after": GOOD + b"x",
    "a form": b"event_type=314&callback_event=TaskStart",
    "XML": b"<callback/>",
    "a number as key": b"{1:2}",
    "an unclosed string": b'{"a":"',
    "deep arrays": b"[" * 20000 + b"]" * 20000,
    "deep arrays that do not end": b"[" * 60000,
    "deep objects": b'{"a":' * 9000 + b"1" + b"}" * 9000,
    "1025 levels in a callback": GOOD.strip()[:-1] + b',"a":' + b"[" * 1025 + b"]" * 1025 + b"}",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}


def not_json() -> Iterator[Case]:
    """What is not strict JSON, also inside msg and source_urls."""
    for name, raw in NOT_JSON.items():
        yield Case(name, post(raw), 400, "json")
    inner = [
        "{",
        "{]",
        "{'a':1}",
        '{"a":NaN}',
        "x",
        '{"a":1}{',
        "[" * 5000,
        '{"a":' * 1025 + "1" + "}" * 1025,
    ]
    for text in inner:
        yield Case(f"msg holds {_short(text)}", post(body(msg=text)), 400, "json")
    for text in ('["a"', "[NaN]", "[" * 2000 + "]" * 2000):
        yield Case(f"source_urls holds {_short(text)}", post(body(source_urls=text)), 400, "json")


#: Values that each field of a callback must not have.
WRONG: dict[str, tuple[Any, ...]] = {
    "appid": (True, -1, 1.5, 10**30, "", "x", "-1", "1" * 17, "1\n", [], {}, 2**63),
    "event_time": (True, -1, 1.5, 10**13, "x", "-1", "1 ", "１", [], {}),
    "task_id": (True, -1, 1.5, "", "x" * 257, [], {}, 2**63),
    "stream_id": (True, 1, "x" * 1025, [], {}),
    "to_url": (True, 1, "x" * 8193, [], {}),
    "source_urls": (True, 1, {}, [1], [None], [["a"]], ["x" * 8193], ["a"] * 1001, "[1]", "[{}]"),
    "callback_event": (True, 1, "", "x" * 129, [], {}),
    "event_type": ("314", 314.5, True, [], {}, "relay"),
    "msg": (True, 1, [], "[]", "1", '"text"', "null"),
}
WRONG_MSG: dict[str, dict[str, tuple[Any, ...]]] = {
    "TaskStart": {"task_start_time": (True, -1, 1.5, 10**16, "x", "-1", "", "1\n", [], {}, None)},
    "VodSourceFileStart": {
        "index": (True, -1, 1.5, 10**7, "x", "-1", "", [], {}, None),
        "duration": (True, -1, 10**9, "x", "-1", "", [], {}, None),
        "url": (True, 1, "x" * 8193, [], {}, None),
    },
    "VodSourceFileFinish": {"index": (True, -1, []), "duration": (True, -1, []), "url": (1,)},
    "TaskExit": {
        "code": (True, 1.5, 10**30, "x" * 65, "a b", "é", [], {}),
        "message": (True, 1, [], {}),
        "task_exit_time": (True, -1, "x", []),
    },
    "TaskAlarm": {"type": (True, 1, "x" * 129, []), "AlarmType": (True, 1, []), "message": (1,)},
}


def wrong_values() -> Iterator[Case]:
    """JSON that no schema allows."""
    for raw in (
        b"1",
        b"null",
        b'"x"',
        b"true",
        b"[]",
        b"[{}]",
        b"{}",
        b'{"event_type":314}',
        b'{"a":' * 32 + b"1" + b"}" * 32,
    ):
        yield Case(f"only {_short(raw.decode())}", post(raw), 400, "schema")
    for field, values in WRONG.items():
        for value in values:
            yield Case(f"{field} is {_short(value)}", post(body(**{field: value})), 400, "schema")
    for field in ("appid", "callback_event", "event_type", "task_id", "msg"):
        yield Case(f"without {field}", post(body(**{field: None})), 400, "schema")
    for event, fields in WRONG_MSG.items():
        for field, values in fields.items():
            for value in values:
                msg = {"index": 0, field: value}
                yield Case(
                    f"{event}: {field} is {_short(value)}",
                    post(body(callback_event=event, msg=msg)),
                    400,
                    "schema",
                )
    for event in ("VodSourceFileStart", "VodSourceFileFinish"):
        yield Case(f"{event} without url and index", post(body(callback_event=event, msg={})), 400, "schema")
    first = b'{"event_type":314,"event_type":"x",' + GOOD.lstrip()[1:].replace(b'"event_type": 314,', b"")
    yield Case("of two equal keys the last one counts, and is wrong", post(first), 400, "schema")


def odd_but_good() -> Iterator[Case]:
    """Oddities that must be taken."""
    for path in sorted(SAMPLES.rglob("*.json")):
        yield Case(f"the sample {path.stem}", post(path.read_bytes()), 200)
    first = b'{"event_type":"x","event_type":314,' + GOOD.lstrip()[1:].replace(b'"event_type": 314,', b"")
    yield Case("of two equal keys the last one counts, and is right", post(first), 200)
    deep = GOOD.strip()[:-1] + b',"a":' + b"[" * 1000 + b"]" * 1000 + b"}"
    yield Case("1000 levels in a field nobody knows", post(deep), 200)
    yield Case("a long unknown field", post(body(extra="x" * 60000)), 200)
    yield Case("a thousand unknown fields", post(body(**{f"f{n}": n for n in range(1000)})), 200)
    yield Case("exactly as long as allowed", post(GOOD + b" " * (MAX_BODY - len(GOOD))), 200)
    yield Case("a task id of every script", post(body(task_id="任务-задача-مهمة-🎬")), 200)
    yield Case("a task id with quotes and newlines", post(body(task_id='"\\\n{}')), 200)
    yield Case("another product", post(b'{"event_type":1,"x":[[[]]]}'), 200)
    yield Case("an event not known", post(body(callback_event="TaskDance")), 200)
    yield Case("a malformed destination", post(body(to_url="rtmp://[::1/x")), 200)
    yield Case("a destination that is no URL", post(body(to_url="\0")), 200)
    yield Case("a time long ago", post(body(event_time="1", msg={"task_start_time": 1})), 200)
    yield Case(
        "a time far ahead",
        post(body(event_time="999999999999", msg={"task_start_time": 999999999999999})),
        200,
    )
    yield Case("empty msg text", post(body(msg="", callback_event="ResetTaskConfig")), 200)
    yield Case("any Content-Type", post(GOOD, "/callbacks", "POST", "Content-Type: image/png; x=\xff"), 200)
    yield Case("a query behind the path", post(GOOD, "/callbacks?x=1&x=%zz"), 200)
    yield Case("identity", post(GOOD, "/callbacks", "POST", "Content-Encoding: identity"), 200)
    yield Case("Expect: 100-continue", post(GOOD, "/callbacks", "POST", "Expect: 100-continue"), 200)
    yield Case("the path, escaped", post(GOOD, "/%63allbacks"), 200)


def framing() -> Iterator[Case]:
    """How a body comes: lengths, chunks, encodings."""
    encodings = ("gzip", "deflate", "br", "zstd", "x", "gzip, identity", "identity, gzip")
    for encoding in encodings:
        yield Case(
            f"Content-Encoding: {encoding}",
            post(GOOD, "/callbacks", "POST", f"Content-Encoding: {encoding}"),
            415,
            "encoding",
        )
    yield Case("no length", post(b"", length=None), 411, "length")
    yield Case("no length, but a body", post(GOOD, length=None), 411, "length")
    yield Case("a byte too long", post(GOOD + b" " * (MAX_BODY + 1 - len(GOOD))), 413, "too_large")
    yield Case("a promise too long", post(b"", length=10**9), 413, "too_large")
    yield Case("a length past 64 bits", post(b"", length=10**30), None)
    yield Case("length 0", post(b""), 400, "json")
    yield Case("chunked", chunked(GOOD[:100], GOOD[100:]), 200)
    yield Case("chunks of one byte", chunked(*(GOOD[i : i + 1] for i in range(len(GOOD)))), 200)
    yield Case("chunk extensions", chunked(end=b"%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)), 200)
    yield Case("trailers", chunked(GOOD, end=b"0\r\nX: y\r\n\r\n"), 200)
    yield Case("nothing, chunked", chunked(), 400, "json")
    yield Case("chunked, too long", chunked(*[b" " * 8192] * 9), 413, "too_large")
    yield Case("chunked, far too long, without end", chunked(*[b" " * 8192] * 200, end=b""), 413, "too_large")
    yield Case("a chunk that promises 4 GiB", chunked(end=b"ffffffff\r\n" + b" " * 70000), 413, "too_large")
    for text in (
        b"g\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b" 5\r\nhello\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\nhello\n0\n\n",
    ):
        yield Case(f"a bad chunk {text[:10]!r}", chunked(end=text), None)
    both = post(GOOD, "/callbacks", "POST", "Transfer-Encoding: chunked")
    yield Case("length and chunks", both, None)
    for value in ("gzip", "chunked, chunked", "identity", "chunked, gzip", "x"):
        yield Case(
            f"Transfer-Encoding: {value}",
            post(GOOD, "/callbacks", "POST", f"Transfer-Encoding: {value}", length=None),
            None,
        )
    for value in ("-1", "+5", "0x5", "5 5", "5,5", "", "five", "5.0"):
        yield Case(
            f"Content-Length: {value!r}",
            post(GOOD, "/callbacks", "POST", f"Content-Length: {value}", length=None),
            None,
        )
    yield Case("two lengths", post(GOOD, "/callbacks", "POST", "Content-Length: 5"), None)


def requests() -> Iterator[Case]:
    """Methods and paths."""
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO", "PROPFIND"):
        yield Case(f"{method} /callbacks", post(GOOD, method=method), 405, "method")
    yield Case("HEAD /callbacks", post(b"", method="HEAD", length=None), 405)
    paths = (
        "/", "//", "/callbacks/", "//callbacks", "/Callbacks", "/callbacks/x", "/callbacks/" + "x" * 4000, "/metrics",
        "/-/healthy", "/-/ready", "/api/v1/tasks", "/callbacks/../metrics", "/callbacks/..", "/%2e%2e/metrics",
        "/callbacks%2f", "/callbacks%00", "/callbacks;x=1", "/.git/config", "/%ff%fe", "/callbacks%20", "/favicon.ico",
    )  # fmt: skip
    for path in paths:
        yield Case(f"POST {_short(path)}", post(GOOD, path), 404, "token")
        yield Case(f"GET {_short(path)}", post(b"", path, "GET", length=None), 404, "token")


def broken_http() -> Iterator[Case]:
    """What is hardly HTTP, or not at all: an error or a closed connection, and nothing worse."""
    head = b"Host: test\r\nConnection: close\r\n"
    rest = head + b"Content-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
    raw = {
        "a bare GET": b"GET /\r\n\r\n",
        "HTTP/0.9": b"GET /callbacks\r\n\r\n",
        "HTTP/3.0": b"POST /callbacks HTTP/3.0\r\n" + rest,
        "HTTP/1.1x": b"POST /callbacks HTTP/1.1x\r\n" + rest,
        "a lower-case method": b"post /callbacks HTTP/1.1\r\n" + rest,
        "a space in the path": b"POST /call backs HTTP/1.1\r\n" + rest,
        "no path": b"POST HTTP/1.1\r\n" + rest,
        "a null in the path": b"POST /callbacks\0 HTTP/1.1\r\n" + rest,
        "a path of 20000": b"POST /" + b"x" * 20000 + b" HTTP/1.1\r\n" + rest,
        "a header of 20000": b"POST /callbacks HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n" + rest,
        "500 headers": b"POST /callbacks HTTP/1.1\r\n" + b"X: y\r\n" * 500 + rest,
        "a header without colon": b"POST /callbacks HTTP/1.1\r\nnonsense\r\n" + rest,
        "a header with a space": b"POST /callbacks HTTP/1.1\r\nX y: z\r\n" + rest,
        "a folded header": b"POST /callbacks HTTP/1.1\r\nX: y\r\n z\r\n" + rest,
        "a null in a header": b"POST /callbacks HTTP/1.1\r\nX: \0\r\n" + rest,
        "two hosts": b"POST /callbacks HTTP/1.1\r\nHost: other\r\n" + rest,
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 30,
        "a proxy line": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nPOST /callbacks HTTP/1.1\r\n" + rest,
        "random bytes": bytes(range(256)) * 20 + b"\r\n\r\n",
        "an upgrade to a websocket": b"GET /callbacks HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nHost: test\r\n\r\n",
        "an upgrade to HTTP/2": b"POST /callbacks HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
        + rest,
        "CONNECT": b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n",
    }
    for name, data in raw.items():
        yield Case(name, data, None)
    yield Case("HTTP/1.0", post(GOOD).replace(b"HTTP/1.1", b"HTTP/1.0"), 200)
    yield Case("an absolute target", post(GOOD, "http://test/callbacks"), None)
    yield Case("two requests at once", post(GOOD).replace(b"Connection: close\r\n", b"") + post(GOOD), 200)
