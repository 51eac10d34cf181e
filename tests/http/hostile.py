"""More bad input, with everything that must come of it: each answer, each reason, where, and what is counted.

`corpus.py` has the broad table. This one has what that leaves open: every field of every event, the exact
answer to malformed HTTP, several requests on one connection, and parts that come one after the other.
"""

import json
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from tests.http.corpus import GOOD, MAX_BODY, chunked, post
from tests.support import sample

#: Stands in every value that is refused; no answer and no line of the log may hold it.
MARK = "Zq7markZq7"
#: Levels of nesting that the JSON parser allows, the outermost object included.
MAX_LEVELS = 1024
LENGTH = len(GOOD)


class Case(Struct, frozen=True):
    """What is sent over one connection, and what must come of it.

    Args:
        name: what it is.
        parts: what is sent, with a pause between the parts.
        statuses: the status of every answer.
        reasons: for every answer, why it is refused; empty where it is not the program's own refusal.
        pointer: one of the places where the first answer must find a fault.
        unsaid: why the program refuses it too, where the answer is the parser's.
    """

    name: str
    parts: tuple[bytes, ...]
    statuses: tuple[int, ...]
    reasons: tuple[str, ...]
    pointer: str = ""
    unsaid: str = ""


def taken(name: str, *parts: bytes) -> Case:
    """Return a case that is answered 200."""
    return Case(name, parts, (200,), ("",))


def refused(name: str, data: bytes, status: int, reason: str, pointer: str = "") -> Case:
    """Return a case that the program refuses."""
    return Case(name, (data,), (status,), (reason,), pointer)


def malformed(name: str, *parts: bytes, status: int = 400) -> Case:
    """Return a case that does not reach the program: gunicorn's parser refuses it."""
    return Case(name, parts, (status,), ("",))


def cases() -> list[Case]:
    """Return every case."""
    groups = (cut, not_json, nested, numbers, wrong_types, missing, repeated_keys, odd_but_good)
    wire = (lengths, chunks, codings, targets, heads, several, upgrades, waiting)
    return [case for group in (*groups, *wire) for case in group()]


MSGS: dict[str, dict[str, Any]] = {
    "TaskStart": {"task_start_time": 1795500000120},
    "VodSourceFileStart": {"url": "http://origin.example.com/vod/a.m3u8", "index": 0, "duration": 600},
    "VodSourceFileFinish": {"url": "http://origin.example.com/vod/a.m3u8", "index": 0, "duration": 600},
    "TaskExit": {"message": "write packet error.", "code": -22, "task_exit_time": 1795500700456},
    "TaskAlarm": {"type": "PullFileUnstable", "AlarmType": None, "message": "x"},
    "ResetTaskConfig": {},
}
ABSENT = object()


def fields(event: str = "TaskStart", /, **changes: Any) -> dict[str, Any]:
    """Return a valid callback of that event, with changes; ABSENT leaves a field out, None is null."""
    merged = {
        "appid": 1250000001,
        "event_type": 314,
        "callback_event": event,
        "task_id": "900001",
        "stream_id": "room42",
        "to_url": "rtmp://5000.livepush.myqcloud.com/live/room42",
        "source_urls": ["http://origin.example.com/vod/a.m3u8"],
        "event_time": "1795500000",
        "msg": MSGS.get(event, {}),
    } | changes
    return {name: value for name, value in merged.items() if value is not ABSENT}


def of(event: str = "TaskStart", /, **changes: Any) -> bytes:
    """Return a request with such a callback."""
    return post(json.dumps(fields(event, **changes)).encode())


def with_text(text: str, event: str = "TaskStart", /, **place: Any) -> bytes:
    """Return a request in which "@" in `place` is replaced by a text that need not be JSON."""
    return post(json.dumps(fields(event, **place)).replace('"@"', text).encode())


def cut() -> Iterator[Case]:
    """Callbacks, and the JSON inside them, cut off."""
    for name in ("task_exit", "vod_source_file_start"):
        text = sample(f"documented/{name}").strip()
        for end in range(9, len(text), 21):
            yield refused(f"{name} cut after {end} bytes", post(text[:end]), 400, "json")
    msg = json.dumps(MSGS["VodSourceFileStart"])
    for end in range(1, len(msg), 8):
        data = of("VodSourceFileStart", msg=msg[:end])
        yield refused(f"msg cut after {end} characters", data, 400, "json", "/msg")
    sources = '["http://origin.example.com/a","http://origin.example.com/b"]'
    for end in range(1, len(sources), 12):
        data = of(source_urls=sources[:end])
        yield refused(f"source_urls cut after {end} characters", data, 400, "json", "/source_urls")


def _in_string(raw: bytes) -> bytes:
    return b'{"event_type":314,"x":"%s"}' % raw


NOT_JSON = {
    "an overlong slash of three bytes": _in_string(b"\xe0\x80\xaf"),
    "an overlong slash of four bytes": _in_string(b"\xf0\x80\x80\xaf"),
    "an overlong letter": _in_string(b"\xc1\x81"),
    "a sequence of five bytes": _in_string(b"\xf8\x88\x80\x80\x80"),
    "a sequence of six bytes": _in_string(b"\xfc\x84\x80\x80\x80\x80"),
    "a byte FE": _in_string(b"\xfe"),
    "a byte FF": _in_string(b"\xff"),
    "an encoded low surrogate": _in_string(b"\xed\xbf\xbf"),
    "a surrogate pair in CESU-8": _in_string(b"\xed\xa0\xbd\xed\xb8\x80"),
    "a lead byte before a letter": _in_string(b"\xe4A"),
    "a cut sequence at the end": b'{"event_type":314,"x":"\xf0\x9f\x8e',
    "a continuation byte outside a string": b'{"event_type":314}\x80',
    "a continuation byte in a key": b'{"event_type":314,"\x80":1}',
    "a no-break space between tokens": b'{"event_type":\xc2\xa0314}',
    "a line separator between tokens": b'{"event_type":\xe2\x80\xa8314}',
    "a byte order mark in the middle": b'{"event_type":\xef\xbb\xbf314}',
    "a vertical tab between tokens": b'{"event_type":\x0b314}',
    "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
    "big-endian UTF-16 without a mark": GOOD.decode().encode("utf-16-be"),
    "UTF-7": GOOD.decode().encode("utf-7"),
    "EBCDIC": GOOD.decode().encode("cp500"),
    "a lone low surrogate escape": _in_string(rb"\udc00"),
    "a surrogate pair the wrong way round": _in_string(rb"\ude00\ud83d"),
    "an escape of three digits": _in_string(rb"\u004"),
    "an escape of no hex digits": _in_string(rb"\u00zz"),
    "an escape in capitals": _in_string(rb"\U00000041"),
    "a raw tab in a string": _in_string(b"\t"),
    "a raw escape character in a string": _in_string(b"\x1b[31m"),
    "a form": f"event_type=314&msg={MARK}".encode(),
    "a multipart form": f'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n{MARK}\r\n--b--'.encode(),
    "YAML": f"event_type: 314\nmsg: {MARK}\n".encode(),
    "MessagePack": b"\x82\xaaevent_type\xcd\x01\x3a\xa3msg\xaa" + MARK.encode(),
    "CBOR": b"\xa1\x6aevent_type\x19\x01\x3a",
    "base64": b"eyJldmVudF90eXBlIjozMTR9",
    "JSONP": f"f({json.dumps({'x': MARK})})".encode(),
    "a guard against inclusion": b")]}'\n" + GOOD,
    "a record separator first": b"\x1e" + GOOD,
    "lines of JSON": b'{"event_type":314}\n{"event_type":314}\n',
    "a word": MARK.encode(),
    "undefined": b"undefined",
    "a bracket too many": GOOD.strip() + b"}",
    "a bracket of the other kind": GOOD.strip()[:-1] + b"]",
    "a missing comma": b'{"event_type":314 "x":1}',
    "a missing colon": b'{"event_type" 314}',
    "a missing value": b'{"event_type":}',
    "two commas": b'{"event_type":314,,"x":1}',
    "a leading comma": b'{,"event_type":314}',
    "65536 bytes of white space": b" " * MAX_BODY,
    "65536 quotation marks": b'"' * MAX_BODY,
    "65536 null bytes": b"\0" * MAX_BODY,
}


def not_json() -> Iterator[Case]:
    """What is not strict JSON."""
    for name, raw in NOT_JSON.items():
        yield refused(name, post(raw), 400, "json")
    for name, text in {
        "a lone surrogate": r'{"a":"\ud800"}',
        "a word": MARK,
        "a key without quotes": f"{{{MARK}:1}}",
        "a number past double": '{"a":1e400}',
        "a byte order mark": '\ufeff{"a":1}',
        "a raw newline in a string": '{"a":"\n"}',
    }.items():
        yield refused(f"msg text with {name}", of(msg=text), 400, "json", "/msg")
    for name, text in {
        "a lone surrogate": r'["\udfff"]',
        "a trailing comma": f'["{MARK}",]',
        "a second array": "[][]",
        "Infinity": "[Infinity]",
    }.items():
        yield refused(f"source_urls text with {name}", of(source_urls=text), 400, "json", "/source_urls")


def nested() -> Iterator[Case]:
    """Nesting: as deep as allowed is judged by the schema, one level deeper is not JSON; never a 5xx."""
    outer = MAX_LEVELS - 1  # the callback itself is a level
    names = ("appid", "task_id", "stream_id", "to_url", "event_time", "callback_event", "event_type", "msg")
    for name in names:
        data = with_text("[" * 500 + "]" * 500, **{name: "@"})
        yield refused(f"{name} is an array of 500 levels", data, 400, "schema", f"/{name}")
    for name, place in {"msg": "/msg", "appid": "/appid", "source_urls": "/source_urls/0"}.items():
        data = with_text("[" * outer + "]" * outer, **{name: "@"})
        yield refused(f"{name} is an array as deep as allowed", data, 400, "schema", place)
        text = "[" * MAX_LEVELS + "]" * MAX_LEVELS
        yield refused(f"{name} is an array one level too deep", with_text(text, **{name: "@"}), 400, "json")
        if name != "appid":
            data = of(**{name: text})
            yield refused(f"{name} is a text of an array as deep as allowed", data, 400, "schema", place)
            data = of(**{name: f"[{text}]"})
            yield refused(f"{name} is a text one level too deep", data, 400, "json", f"/{name}")
    data = with_text('{"a":' * 1000 + "1" + "}" * 1000, stream_id="@")
    yield refused("stream_id is an object of 1000 levels", data, 400, "schema", "/stream_id")
    yield refused("nothing but an array as deep as allowed", post(b"[" * 1024 + b"]" * 1024), 400, "schema")
    yield refused("nothing but an array one level too deep", post(b"[" * 1025 + b"]" * 1025), 400, "json")
    for levels in (31, 32, 33, outer - 1):
        data = with_text('{"a":' * levels + "1" + "}" * levels, msg="@")
        yield taken(f"msg is an object of {levels} levels", data)
    data = with_text("[" * outer + "]" * outer, unknown="@")
    yield taken("an unknown field is an array as deep as allowed", data)
    data = with_text("[" * outer + "]" * outer, event_type=1, x="@")
    yield taken("another product's callback is as deep as allowed", data)


#: Numbers as they stand in the JSON text, by field: those that are refused, and those that are taken.
NUMBERS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("TaskStart", "appid"): (
        ("-1", "0.5", "1e30", "9007199254740992", "9223372036854775808", "18446744073709551616", "-1e308"),
        ("0", "9007199254740991", "1.0", "1e3", '"9999999999999999"', '"0000000000000000"'),
    ),
    ("TaskStart", "event_time"): (
        ("-1", "0.5", "1e12", "1000000000000", "1e308", '"1e3"', '"0x1"'),
        ("0", '"0"', '""', "null", "999999999999"),
    ),
    ("TaskStart", "msg.task_start_time"): (
        ("-1", "0.5", "1e15", "9223372036854775807", '"-0"', '" 1"'),
        ("0", '"0"', "999999999999999", '"000000000000000"'),
    ),
    ("VodSourceFileStart", "msg.index"): (
        ("-1", "0.5", "1000001", "4294967296", "1e30", '"00000000"', '"0.0"'),
        ("1000000", "1.0", '"0000007"', "-0"),
    ),
    ("VodSourceFileStart", "msg.duration"): (
        ("-0.001", "100000001", "1e308", "18446744073709551615", '"1.5"', '"1e3"'),
        ("0.001", "100000000", "1e-400", '"000000000"', "-0.0"),
    ),
    ("TaskExit", "msg.code"): (
        ("0.5", "1e30", "9007199254740992", "-9007199254740992", "-9223372036854775809", '"\\u0000"'),
        ('"-"', '"--5"', '"+5"', '"-0"', '"9999999999999999999999999999999999"', "-9007199254740991"),
    ),
}
NO_NUMBERS = ("1e400", "-1e400", "NaN", "-Infinity", "1e", "-", ".5", "1_000", "0b1", "00", "1.e5", "٣")


def numbers() -> Iterator[Case]:
    """Numbers at their bounds, past them, and what only looks like one."""
    for (event, field), (bad, good) in NUMBERS.items():
        name = field.removeprefix("msg.")
        for text in (*bad, *good):
            inner = name != field
            place = {"msg": MSGS[event] | {name: "@"}} if inner else {name: "@"}
            data = with_text(text, event, **place)
            if text in bad:
                pointer = "/" + field.replace(".", "/")
                yield refused(f"{event}: {field} of {text}", data, 400, "schema", pointer)
            else:
                yield taken(f"{event}: {field} of {text}", data)
    for text in NO_NUMBERS:
        yield refused(f"appid of {text}", with_text(text, appid="@"), 400, "json")


def wrong_types() -> Iterator[Case]:
    """Every field of every event, with a value of a wrong type; the answer says where, and not what."""
    wrong: dict[str, Any] = {
        "appid": MARK,
        "event_time": [MARK],
        "task_id": {MARK: MARK},
        "stream_id": [MARK],
        "to_url": {MARK: MARK},
        "source_urls": {MARK: MARK},
        "msg": [MARK],
    }
    for event, msg in MSGS.items():
        for name, value in wrong.items():
            data = of(event, **{name: value})
            yield refused(f"{event}: {name} of a wrong type", data, 400, "schema", f"/{name}")
        for name in msg:
            data = of(event, msg=msg | {name: [MARK]})
            yield refused(f"{event}: msg.{name} of a wrong type", data, 400, "schema", f"/msg/{name}")
            data = of(event, msg=json.dumps(msg | {name: {MARK: 1}}))
            yield refused(f"{event}: msg text, {name} of a wrong type", data, 400, "schema", f"/msg/{name}")
    for name, value in {"an array": [MARK], "a text of a number": "314", "a fraction": 314.5}.items():
        yield refused(f"event_type is {name}", of(event_type=value, x=MARK), 400, "schema", "/event_type")
    yield refused("nothing but a text", post(json.dumps(MARK).encode()), 400, "schema")
    yield refused("an array of a callback", post(json.dumps([fields(x=MARK)]).encode()), 400, "schema")
    many = of(source_urls=[MARK, *range(900)])
    yield refused("900 faults at once", many, 400, "schema", "/source_urls/1")


#: What an event can do without.
OPTIONAL = {("TaskExit", "task_id"), ("TaskAlarm", "msg"), ("ResetTaskConfig", "msg")}


def missing() -> Iterator[Case]:
    """What is required is missing, or null."""
    for event in MSGS:
        for name in ("appid", "event_type", "task_id", "msg"):
            data, title = of(event, **{name: ABSENT}), f"{event}: no {name}"
            where = "" if name == "appid" else f"/{name}"
            is_taken = (event, name) in OPTIONAL
            yield taken(title, data) if is_taken else refused(title, data, 400, "schema", where)
        for name in ("stream_id", "to_url", "source_urls", "event_time"):
            yield taken(f"{event}: no {name}", of(event, **{name: ABSENT}))
            yield taken(f"{event}: {name} is null", of(event, **{name: None}))
    for name in ("appid", "callback_event", "event_type", "task_id", "msg"):
        yield refused(f"{name} is null", of(**{name: None}), 400, "schema", f"/{name}")
    yield taken("TaskExit: task_id is null", of("TaskExit", task_id=None))
    yield refused("no callback_event", of(callback_event=ABSENT), 400, "schema", "/callback_event")
    data = of("VodSourceFileStart", msg={"duration": 1})
    yield refused("a file without url and index", data, 400, "schema", "/msg")
    yield refused("both spellings, one wrong", of(appId=MARK), 400, "schema", "/appId")


def repeated_keys() -> Iterator[Case]:
    """Of equal keys the last one counts."""
    text = json.dumps(fields())[1:-1]
    for name, first, last, status in (
        ("appid, wrong then right", '"appid":"x",', "", 200),
        ("appid, right then wrong", "", f',"appid":"{MARK}"', 400),
        ("task_id, right then null", "", ',"task_id":null', 400),
        ("task_id, escaped and wrong", "", r',"task\u005fid":[]', 400),
        ("msg, a broken text then an object", '"msg":"{",', "", 200),
        ("msg, an object then a broken text", "", ',"msg":"{"', 400),
        ("event_type, the relay's then another", "", ',"event_type":1', 200),
        ("a thousand times appid", '"appid":"x",' * 1000, "", 200),
    ):
        data = post(f"{{{first}{text}{last}}}".encode())
        reason = "json" if "broken text" in name else "schema"
        title = f"repeated: {name}"
        yield taken(title, data) if status == 200 else refused(title, data, status, reason)


def odd_but_good() -> Iterator[Case]:
    """Oddities that must be taken."""
    for name, changes in {
        "a null in the task id": {"task_id": "\0"},
        "a task id that turns the text round": {"task_id": "\u202e\u2028\uffff\U0010ffff"},
        "a task id of 256 emojis": {"task_id": "\U0001f3ac" * 256},
        "the task id 0": {"task_id": 0},
        "a stream id of control characters": {"stream_id": "\0\r\n\x1b[31m"},
        "a stream id of 1024 characters": {"stream_id": "x" * 1024},
        "a destination with quotes in its host": {"to_url": 'rtmp://a"b\\c/d'},
        "a destination with braces in its host": {"to_url": 'rtmp://{a="b"}/c'},
        "a destination of 8192 characters": {"to_url": "rtmp://h/" + "x" * 8183},
        "an empty destination": {"to_url": ""},
        "one plain URL as sources": {"source_urls": " http://origin.example.com/a \n"},
        "no sources": {"source_urls": []},
        "white space as sources": {"source_urls": " \n"},
        "an empty array in a text as sources": {"source_urls": " [] \n"},
        "a thousand sources": {"source_urls": ["a"] * 1000},
        "a source that is an empty text": {"source_urls": [""]},
        "both spellings of appid": {"appId": "7"},
        "white space as msg": {"msg": " \r\n"},
        "an empty field name": {"": ""},
        "field names that look like the program's": {"__class__": {}, "self": 1, "event": [], "letter": "S"},
        "a field name of 30000 characters": {"x" * 30000: 1},
        "interface, product_name and callback_url of any type": {
            "interface": 1,
            "product_name": [],
            "callback_url": {},
        },
        "sign and t of any type": {"sign": [], "t": {}},
        "an event's name in lower case": {"callback_event": "taskstart"},
        "an event's name with a space": {"callback_event": "TaskStart "},
        "an event's name that is a null": {"callback_event": "\0"},
        "another product's number": {"event_type": 0},
        "another product's negative number": {"event_type": -(2**63)},
        "another product's largest number": {"event_type": 2**64 - 1},
        "another product without anything right": {"event_type": 1, "appid": [], "msg": "{"},
    }.items():
        yield taken(name, of(**changes))
    for event, msg in MSGS.items():
        yield taken(f"{event}: a field without a name in msg", of(event, msg=msg | {"": "x"}))
    yield taken("a file known by its URL alone", of("VodSourceFileFinish", msg={"url": ""}))
    yield taken("an alarm of an unknown type", of("TaskAlarm", msg={"type": "Nonsense"}))
    yield taken("an alarm of no type", of("TaskAlarm", msg={}))


def lengths() -> Iterator[Case]:
    """Content-Length: exactly right, or exactly refused."""
    for value in (
        b"-1",
        b"-0",
        b"+%d" % LENGTH,
        b"1e3",
        b"1_000",
        b"0x10",
        b"\xd9\xa3",
        b"%d, %d" % (LENGTH, LENGTH),
        b"%d;" % LENGTH,
        b"nan",
        b"",
        b"9223372036854775808",
        b"18446744073709551616",
        b"9" * 4000,
    ):
        data = _request(b"Content-Length: " + value)
        yield malformed(f"a Content-Length of {value[:24].decode('latin-1')!r}", data)
    yield malformed("the same length twice", _request(b"Content-Length: %d" % LENGTH, _LENGTH))
    yield malformed("two lengths that differ", _request(b"Content-Length: 1", _LENGTH))
    yield taken("a length with a leading zero", _request(b"Content-Length: 0%d" % LENGTH))
    yield taken("a length with white space around", _request(b"Content-Length: \t%d \t" % LENGTH))
    yield refused("a length one too small", _request(b"Content-Length: %d" % 100), 400, "json")
    largest = _request(b"Content-Length: 9223372036854775807")
    yield refused("the largest length", largest, 413, "too_large")
    promise = _request(b"Content-Length: 65537", body=b"")
    yield refused("a byte too many, only promised", promise, 413, "too_large")
    full = json.dumps(fields(x="x" * 60000)).encode()
    full += b" " * (MAX_BODY - len(full))
    yield taken("65536 bytes", post(full))
    yield refused("65537 bytes", post(full + b" "), 413, "too_large")
    yield taken("65536 bytes in one chunk", chunked(full))
    yield refused("65537 bytes in one chunk", chunked(full + b" "), 413, "too_large")
    yield refused("the byte too many in a chunk of its own", chunked(full, b" "), 413, "too_large")
    yield taken("a callback that comes in three parts", post(GOOD)[:90], post(GOOD)[90:300], post(GOOD)[300:])
    old = _request(body=b"").replace(b"HTTP/1.1", b"HTTP/1.0")
    yield refused("HTTP/1.0 without a length", old, 411, "length")


_LENGTH = b"Content-Length: %d" % LENGTH


def _request(
    *headers: bytes, line: bytes = b"POST /callbacks HTTP/1.1", body: bytes = GOOD, close: bool = True
) -> bytes:
    """Return a request of which every byte is given."""
    lines = [line, b"Host: test", *([b"Connection: close"] if close else []), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNK = b"%x\r\n%s\r\n" % (LENGTH, GOOD)
END = b"0\r\n\r\n"


def chunks() -> Iterator[Case]:
    """Chunked bodies: whole, or not taken."""
    for name, text in {
        "a size in capitals": b"%X\r\n%s\r\n" % (LENGTH, GOOD) + END,
        "a size with leading zeros": b"%020x\r\n%s\r\n" % (LENGTH, GOOD) + END,
        "an end of three zeros": CHUNK + b"000\r\n\r\n",
        "a quoted extension": b'%x;a="b;c"\r\n%s\r\n' % (LENGTH, GOOD) + END,
        "ninety trailers": CHUNK + b"0\r\n" + b"X: y\r\n" * 90 + b"\r\n",
    }.items():
        yield taken(f"chunks with {name}", chunked(end=text))
    for name, text in {
        "no size": b"\r\n" + GOOD + b"\r\n" + END,
        "a size with a plus": b"+5\r\nhello\r\n" + END,
        "a size with an underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n" + END,
        "a size with white space": b"5 \r\nhello\r\n" + END,
        "a size past 64 bits": b"f" * 17 + b"\r\n",
        "a size that is a negative number": b"-5\r\nhello\r\n" + END,
        "a size that is too small": b"%x\r\n%s\r\n" % (LENGTH - 5, GOOD) + END,
        "a carriage return in an extension": b"%x;a=\rb\r\n%s\r\n" % (LENGTH, GOOD) + END,
        "an extension of 20000 bytes": b"%x;a=%s\r\n%s\r\n" % (LENGTH, b"x" * 20000, GOOD) + END,
        "a size of 9000 zeros": b"0" * 9000,
        "no size, JSON at once": GOOD,
        "bare line feeds": b"%x\n%s\n0\n\n" % (LENGTH, GOOD),
        "a bare line feed at the end": CHUNK + b"0\r\n\n",
        "a length as trailer": CHUNK + b"0\r\nContent-Length: 5\r\n\r\n",
        "a coding as trailer": CHUNK + b"0\r\nTransfer-Encoding: gzip\r\n\r\n",
    }.items():
        yield malformed(f"chunks with {name}", chunked(end=text))
    many = CHUNK + b"0\r\n" + b"X: y\r\n" * 500 + b"\r\n"
    yield malformed("chunks with 500 trailers", chunked(end=many), status=431)
    long = CHUNK + b"0\r\nX: " + b"y" * 20000 + b"\r\n\r\n"
    yield malformed("chunks with a trailer of 20000 bytes", chunked(end=long), status=431)
    head, rest = chunked(end=b"%x\r\n" % LENGTH + GOOD[:200]), GOOD[200:] + b"\r\n"
    yield taken("chunks that come in three parts", head, rest, END)
    for title, begun in {
        "whole JSON": head + rest,
        "half the JSON": chunked(end=b"c8\r\n%s\r\n" % GOOD[:200]),
    }.items():
        title = f"{title} in a chunk, and later a malformed chunk"
        yield Case(title, (begun, b"zz\r\n"), (400,), ("",), unsaid="length")
    for size in (b"7" + b"f" * 15, b"ffffffff"):
        data = chunked(end=size + b"\r\n" + b"x" * (MAX_BODY + 1))
        yield refused(f"a chunk that promises {size.decode()}", data, 413, "too_large")


def codings() -> Iterator[Case]:
    """Transfer-Encoding and Content-Encoding."""
    for value in (b"Chunked", b"CHUNKED", b"\tchunked "):
        data = _request(b"Transfer-Encoding: " + value, body=CHUNK + END)
        yield taken(f"Transfer-Encoding of {value.decode()!r}", data)
    for value in (
        b"",
        b"gzip",
        b"deflate",
        b"identity",
        b"br",
        b"br, chunked",
        b"x, chunked",
        b"xchunked",
        b"chunked x",
        b"chunked;q=1",
        b"chunked,",
        b",chunked",
        b'"chunked"',
        b"chunked\x0b",
        b"chunked, identity",
    ):
        data = _request(b"Transfer-Encoding: " + value, body=CHUNK + END)
        yield malformed(f"Transfer-Encoding of {value.decode()!r}", data)
    coding = b"Transfer-Encoding: chunked"
    yield malformed("chunked in two headers", _request(coding, coding, body=CHUNK + END))
    yield malformed("a length, then chunked", _request(b"Content-Length: 5", coding, body=CHUNK + END))
    yield malformed("chunked, then a length", _request(coding, b"Content-Length: 5", body=CHUNK + END))
    old = _request(coding, body=CHUNK + END).replace(b"HTTP/1.1", b"HTTP/1.0")
    yield malformed("chunked in HTTP/1.0", old)
    for value in ("gzip", "GZIP", "deflate", "br", "compress", "identity, identity", ",", "identity;q=1"):
        data = _request(f"Content-Encoding: {value}".encode(), _LENGTH, b"X: y")
        yield refused(f"Content-Encoding of {value!r}, promised", data, 415, "encoding")
    both = _request(b"Content-Encoding: identity", b"Content-Encoding: gzip", _LENGTH)
    yield refused("Content-Encoding identity and gzip", both, 415, "encoding")
    packed = _request(b"Content-Encoding: gzip", coding, body=CHUNK + END)
    yield refused("Content-Encoding gzip in chunks", packed, 415, "encoding")
    yield refused(
        "Content-Encoding gzip without a length",
        _request(b"Content-Encoding: gzip", body=b""),
        415,
        "encoding",
    )
    yield taken("Content-Encoding Identity", _request(b"Content-Encoding: Identity ", _LENGTH))
    yield taken("Content-Encoding without a value", _request(b"Content-Encoding:", _LENGTH))


def targets() -> Iterator[Case]:
    """Methods and targets."""
    for target in (
        "/callbacks?",
        "/callbacks?a=%00%ff",
        "/%63%61llbacks",
        "/callbacks?" + "x" * 4000,
        "/callbacks?/../metrics",
    ):
        yield taken(f"to {target[:30]}", _request(_LENGTH, line=f"POST {target} HTTP/1.1".encode()))
    for target in (
        "/callbacks#x",
        "/callbacks%3f",
        "/./callbacks",
        "/callbacks/.",
        "/callbacks%",
        "/%zz",
        "/\\callbacks",
        "/{token}",
        "/callbacks/{x}",
        "//test/callbacks",
        "/callbacks//",
        "/callbacks/%2e%2e/metrics",
        "/CALLBACKS",
        "/callbacks/" + MARK,
        "/" + "x" * 4000,
    ):
        line = f"POST {target} HTTP/1.1".encode()
        yield refused(f"to {target[:30]}", _request(_LENGTH, line=line), 404, "token")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        line = f"{method} /metrics HTTP/1.1".encode()
        yield refused(f"{method} with a body to /metrics", _request(_LENGTH, line=line), 404, "token")
    for method in ("CONNECT", "QUERY", "BREW", "F-O_O", "POST1", "HEAD"):
        line = f"{method} /callbacks HTTP/1.1".encode()
        yield refused(f"{method} with a body", _request(_LENGTH, line=line), 405, "method")
    yield refused("OPTIONS *", _request(line=b"OPTIONS * HTTP/1.1", body=b""), 404, "token")
    yield refused("CONNECT test:443", _request(line=b"CONNECT test:443 HTTP/1.1", body=b""), 404, "token")
    for line in (
        b"post /callbacks HTTP/1.1",
        b"Post /callbacks HTTP/1.1",
        b"P\xc3\xb6ST /callbacks HTTP/1.1",
        b"A /callbacks HTTP/1.1",
        b"A" * 30 + b" /callbacks HTTP/1.1",
        b"POST\t/callbacks\tHTTP/1.1",
        b"POST * HTTP/1.1",
        b"POST callbacks HTTP/1.1",
        b"POST ?callbacks HTTP/1.1",
        b"POST /callbacks\xff HTTP/1.1",
        b"POST /call backs HTTP/1.1",
        b"POST /callbacks\0 HTTP/1.1",
        b" POST /callbacks HTTP/1.1",
        b"\nPOST /callbacks HTTP/1.1",
        b"\r\n\r\nPOST /callbacks HTTP/1.1",
        b"POST /callbacks HTTP/1.1 ",
        b"POST /callbacks http/1.1",
        b"POST /callbacks HTTP/1.2",
        b"POST /callbacks HTTP/2.0",
        b"POST /callbacks HTTP/0.9",
        b"POST /callbacks HTTP/1.10",
        b"POST /callbacks",
        b"POST",
        b"GET /callbacks",
        b"PRI * HTTP/2.0",
    ):
        yield malformed(f"a first line of {line[:36].decode('latin-1')!r}", _request(_LENGTH, line=line))
    long = b"POST /callbacks?" + b"x" * 4100 + b" HTTP/1.1"
    yield malformed("a first line of 4125 bytes", _request(_LENGTH, line=long), status=414)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
    yield malformed("the preface of HTTP/2", preface)
    yield malformed("a TLS hello with an end of a line in it", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
    yield malformed("the answer of a server", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    yield malformed("a Redis command", b"*1\r\n$4\r\nPING\r\n\r\n")
    yield malformed("an SMTP greeting", b"EHLO test\r\n\r\n")


def heads() -> Iterator[Case]:
    """Headers."""
    for name, header in {
        "X-HTTP-Method-Override": b"X-HTTP-Method-Override: DELETE",
        "an underscore, not a length": b"Content_Length: 5",
        "an underscore, not a coding": b"Transfer_Encoding: chunked",
        "bytes past ASCII": b"X: \xff\xfe",
        "a tab around the value": b"X:\ty\t",
        "Range": b"Range: bytes=0-0",
        "TE and Trailer": b"TE: trailers\r\nTrailer: X",
        "an unknown Upgrade": b"Upgrade: foo",
        "X-Forwarded-For that is nonsense": b"X-Forwarded-For: \xff, ::::, 1.2.3.4.5",
        "a Cookie of 8000 bytes": b"Cookie: " + b"x" * 8000,
        "100 in all": b"\r\n".join([b"X: y"] * 97),
        "an Expect that is not known": b"Expect: 200-ok",
    }.items():
        yield taken(f"headers with {name}", _request(header, _LENGTH))
    for name, header in {
        "no name": b": y",
        "no colon": b"nonsense",
        "a space before the colon": b"X : y",
        "a space in a name": b"X y: z",
        "a folded value": b"X: y\r\n z",
        "a null": b"X: \0",
        "a bare line feed": b"X: y\nZ: w",
        "a bare carriage return": b"X: y\rZ: w",
        "a name past ASCII": b"\xc3\xb6: y",
        "a name of brackets": b"(X): y",
        "two Hosts": b"Host: other",
        "two Content-Types": b"Content-Type: a/b\r\nContent-Type: c/d",
        "a length with a space before the colon": b"Content-Length : 5",
    }.items():
        yield malformed(f"headers with {name}", _request(header, _LENGTH))
    for name, header in {
        "101 in all": b"\r\n".join([b"X: y"] * 98),
        "one of 8200 bytes": b"X: " + b"y" * 8195,
    }.items():
        yield malformed(f"headers with {name}", _request(header, _LENGTH), status=431)
    # RFC 9112 would have these refused, or taken; the contract says nothing, and nothing comes of them.
    yield taken("no Host", _request(_LENGTH).replace(b"Host: test\r\n", b""))
    yield taken("a Host that is none", _request(_LENGTH).replace(b"Host: test", b"Host: a b/c@"))
    yield taken("two spaces in the first line", _request(_LENGTH, line=b"POST  /callbacks  HTTP/1.1"))
    yield taken("an empty line first", b"\r\n" + _request(_LENGTH))
    yield taken("a trailer without colon", chunked(end=CHUNK + b"0\r\nnonsense\r\n\r\n"))
    absolute = _request(_LENGTH, line=b"POST http://test/callbacks HTTP/1.1")
    yield refused("an absolute target", absolute, 404, "token")


def several() -> Iterator[Case]:
    """Several requests on one connection: what follows one that is refused is read as what it is."""
    good = _request(_LENGTH)
    on = _request(_LENGTH, close=False)
    big = b" " * (MAX_BODY + 1)
    first: dict[str, tuple[bytes, int, str]] = {
        "good": (on, 200, ""),
        "not JSON": (_request(b"Content-Length: 1", body=b"{", close=False), 400, "json"),
        "too long": (_request(b"Content-Length: 65537", body=big, close=False), 413, "too_large"),
        "too long, chunked": (
            _request(b"Transfer-Encoding: chunked", body=b"10001\r\n" + big + b"\r\n" + END, close=False),
            413,
            "too_large",
        ),
        "encoded": (_request(b"Content-Encoding: gzip", _LENGTH, close=False), 415, "encoding"),
        "for another path": (_request(_LENGTH, line=b"POST /x HTTP/1.1", close=False), 404, "token"),
        "of another method": (_request(_LENGTH, line=b"PUT /callbacks HTTP/1.1", close=False), 405, "method"),
        "without a length": (_request(body=b"", close=False), 411, "length"),
    }
    for name, (data, status, reason) in first.items():
        if reason:
            title = f"a request that is {name}, then a good one"
            yield Case(title, (data + good,), (status, 200), (reason, ""))
        title = f"a request that is {name}, and later a good one"
        yield Case(title, (data, good), (status, 200), (reason, ""))
    yield Case("ten good requests at once", (on * 9 + good,), (200,) * 10, ("",) * 10)
    lonely = _request(body=MARK.encode() + b"\r\n\r\n", close=False)
    yield Case("no length, but a body: it is read as a request", (lonely,), (411, 400), ("length", ""))
    hidden = _request(b"Content-Length: %d" % len(good), line=b"POST /x HTTP/1.1", body=good)
    yield refused("a request hidden in the body of another path", hidden, 404, "token")
    hidden = _request(b"Content-Length: %d" % (len(good) + len(big)), body=big + good)
    yield refused("a request hidden in a body too long", hidden, 413, "too_large")
    hidden = _request(b"Content-Length: %d" % len(good), b"Content-Encoding: gzip", body=good)
    yield refused("a request hidden in an encoded body", hidden, 415, "encoding")
    yield Case("a good request, then nonsense", (on + b"nonsense\r\n\r\n",), (200, 400), ("", ""))
    yield Case("a good request that closes, then another", (good + good,), (200,), ("",))


SOCKET = (b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def upgrades() -> Iterator[Case]:
    """Upgrades are refused, or not noticed."""
    for path in ("/callbacks", "/", "/metrics"):
        data = _upgrade(*SOCKET, path=path)
        yield malformed(f"a websocket to {path}", data, status=403)
    frames = _upgrade(*SOCKET) + b"\x81\x85aaaaaaaaa" * 100
    yield malformed("a websocket, and frames at once", frames, status=403)
    yield malformed("a websocket without version", _upgrade(SOCKET[0], SOCKET[2]), status=426)
    yield malformed(
        "a websocket of version 8", _upgrade(SOCKET[0], SOCKET[2], b"Sec-WebSocket-Version: 8"), status=426
    )
    yield malformed("a websocket without key", _upgrade(*SOCKET[:2]))
    yield malformed("a websocket with a short key", _upgrade(*SOCKET[:2], b"Sec-WebSocket-Key: eA=="))
    h2c = _request(b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", _LENGTH)
    yield taken("an upgrade to h2c", h2c)


def _upgrade(*headers: bytes, path: str = "/callbacks") -> bytes:
    lines = (f"GET {path} HTTP/1.1".encode(), b"Host: test", b"Connection: Upgrade", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def waiting() -> Iterator[Case]:
    """Expect: 100-continue asks before the body is sent; who is refused is told without."""
    expect = b"Expect: 100-continue"
    yield Case("Expect, then the body", (_request(expect, _LENGTH, body=b""), GOOD), (100, 200), ("", ""))
    coding = b"Transfer-Encoding: chunked"
    head = _request(expect, coding, body=b"")
    yield Case("Expect, then chunks", (head, CHUNK, END), (100, 200), ("", ""))
    for name, headers, line, status, reason in (
        ("a body too long", (b"Content-Length: 65537",), b"POST /callbacks HTTP/1.1", 413, "too_large"),
        ("an encoded body", (b"Content-Encoding: br", _LENGTH), b"POST /callbacks HTTP/1.1", 415, "encoding"),
        ("another path", (_LENGTH,), b"POST /x HTTP/1.1", 404, "token"),
        ("another method", (_LENGTH,), b"PUT /callbacks HTTP/1.1", 405, "method"),
        ("no length", (), b"POST /callbacks HTTP/1.1", 411, "length"),
    ):
        data = _request(expect, *headers, line=line, body=b"")
        yield refused(f"Expect, with {name}", data, status, reason)


class Slow(Struct, frozen=True):
    """Something sent slowly.

    Args:
        parts: what is sent, a second between the parts; as long as it takes.
        statuses: the status of every answer.
        after: seconds until the last answer, at least; it comes within two and a half more.
    """

    name: str
    parts: tuple[bytes, ...]
    statuses: tuple[int, ...]
    after: float


_PROMISE = _request(b"Content-Length: 500", body=b"")
_CODED = _request(b"Transfer-Encoding: chunked", body=b"")
_NEVER = b"Content-Length: 5"
SLOW = (
    Slow("a body that never comes", (_PROMISE,), (408,), 9.5),
    Slow("a body that trickles", (_PROMISE, *[b" "] * 30), (408,), 9.5),
    Slow("a body that lacks its last byte", (post(GOOD)[:-1],), (408,), 9.5),
    Slow("chunks that trickle", (_CODED, *[b"1\r\n \r\n"] * 30), (408,), 9.5),
    Slow("whole JSON in chunks without end", (_CODED + CHUNK,), (408,), 9.5),
    Slow("a chunk's size that never ends", (_CODED, *[b"0"] * 30), (408,), 9.5),
    Slow(
        "a body that is asked for and never comes",
        (_request(b"Expect: 100-continue", _NEVER, body=b""),),
        (100, 408),
        9.5,
    ),
    Slow(
        "a body that comes late, but in time", (_request(_LENGTH, body=b""), b"", b"", b"", GOOD), (200,), 3.5
    ),
    Slow(
        "a body that never comes, for another path",
        (_request(_NEVER, line=b"POST /x HTTP/1.1", body=b""),),
        (404,),
        0,
    ),
    Slow(
        "a body that never comes, of another method",
        (_request(_NEVER, line=b"GET /callbacks HTTP/1.1", body=b""),),
        (405,),
        0,
    ),
    Slow(
        "a body that never comes, and is encoded",
        (_request(_NEVER, b"Content-Encoding: gzip", body=b""),),
        (415,),
        0,
    ),
    Slow(
        "a body that never comes, and is too long", (_request(b"Content-Length: 70000", body=b""),), (413,), 0
    ),
)
