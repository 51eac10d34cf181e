"""Good and bad requests to the callback listener, with the answers and counts expected for each.

A family of cases tests one subject, such as malformed JSON or the framing of a body. Each case names the
status of every answer, the reason of a rejection and the JSON pointer. No two cases send the same bytes.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from tests.support import SAMPLES, sample

GOOD = sample("derived/task_start_event_time")
MAX_BODY = 65536
#: A part of rejected values; no answer and no log line may contain it.
MARK = "Zq7markZq7"
#: The number of nested levels that the JSON parser allows, including the outermost object.
MAX_LEVELS = 1024
LENGTH = len(GOOD)
CHUNK = b"%x\r\n%s\r\n" % (LENGTH, GOOD)
END = b"0\r\n\r\n"
POST = b"POST /callbacks HTTP/1.1"


class Case(Struct, frozen=True):
    """The bytes sent over one connection, and the expected answers.

    Args:
        name: a description of the request.
        parts: the bytes to send; the server reads each part before the next one is sent.
        statuses: the status of every answer.
        reasons: the rejection reason of every answer; empty if the handler does not reject the request.
        pointer: the first answer must report a fault at or below this JSON pointer.
    """

    name: str
    parts: tuple[bytes, ...]
    statuses: tuple[int, ...]
    reasons: tuple[str, ...]
    pointer: str = ""


def accepted(name: str, *parts: bytes) -> Case:
    """Return a case that is answered 200."""
    return Case(name, parts, (200,), ("",))


def rejected(name: str, data: bytes, status: int, reason: str, pointer: str = "") -> Case:
    """Return a case that the handler rejects."""
    return Case(name, (data,), (status,), (reason,), pointer)


def malformed(name: str, *parts: bytes, status: int = 400) -> Case:
    """Return a case that the HTTP connection answers with an error; it does not reach the handler."""
    return Case(name, parts, (status,), ("",))


def request(*headers: bytes, line: bytes = POST, body: bytes = GOOD, close: bool = True) -> bytes:
    """Return the bytes of a request; `close` sends `Connection: close`."""
    lines = [line, b"Host: test", *([b"Connection: close"] if close else []), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def length(number: int = LENGTH) -> bytes:
    """Return a Content-Length header."""
    return b"Content-Length: %d" % number


def post(body: bytes) -> bytes:
    """Return a POST of a body, with its Content-Length."""
    return request(length(len(body)), body=body)


def chunked(*chunks: bytes, end: bytes = END) -> bytes:
    """Return a POST with a chunked body."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return request(b"Transfer-Encoding: chunked", body=body)


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
    """Return a valid callback of an event, with changes; ABSENT removes a field, None is null."""
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


def body_of(event: str = "TaskStart", /, **changes: Any) -> bytes:
    """Return the JSON of such a callback."""
    return json.dumps(fields(event, **changes)).encode()


def post_of(event: str = "TaskStart", /, **changes: Any) -> bytes:
    """Return a POST of such a callback."""
    return post(body_of(event, **changes))


def with_text(text: str, event: str = "TaskStart", /, **place: Any) -> bytes:
    """Return a POST in which the value "@" is replaced by `text`, which need not be valid JSON."""
    return post(json.dumps(fields(event, **place)).replace('"@"', text).encode())


def _short(value: object) -> str:
    """Return a short name of a value: its beginning and its length."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:30]}… of {len(text)}"


def cut() -> Iterator[Case]:
    """Callbacks, and the JSON texts within them, truncated at many positions."""
    for end in range(0, len(GOOD.strip()), 14):
        yield rejected(f"cut after {end} bytes", post(GOOD[:end]), 400, "json")
    msg = json.dumps(MSGS["VodSourceFileStart"])
    for end in range(1, len(msg), 8):
        data = post_of("VodSourceFileStart", msg=msg[:end])
        yield rejected(f"msg cut after {end} characters", data, 400, "json", "/msg")
    sources = '["http://origin.example.com/a","http://origin.example.com/b"]'
    for end in range(1, len(sources), 12):
        data = post_of(source_urls=sources[:end])
        yield rejected(f"source_urls cut after {end} characters", data, 400, "json", "/source_urls")


def _in_string(raw: bytes) -> bytes:
    return b'{"event_type":314,"x":"%s"}' % raw


NOT_UTF_8 = {
    "Latin-1": _in_string("é".encode("latin-1")),
    "a lone continuation byte": _in_string(b"\x80"),
    "a continuation byte outside a string": b'{"event_type":314}\x80',
    "a continuation byte in a key": b'{"event_type":314,"\x80":1}',
    "an overlong null": _in_string(b"\xc0\x80"),
    "an overlong letter": _in_string(b"\xc1\x81"),
    "an overlong slash of two bytes": _in_string(b"\xc0\xaf"),
    "an overlong slash of three bytes": _in_string(b"\xe0\x80\xaf"),
    "an overlong slash of four bytes": _in_string(b"\xf0\x80\x80\xaf"),
    "a sequence of five bytes": _in_string(b"\xf8\x88\x80\x80\x80"),
    "a sequence of six bytes": _in_string(b"\xfc\x84\x80\x80\x80\x80"),
    "a byte FE": _in_string(b"\xfe"),
    "a byte FF": _in_string(b"\xff"),
    "an encoded high surrogate": _in_string(b"\xed\xa0\x80"),
    "an encoded low surrogate": _in_string(b"\xed\xbf\xbf"),
    "a surrogate pair in CESU-8": _in_string(b"\xed\xa0\xbd\xed\xb8\x80"),
    "past the end of Unicode": _in_string(b"\xf4\x90\x80\x80"),
    "a lead byte before a letter": _in_string(b"\xe4A"),
    "a cut sequence in a string": _in_string(b"\xe4\xbd"),
    "a cut sequence at the end": b'{"event_type":314,"x":"\xf0\x9f\x8e',
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "a byte order mark in the middle": b'{"event_type":\xef\xbb\xbf314}',
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
    "big-endian UTF-16 without a mark": GOOD.decode().encode("utf-16-be"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "UTF-7": GOOD.decode().encode("utf-7"),
    "EBCDIC": GOOD.decode().encode("cp500"),
}
BAD_STRINGS = {
    "a lone high surrogate escape": _in_string(rb"\ud800"),
    "a lone low surrogate escape": _in_string(rb"\udc00"),
    "half a surrogate pair": _in_string(rb"\ud83d\u0041"),
    "a surrogate pair the wrong way round": _in_string(rb"\ude00\ud83d"),
    "an escape of three digits": _in_string(rb"\u004"),
    "an escape of no hex digits": _in_string(rb"\u00zz"),
    "an escape in capitals": _in_string(rb"\U00000041"),
    "a hexadecimal escape": _in_string(rb"\x41"),
    "a raw newline in a string": _in_string(b"\n"),
    "a raw tab in a string": _in_string(b"\t"),
    "a raw null in a string": _in_string(b"\0"),
    "a raw escape character in a string": _in_string(b"\x1b[31m"),
    "an unclosed string": b'{"a":"',
    "single quotes": b"{'a':1}",
}
NOT_JSON = {
    "nothing but white space": b" \r\n\t ",
    "65536 bytes of white space": b" " * MAX_BODY,
    "65536 quotation marks": b'"' * MAX_BODY,
    "65536 null bytes": b"\0" * MAX_BODY,
    "a no-break space between tokens": b'{"event_type":\xc2\xa0314}',
    "a line separator between tokens": b'{"event_type":\xe2\x80\xa8314}',
    "a vertical tab between tokens": b'{"event_type":\x0b314}',
    "a comment": b'{"a":1/*x*/}',
    "a trailing comma": b'{"a":1,}',
    "a leading comma": b'{,"event_type":314}',
    "two commas": b'{"event_type":314,,"x":1}',
    "a missing comma": b'{"event_type":314 "x":1}',
    "a missing colon": b'{"event_type" 314}',
    "a missing value": b'{"event_type":}',
    "bare keys": b"{a:1}",
    "a number as key": b"{1:2}",
    "Python's True": b'{"a":True}',
    "undefined": b"undefined",
    "two values": GOOD + GOOD,
    "lines of JSON": b'{"event_type":314}\n{"event_type":314}\n',
    "something after": GOOD + b"x",
    "a bracket too many": GOOD.strip() + b"}",
    "a bracket of the other kind": GOOD.strip()[:-1] + b"]",
    "a guard against inclusion": b")]}'\n" + GOOD,
    "a record separator first": b"\x1e" + GOOD,
    "a word": MARK.encode(),
    "a form": f"event_type=314&msg={MARK}".encode(),
    "YAML": f"event_type: 314\nmsg: {MARK}\n".encode(),
    "XML": f"<callback>{MARK}</callback>".encode(),
    "MessagePack": b"\x82\xaaevent_type\xcd\x01\x3a\xa3msg\xaa" + MARK.encode(),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}
#: Malformed JSON texts in fields that may contain JSON as a string.
BAD_TEXTS = {
    "msg": (
        *("{]", "{'a':1}", '{"a":NaN}', MARK, '{"a":1}{', r'{"a":"\ud800"}', f"{{{MARK}:1}}", '{"a":1e400}'),
        *('\ufeff{"a":1}', '{"a":"\n"}', "[" * 5000),
    ),
    "source_urls": ("[NaN]", r'["\udfff"]', f'["{MARK}",]', "[][]", "[Infinity]", "[" * 2000 + "]" * 1999),
}


def not_json() -> Iterator[Case]:
    """Bodies that are not strict JSON, and such texts in msg and source_urls."""
    for name, raw in (NOT_UTF_8 | BAD_STRINGS | NOT_JSON).items():
        yield rejected(name, post(raw), 400, "json")
    for field, texts in BAD_TEXTS.items():
        for text in texts:
            yield rejected(
                f"{field} holds {_short(text)}", post_of(**{field: text}), 400, "json", f"/{field}"
            )


def nested() -> Iterator[Case]:
    """Nested JSON: at the limit the schema decides, one level deeper is rejected as json; never a 5xx."""
    outer = MAX_LEVELS - 1  # the callback itself is one level
    names = ("appid", "task_id", "stream_id", "to_url", "event_time", "callback_event", "event_type", "msg")
    for name in names:
        data = with_text("[" * 500 + "]" * 500, **{name: "@"})
        yield rejected(f"{name} is an array of 500 levels", data, 400, "schema", f"/{name}")
    for name, place in {"msg": "/msg", "appid": "/appid", "source_urls": "/source_urls/0"}.items():
        data = with_text("[" * outer + "]" * outer, **{name: "@"})
        yield rejected(f"{name} is an array as deep as allowed", data, 400, "schema", place)
        text = "[" * MAX_LEVELS + "]" * MAX_LEVELS
        yield rejected(f"{name} is an array one level too deep", with_text(text, **{name: "@"}), 400, "json")
        if name != "appid":
            data = post_of(**{name: text})
            yield rejected(f"{name} is a text of an array as deep as allowed", data, 400, "schema", place)
            data = post_of(**{name: f"[{text}]"})
            yield rejected(f"{name} is a text one level too deep", data, 400, "json", f"/{name}")
    data = with_text('{"a":' * 1000 + "1" + "}" * 1000, stream_id="@")
    yield rejected("stream_id is an object of 1000 levels", data, 400, "schema", "/stream_id")
    for title, raw, reason in (
        ("an array as deep as allowed", b"[" * 1024 + b"]" * 1024, "schema"),
        ("an array one level too deep", b"[" * 1025 + b"]" * 1025, "json"),
        ("arrays of 20000 levels", b"[" * 20000 + b"]" * 20000, "json"),
        ("arrays that do not end", b"[" * 60000, "json"),
        ("objects of 9000 levels", b'{"a":' * 9000 + b"1" + b"}" * 9000, "json"),
    ):
        yield rejected(f"only {title}", post(raw), 400, reason)
    for levels in (31, 32, 33, outer - 1):
        data = with_text('{"a":' * levels + "1" + "}" * levels, msg="@")
        yield accepted(f"msg is an object of {levels} levels", data)
    data = with_text("[" * outer + "]" * outer, unknown="@")
    yield accepted("an unknown field is an array as deep as allowed", data)
    data = with_text("[" * outer + "]" * outer, event_type=1, x="@")
    yield accepted("another product's callback is as deep as allowed", data)


#: Numbers as written in the JSON text, by event and field: the rejected ones, then the accepted ones.
NUMBERS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("TaskStart", "appid"): (
        ("-1", "0.5", "1e30", "9007199254740992", "9223372036854775808", "18446744073709551616", "-1e308"),
        ("0", "9007199254740991", "1.0", "1e3", '"9999999999999999"', '"0000000000000000"'),
    ),
    ("TaskStart", "event_time"): (
        ("-1", "0.5", "1e12", "1000000000000", "1e308", '"1e3"', '"0x1"'),
        ("0", '"0"', '""', "999999999999"),
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
NOT_NUMBERS = ("1e400", "-1e400", "NaN", "-Infinity", "1e", "-", ".5", "1_000", "0b1", "00", "1.e5", "٣")


def numbers() -> Iterator[Case]:
    """Numbers at and past their limits, and texts that are not JSON numbers."""
    for (event, field), (bad, good) in NUMBERS.items():
        name = field.removeprefix("msg.")
        for text in (*bad, *good):
            inner = name != field
            place = {"msg": MSGS[event] | {name: "@"}} if inner else {name: "@"}
            data = with_text(text, event, **place)
            if text in bad:
                pointer = "/" + field.replace(".", "/")
                yield rejected(f"{event}: {field} of {text}", data, 400, "schema", pointer)
            else:
                yield accepted(f"{event}: {field} of {text}", data)
    for text in NOT_NUMBERS:
        yield rejected(f"appid of {text}", with_text(text, appid="@"), 400, "json")


#: Values that are rejected, by field of the callback.
WRONG: dict[str, tuple[Any, ...]] = {
    "appid": (True, "", "-1", "1" * 17, "1\n", MARK, [MARK], {MARK: MARK}),
    "event_time": (True, 10**13, MARK, "-1", "1 ", "１", [MARK], {MARK: MARK}),
    "task_id": (True, -1, 1.5, 2**63, "", "x" * 257, [MARK], {MARK: MARK}),
    "stream_id": (True, 1, "x" * 1025, [MARK], {MARK: MARK}),
    "to_url": (True, 1, "x" * 8193, [MARK], {MARK: MARK}),
    "source_urls": (
        *(True, 1, {MARK: MARK}, [1], [None], [["a"]], ["x" * 8193], ["a"] * 1001, "[1]", "[{}]"),
        [MARK, *range(900)],
    ),
    "callback_event": (True, 1, "", "x" * 129, [MARK], {MARK: MARK}),
    "event_type": ("314", 314.5, True, MARK, [MARK], {MARK: MARK}),
    "msg": (True, 1, "[]", "1", '"text"', "null"),
}
#: Values that are rejected, by event and field of `msg`. None is sent as null.
WRONG_MSG: dict[str, dict[str, tuple[Any, ...]]] = {
    "TaskStart": {"task_start_time": (True, 10**16, MARK, "-1", "", "1\n", [MARK], {}, None)},
    "VodSourceFileStart": {
        "index": (True, MARK, "-1", "", [MARK], {}, None),
        "duration": (True, MARK, "-1", "", [MARK], {}, None),
        "url": (True, 1, "x" * 8193, [MARK], {}, None),
    },
    "VodSourceFileFinish": {"index": (True, -1, [MARK]), "duration": (True, -1, [MARK]), "url": (1, [MARK])},
    "TaskExit": {
        "code": (True, "x" * 65, f"{MARK} b", "é", [MARK], {}),
        "message": (True, 1, [MARK], {}),
        "task_exit_time": (True, -1, MARK, [MARK]),
    },
    "TaskAlarm": {
        "type": (True, 1, "x" * 129, [MARK]),
        "AlarmType": (True, 1, [MARK]),
        "message": (1, [MARK]),
    },
}


def wrong_values() -> Iterator[Case]:
    """JSON that no schema allows; the answer names the pointer, but not the value."""
    whole = (1, None, MARK, True, [], [{}], {}, {"event_type": 314}, [fields(x=MARK)])
    for value in whole:
        yield rejected(f"only {_short(value)}", post(json.dumps(value).encode()), 400, "schema")
    for field, values in WRONG.items():
        for value in values:
            name = f"{field} is {_short(value)}"
            yield rejected(name, post_of(**{field: value}), 400, "schema", f"/{field}")
    for event, msg in MSGS.items():
        for field, value in (("task_id", [{MARK: MARK}]), ("msg", [MARK])):
            data = post_of(event, **{field: value})
            yield rejected(f"{event}: {field} of a wrong type", data, 400, "schema", f"/{field}")
        for name in msg:
            data = post_of(event, msg=json.dumps(msg | {name: {MARK: 1}}))
            yield rejected(f"{event}: {name} of a wrong type in a text", data, 400, "schema", f"/msg/{name}")
    for event, inner in WRONG_MSG.items():
        for name, values in inner.items():
            for value in values:
                data = post_of(event, msg=MSGS[event] | {name: value})
                yield rejected(f"{event}: {name} is {_short(value)}", data, 400, "schema", f"/msg/{name}")


#: Fields that an event may lack.
OPTIONAL = {("TaskExit", "task_id"), ("TaskAlarm", "msg"), ("ResetTaskConfig", "msg")}


def missing() -> Iterator[Case]:
    """Required and optional fields that are missing or null."""
    for event in MSGS:
        for name in ("appid", "event_type", "task_id", "msg"):
            data, title = post_of(event, **{name: ABSENT}), f"{event}: no {name}"
            where = "" if name == "appid" else f"/{name}"
            is_accepted = (event, name) in OPTIONAL
            yield accepted(title, data) if is_accepted else rejected(title, data, 400, "schema", where)
    for name in ("stream_id", "to_url", "source_urls", "event_time"):
        yield accepted(f"no {name}", post_of(**{name: ABSENT}))
        yield accepted(f"{name} is null", post_of(**{name: None}))
    for name in ("appid", "callback_event", "event_type", "task_id", "msg"):
        yield rejected(f"{name} is null", post_of(**{name: None}), 400, "schema", f"/{name}")
    yield accepted("TaskExit: task_id is null", post_of("TaskExit", task_id=None))
    yield rejected("no callback_event", post_of(callback_event=ABSENT), 400, "schema", "/callback_event")
    for event in ("VodSourceFileStart", "VodSourceFileFinish"):
        data = post_of(event, msg={"duration": 1})
        yield rejected(f"{event} without url and index", data, 400, "schema", "/msg")
    yield rejected("both spellings, one wrong", post_of(appId=MARK), 400, "schema", "/appId")


def repeated_keys() -> Iterator[Case]:
    """Repeated keys: the last one is used."""
    text = json.dumps(fields())[1:-1]
    for name, first, last, reason in (
        ("appid, wrong then right", '"appid":"x",', "", ""),
        ("appid, right then wrong", "", f',"appid":"{MARK}"', "schema"),
        ("task_id, right then null", "", ',"task_id":null', "schema"),
        ("task_id, escaped and wrong", "", r',"task\u005fid":[]', "schema"),
        ("msg, a broken text then an object", '"msg":"{",', "", ""),
        ("msg, an object then a broken text", "", ',"msg":"{"', "json"),
        ("event_type, wrong then right", '"event_type":"x",', "", ""),
        ("event_type, right then wrong", "", ',"event_type":"x"', "schema"),
        ("event_type, the relay's then another", "", ',"event_type":1', ""),
        ("a thousand times appid", '"appid":"x",' * 1000, "", ""),
    ):
        data = post(f"{{{first}{text}{last}}}".encode())
        title = f"repeated: {name}"
        yield rejected(title, data, 400, reason) if reason else accepted(title, data)


ODD: dict[str, dict[str, Any]] = {
    "a task id of every script": {"task_id": "任务-задача-مهمة-🎬"},
    "a task id with quotes and newlines": {"task_id": '"\\\n{}'},
    "a null in the task id": {"task_id": "\0"},
    "a task id that reverses the text direction": {"task_id": "\u202e\u2028\uffff\U0010ffff"},
    "a task id of 256 emojis": {"task_id": "\U0001f3ac" * 256},
    "the task id 0": {"task_id": 0},
    "a stream id of control characters": {"stream_id": "\0\r\n\x1b[31m"},
    "a stream id of 1024 characters": {"stream_id": "x" * 1024},
    "a malformed destination": {"to_url": "rtmp://[::1/x"},
    "a destination that is no URL": {"to_url": "\0"},
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
    "a time long ago": {"event_time": "1", "msg": {"task_start_time": 1}},
    "a time far ahead": {"event_time": "999999999999", "msg": {"task_start_time": 999999999999999}},
    "an empty field name": {"": ""},
    "field names that look like the program's": {"__class__": {}, "self": 1, "event": [], "letter": "S"},
    "a field name of 30000 characters": {"x" * 30000: 1},
    "a long unknown field": {"extra": "x" * 60000},
    "a thousand unknown fields": {f"f{n}": n for n in range(1000)},
    "interface, product_name and callback_url of any type": {
        "interface": 1,
        "product_name": [],
        "callback_url": {},
    },
    "sign and t of any type": {"sign": [], "t": {}},
    "an unknown event": {"callback_event": "TaskDance"},
    "an event's name in lower case": {"callback_event": "taskstart"},
    "an event's name with a space": {"callback_event": "TaskStart "},
    "an event's name that is a null": {"callback_event": "\0"},
    "another product's number": {"event_type": 0},
    "another product's negative number": {"event_type": -(2**63)},
    "another product's largest number": {"event_type": 2**64 - 1},
    "another product with invalid fields": {"event_type": 1, "appid": [], "msg": "{"},
}


def odd_but_good() -> Iterator[Case]:
    """Unusual callbacks that must be accepted, and every sample."""
    for path in sorted(SAMPLES.rglob("*.json")):
        yield accepted(f"the sample {path.stem}", post(path.read_bytes()))
    for name, changes in ODD.items():
        yield accepted(name, post_of(**changes))
    for event, msg in MSGS.items():
        yield accepted(f"{event}: a field without a name in msg", post_of(event, msg=msg | {"": "x"}))
    yield accepted("a file known by its URL alone", post_of("VodSourceFileFinish", msg={"url": ""}))
    yield accepted("an alarm of an unknown type", post_of("TaskAlarm", msg={"type": "Nonsense"}))
    yield accepted("an alarm of no type", post_of("TaskAlarm", msg={}))
    yield accepted("an empty text as msg", post_of("ResetTaskConfig", msg=""))


def lengths() -> Iterator[Case]:
    """Content-Length headers, valid and invalid."""
    for value in (
        *(b"-1", b"-0", b"+%d" % LENGTH, b"1e3", b"1_000", b"0x10", b"5 5", b"5.0", b"five", b"\xd9\xa3"),
        *(b"%d, %d" % (LENGTH, LENGTH), b"%d;" % LENGTH, b"nan", b""),
        *(b"18446744073709551616", b"1" + b"0" * 30, b"9" * 4000),
    ):
        data = request(b"Content-Length: " + value)
        yield malformed(f"a Content-Length of {value[:24].decode('latin-1')!r}", data)
    yield malformed("the same length twice", request(length(), length()))
    yield malformed("two lengths that differ", request(length(1), length()))
    yield malformed("a length with a space before the colon", request(b"Content-Length : 5", length()))
    yield accepted("a length with a leading zero", request(b"Content-Length: 0%d" % LENGTH))
    yield accepted("a length with white space around", request(b"Content-Length: \t%d \t" % LENGTH))
    yield rejected("a length one too small", request(length(100)), 400, "json")
    yield rejected("no length", request(body=b""), 411, "length")
    old = request(body=b"").replace(b"HTTP/1.1", b"HTTP/1.0")
    yield rejected("HTTP/1.0 without a length", old, 411, "length")
    for number in (2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        yield rejected(f"a length of {number}", request(length(number)), 413, "too_large")
    yield rejected(
        "a Content-Length one byte too long, without a body",
        request(length(MAX_BODY + 1), body=b""),
        413,
        "too_large",
    )
    full = body_of(x="x" * 60000)
    full += b" " * (MAX_BODY - len(full))
    yield accepted("65536 bytes", post(full))
    yield rejected("65537 bytes", post(full + b" "), 413, "too_large")
    yield accepted("65536 bytes in one chunk", chunked(full))
    yield rejected("65537 bytes in one chunk", chunked(full + b" "), 413, "too_large")
    yield rejected("65537 bytes, the last one in its own chunk", chunked(full, b" "), 413, "too_large")
    yield rejected("many chunks too long", chunked(*[b" " * 8192] * 9), 413, "too_large")
    yield rejected(
        "chunks far too long, without end", chunked(*[b" " * 8192] * 200, end=b""), 413, "too_large"
    )
    yield rejected("an empty chunked body", chunked(), 400, "json")
    whole = post(GOOD)
    yield accepted("a callback in three parts", whole[:90], whole[90:300], whole[300:])
    for data, status, reason in ((GOOD, 200, ""), (b"{", 400, "json"), (body_of(appid="y"), 400, "schema")):
        parts = (request(length(len(data)), body=b""), data)
        yield Case(f"headers, and later a body that is {status} {reason}", parts, (status,), (reason,))


def chunks() -> Iterator[Case]:
    """Chunked bodies: complete ones are accepted, malformed ones are rejected."""
    yield accepted("two chunks", chunked(GOOD[:100], GOOD[100:]))
    for size in (LENGTH, MAX_BODY):
        single = (bytes([byte]) for byte in GOOD.ljust(size))
        yield accepted(f"{size} chunks of one byte", chunked(*single))
    for name, text in {
        "a size in capitals": b"%X\r\n%s\r\n" % (LENGTH, GOOD) + END,
        "a size with leading zeros": b"%020x\r\n%s\r\n" % (LENGTH, GOOD) + END,
        "an end of three zeros": CHUNK + b"000\r\n\r\n",
        "an extension": b"%x;a=b\r\n%s\r\n" % (LENGTH, GOOD) + END,
        "a quoted extension": b'%x;a="b;c"\r\n%s\r\n' % (LENGTH, GOOD) + END,
        "500 trailers": CHUNK + b"0\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    }.items():
        yield accepted(f"chunks with {name}", chunked(end=text))
    for name, text in {
        "no size": b"\r\n" + GOOD + b"\r\n" + END,
        "a size that is a letter": b"g\r\n",
        "a size with a plus": b"+5\r\nhello\r\n" + END,
        "a size with an underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n" + END,
        "a size with 0x": b"0x5\r\nhello\r\n" + END,
        "a size behind white space": b" 5\r\nhello\r\n" + END,
        "a size before white space": b"5 \r\nhello\r\n" + END,
        "a size past 64 bits": b"f" * 17 + b"\r\n",
        "a size that is a negative number": b"-5\r\nhello\r\n" + END,
        "a size that is too small": b"%x\r\n%s\r\n" % (LENGTH - 5, GOOD) + END,
        "a carriage return in an extension": b"%x;a=\rb\r\n%s\r\n" % (LENGTH, GOOD) + END,
        "an extension of 40000 bytes": b"%x;a=%s\r\n%s\r\n" % (LENGTH, b"x" * 40000, GOOD) + END,
        "a size of 40000 zeros": b"0" * 40000,
        "a trailer of 40000 bytes": CHUNK + b"0\r\nX: " + b"y" * 40000 + b"\r\n\r\n",
        "9000 trailers": CHUNK + b"0\r\n" + b"X: y\r\n" * 9000 + b"\r\n",
        "no size, JSON at once": GOOD,
        "bare line feeds": b"%x\n%s\n0\n\n" % (LENGTH, GOOD),
        "a bare line feed at the end": CHUNK + b"0\r\n\n",
        "a trailer without colon": CHUNK + b"0\r\nnonsense\r\n\r\n",
        "a length as trailer": CHUNK + b"0\r\nContent-Length: 5\r\n\r\n",
        "a coding as trailer": CHUNK + b"0\r\nTransfer-Encoding: gzip\r\n\r\n",
    }.items():
        yield rejected(f"chunks with {name}", chunked(end=text), 400, "length")
    head, rest = chunked(end=b"%x\r\n" % LENGTH + GOOD[:200]), GOOD[200:] + b"\r\n"
    yield accepted("chunks in three parts", head, rest, END)
    for title, begun in {
        "whole JSON": head + rest,
        "half the JSON": chunked(end=b"c8\r\n%s\r\n" % GOOD[:200]),
    }.items():
        title = f"{title} in a chunk, and later a malformed chunk"
        yield Case(title, (begun, b"zz\r\n"), (400,), ("length",))
    for size in (b"7" + b"f" * 15, b"ffffffff"):
        data = chunked(end=size + b"\r\n" + b"x" * (MAX_BODY + 1))
        yield rejected(f"a chunk with the size {size.decode()}", data, 413, "too_large")


def codings() -> Iterator[Case]:
    """Transfer-Encoding and Content-Encoding."""
    for value in (b"Chunked", b"CHUNKED", b"\tchunked "):
        data = request(b"Transfer-Encoding: " + value, body=CHUNK + END)
        yield accepted(f"Transfer-Encoding of {value.decode()!r}", data)
    for value in (
        *(b"", b"gzip", b"deflate", b"identity", b"br", b"br, chunked", b"x, chunked", b"xchunked"),
        *(b"chunked x", b"chunked;q=1", b"chunked,", b",chunked", b'"chunked"', b"chunked\x0b"),
        *(b"chunked, identity", b"chunked, chunked"),
    ):
        data = request(b"Transfer-Encoding: " + value, body=CHUNK + END)
        yield malformed(f"Transfer-Encoding of {value.decode()!r}", data)
    coding = b"Transfer-Encoding: chunked"
    yield malformed("chunked in two headers", request(coding, coding, body=CHUNK + END))
    yield malformed("a length, then chunked", request(length(5), coding, body=CHUNK + END))
    yield malformed("chunked, then a length", request(coding, length(5), body=CHUNK + END))
    old = request(coding, body=CHUNK + END).replace(b"HTTP/1.1", b"HTTP/1.0")
    yield malformed("chunked in HTTP/1.0", old)
    for value in (
        *("gzip", "GZIP", "deflate", "br", "zstd", "x", "compress", "gzip, identity", "identity, gzip"),
        *("identity, identity", ",", "identity;q=1"),
    ):
        data = request(f"Content-Encoding: {value}".encode(), length(), b"X: y")
        yield rejected(f"Content-Encoding of {value!r}", data, 415, "encoding")
    both = request(b"Content-Encoding: identity", b"Content-Encoding: gzip", length())
    yield rejected("Content-Encoding identity and gzip", both, 415, "encoding")
    packed = request(b"Content-Encoding: gzip", coding, body=CHUNK + END)
    yield rejected("Content-Encoding gzip in chunks", packed, 415, "encoding")
    unmeasured = request(b"Content-Encoding: gzip", body=b"")
    yield rejected("Content-Encoding gzip without a length", unmeasured, 415, "encoding")
    yield accepted("Content-Encoding Identity", request(b"Content-Encoding: Identity ", length()))
    yield accepted("Content-Encoding without a value", request(b"Content-Encoding:", length()))


#: Unknown paths. Dot segments are not resolved, so none of them leads to a known path.
NOWHERE = (
    *("/", "//", "/callbacks/", "//callbacks", "/Callbacks", "/CALLBACKS", "/callbacks/x", "/callbacks/.."),
    *("/callbacks/../metrics", "/%2e%2e/metrics", "/callbacks%2f", "/callbacks%00", "/callbacks;x=1"),
    *("/callbacks%20", "/callbacks%3f", "/callbacks%", "/callbacks#x", "/%ff%fe", "/%zz", "/.git/config"),
    *("/./callbacks", "/callbacks/.", "/\\callbacks", "/{token}", "/callbacks/{x}", "//test/callbacks"),
    *("/callbacks//", "/callbacks/%2e%2e/metrics", "/callbacks/" + MARK, "/callbacks/" + "x" * 4000),
    *(
        "/" + "x" * 4000,
        "/metrics",
        "/-/healthy",
        "/-/ready",
        "/api/v1/tasks",
        "/favicon.ico",
        "*",
        "http://test/",
        "http://test",
        "http://test/metrics",
        "http://test//callbacks",
        "http://test/callbacks#x",
    ),
)


def targets() -> Iterator[Case]:
    """Methods and request targets."""
    for target in (
        *("/callbacks?", "/callbacks?x=1&x=%zz", "/callbacks?a=%00%ff", "/callbacks?/../metrics"),
        *("/%63allbacks", "/%63%61llbacks", "/callbacks?" + "x" * 4000),
        *("http://test/callbacks", "HTTP://u@test:1/callbacks?x=/y", "https://[::1]:1/callbacks"),
    ):
        yield accepted(f"to {target[:30]}", request(length(), line=f"POST {target} HTTP/1.1".encode()))
    for target in NOWHERE:
        line = f"POST {target} HTTP/1.1".encode()
        yield rejected(f"POST {_short(target)}", request(length(), line=line), 404, "token")
    for target in ("/", "/callbacks/x", "/metrics", "/-/healthy", "/favicon.ico"):
        line = f"GET {target} HTTP/1.1".encode()
        yield rejected(f"GET {target}", request(line=line, body=b""), 404, "token")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        line = f"{method} /metrics HTTP/1.1".encode()
        yield rejected(f"{method} with a body to /metrics", request(length(), line=line), 404, "token")
    for method in (
        *("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "HEAD"),
        *("PROPFIND", "REPORT", "QUERY", "PURGE", "LINK"),
    ):
        line = f"{method} /callbacks HTTP/1.1".encode()
        yield rejected(f"{method} with a body", request(length(), line=line), 405, "method")
    for line in (b"OPTIONS * HTTP/1.1", b"CONNECT test:443 HTTP/1.1"):
        yield rejected(line.decode(), request(line=line, body=b""), 404, "token")


def first_lines() -> Iterator[Case]:
    """Malformed request lines, and protocols other than HTTP."""
    for line in (
        *(b"post /callbacks HTTP/1.1", b"Post /callbacks HTTP/1.1", b"P\xc3\xb6ST /callbacks HTTP/1.1"),
        *(b"FOO /callbacks HTTP/1.1", b"F-O_O /callbacks HTTP/1.1", b"POST1 /callbacks HTTP/1.1"),
        *(b"A /callbacks HTTP/1.1", b"A" * 30 + b" /callbacks HTTP/1.1", b"POST\t/callbacks\tHTTP/1.1"),
        *(b"POST callbacks HTTP/1.1", b"POST ?callbacks HTTP/1.1"),
        *(b"POST /callbacks\xff HTTP/1.1", b"POST /call backs HTTP/1.1", b"POST /callbacks\0 HTTP/1.1"),
        *(b" POST /callbacks HTTP/1.1", b"\tPOST /callbacks HTTP/1.1", b"\0POST /callbacks HTTP/1.1"),
        *(b"POST /callbacks HTTP/1.1 ", b"POST /callbacks http/1.1", b"POST /callbacks HTTP/1.1x"),
        *(b"POST /callbacks HTTP/1.2", b"POST /callbacks HTTP/2.0", b"POST /callbacks HTTP/3.0"),
        *(b"POST /callbacks HTTP/0.9", b"POST /callbacks HTTP/1.10", b"POST /callbacks", b"POST HTTP/1.1"),
        *(b"POST", b"GET /callbacks", b"PRI * HTTP/2.0"),
    ):
        yield malformed(f"a first line of {line[:36].decode('latin-1')!r}", request(length(), line=line))
    proxied = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + post(GOOD)
    for name, data in {
        "a bare GET": b"GET /\r\n\r\n",
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        "a TLS hello that contains line ends": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        "the answer of a server": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "a Redis command": b"*1\r\n$4\r\nPING\r\n\r\n",
        "an SMTP greeting": b"EHLO test\r\n\r\n",
        "a PROXY header from an untrusted address": proxied,
        "every byte value": bytes(range(256)) * 20 + b"\r\n\r\n",
        "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
        "an SSH greeting": b"SSH-2.0-OpenSSH_9.2\r\n",
    }.items():
        yield malformed(name, data)
    for size in (4100, 20000):
        line = b"POST /callbacks?" + b"x" * size + b" HTTP/1.1"
        yield malformed(f"a first line of {len(line)} bytes", request(length(), line=line), status=414)
    old = post(GOOD).replace(b"HTTP/1.1", b"HTTP/1.0")
    yield accepted("HTTP/1.0", old)
    # RFC 9112 allows both rejecting and accepting these. The contract does not decide; they are harmless.
    yield accepted("two spaces in the first line", request(length(), line=b"POST  /callbacks  HTTP/1.1"))
    for lines in (b"\r\n", b"\n", b"\r\n\r\n"):
        yield accepted(f"empty lines first, {lines!r}", lines + post(GOOD))


def headers() -> Iterator[Case]:
    """Header fields: valid, malformed, too many, too long."""
    for name, header in {
        "Content-Type of a picture": b"Content-Type: image/png; x=\xff",
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
        "a Cookie of 20000 bytes": b"Cookie: " + b"x" * 20000,
        "100 in all": b"\r\n".join([b"X: y"] * 97),
        "an Expect that is not known": b"Expect: 200-ok",
    }.items():
        yield accepted(f"headers with {name}", request(header, length()))
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
    }.items():
        yield malformed(f"headers with {name}", request(header, length()))
    for name, header in {
        "101 in all": b"\r\n".join([b"X: y"] * 98),
        "500 in all": b"\r\n".join([b"X: y"] * 497),
        "one of 40000 bytes": b"X: " + b"y" * 39995,
        "ninety of 500 bytes": b"\r\n".join([b"X: " + b"y" * 495] * 90),
    }.items():
        yield malformed(f"headers with {name}", request(header, length()), status=431)
    # RFC 9112 requires 400 here. The contract does not; they are harmless.
    yield accepted("no Host", post(GOOD).replace(b"Host: test\r\n", b""))
    yield accepted("an invalid Host", post(GOOD).replace(b"Host: test", b"Host: a b/c@"))


BIG = b" " * (MAX_BODY + 1)
#: Requests without `Connection: close`, the status of the answer, and the rejection reason.
FIRST: dict[str, tuple[bytes, int, str]] = {
    "good": (request(length(), close=False), 200, ""),
    "not JSON": (request(length(1), body=b"{", close=False), 400, "json"),
    "too long": (request(length(len(BIG)), body=BIG, close=False), 413, "too_large"),
    "too long, chunked": (
        request(b"Transfer-Encoding: chunked", body=b"10001\r\n" + BIG + b"\r\n" + END, close=False),
        413,
        "too_large",
    ),
    "encoded": (request(b"Content-Encoding: gzip", length(), close=False), 415, "encoding"),
    "for another path": (request(length(), line=b"POST /x HTTP/1.1", close=False), 404, "token"),
    "of another method": (request(length(), line=b"PUT /callbacks HTTP/1.1", close=False), 405, "method"),
    "without a length": (request(body=b"", close=False), 411, "length"),
}


def several() -> Iterator[Case]:
    """Several requests on one connection: the request after a rejected one is read correctly."""
    good, on = post(GOOD), request(length(), close=False)
    for name, (data, status, reason) in FIRST.items():
        yield Case(f"one that is {name}, then a good one", (data + good,), (status, 200), (reason, ""))
        yield Case(f"one that is {name}, and later a good one", (data, good), (status, 200), (reason, ""))
    yield Case("ten good requests at once", (on * 9 + good,), (200,) * 10, ("",) * 10)
    without_length = request(body=MARK.encode() + b"\r\n\r\n", close=False)
    yield Case(
        "a body without a length is read as the next request", (without_length,), (411, 400), ("length", "")
    )
    hidden = request(length(len(good)), line=b"POST /x HTTP/1.1", body=good)
    yield rejected("a request hidden in the body of another path", hidden, 404, "token")
    hidden = request(length(len(good) + len(BIG)), body=BIG + good)
    yield rejected("a request hidden in a body too long", hidden, 413, "too_large")
    hidden = request(length(len(good)), b"Content-Encoding: gzip", body=good)
    yield rejected("a request hidden in an encoded body", hidden, 415, "encoding")
    yield Case("a good request, then nonsense", (on + b"nonsense\r\n\r\n",), (200, 400), ("", ""))
    yield Case("a good request that closes, then another", (good + good,), (200,), ("",))


#: Requests of all kinds: accepted, rejected by their headers, and rejected by their body.
QUEUE: tuple[tuple[bytes, int, str], ...] = (
    (post_of(task_id="queued"), 200, ""),
    (post(b"{"), 400, "json"),
    (request(b"Content-Encoding: identity", length()), 200, ""),
    (request(line=b"GET /nowhere HTTP/1.1", body=b""), 404, "token"),
    (post(GOOD), 200, ""),
)


def queued() -> Iterator[Case]:
    """Pipelined requests are answered in order, wherever the bytes are split in two parts."""
    for first in range(len(QUEUE)):
        requests = QUEUE[first:] + QUEUE[:first]
        going_on = [data.replace(b"Connection: close\r\n", b"") for data, _, _ in requests[:-1]]
        sent = b"".join([*going_on, requests[-1][0]])
        statuses = tuple(status for _, status, _ in requests)
        reasons = tuple(reason for _, _, reason in requests)
        for at in (0, 60, 450, 800):
            parts = (sent[:at], sent[at:]) if at else (sent,)
            yield Case(f"a queue that begins with {first}, cut at {at}", parts, statuses, reasons)


SOCKET = (b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def upgrades() -> Iterator[Case]:
    """Upgrade is ignored: the request is answered like any other, then the connection is closed."""
    yield rejected("a websocket", _upgrade(*SOCKET), 405, "method")
    for path in ("/", "/metrics"):
        yield rejected(f"a websocket to {path}", _upgrade(*SOCKET, path=path), 404, "token")
    frames = _upgrade(*SOCKET) + b"\x81\x85aaaaaaaaa" * 100
    yield rejected("a websocket, and frames at once", frames, 405, "method")
    yield rejected("a websocket, and a callback at once", _upgrade(*SOCKET) + post(GOOD), 405, "method")
    yield rejected("a websocket without version", _upgrade(SOCKET[0], SOCKET[2]), 405, "method")
    yield rejected("a websocket without key", _upgrade(*SOCKET[:2]), 405, "method")
    h2c = (b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", length())
    yield accepted("an upgrade to h2c", request(*h2c))
    # The HTTP parser reads no body after `Connection: Upgrade`, so the request is rejected at once.
    with_connection = request(b"Connection: Upgrade, HTTP2-Settings", *h2c, close=False)
    yield rejected("an upgrade to h2c with Connection: Upgrade", with_connection, 400, "length")


def _upgrade(*headers: bytes, path: str = "/callbacks") -> bytes:
    lines = (f"GET {path} HTTP/1.1".encode(), b"Host: test", b"Connection: Upgrade", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


EXPECT = b"Expect: 100-continue"


def expectations() -> Iterator[Case]:
    """Expect: 100-continue gets 100 before the body; a rejected request gets its error without 100."""
    yield accepted("Expect, and the body at once", request(EXPECT, length()))
    yield Case("Expect, then the body", (request(EXPECT, length(), body=b""), GOOD), (100, 200), ("", ""))
    old = request(EXPECT, length(), body=b"").replace(b"HTTP/1.1", b"HTTP/1.0")
    yield accepted("Expect in HTTP/1.0, then the body", old, GOOD)
    going_on = (request(EXPECT, length(), body=b"", close=False), GOOD, post(GOOD))
    yield Case("Expect, then the body, then another request", going_on, (100, 200, 200), ("", "", ""))
    # The client may send the body or not. The next bytes are ambiguous, so the connection is closed.
    data = request(EXPECT, length(LENGTH), line=b"POST /x HTTP/1.1", body=b"", close=False)
    yield rejected("Expect for another path, without Connection: close", data, 404, "token")
    head = request(EXPECT, b"Transfer-Encoding: chunked", body=b"")
    yield Case("Expect, then chunks", (head, CHUNK, END), (100, 200), ("", ""))
    for name, headers, line, status, reason in (
        ("a body too long", (length(MAX_BODY + 1),), POST, 413, "too_large"),
        ("an encoded body", (b"Content-Encoding: br", length()), POST, 415, "encoding"),
        ("another path", (length(),), b"POST /x HTTP/1.1", 404, "token"),
        ("another method", (length(),), b"PUT /callbacks HTTP/1.1", 405, "method"),
        ("no length", (), POST, 411, "length"),
    ):
        data = request(EXPECT, *headers, line=line, body=b"")
        yield rejected(f"Expect, with {name}", data, status, reason)


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    family.__name__: family
    for family in (
        *(cut, not_json, nested, numbers, wrong_values, missing, repeated_keys, odd_but_good),
        *(lengths, chunks, codings, targets, first_lines, headers, several, queued, upgrades, expectations),
    )
}


def cases() -> list[Case]:
    """Return every case."""
    return [case for family in FAMILIES.values() for case in family()]


class Slow(Struct, frozen=True):
    """A request that is never completed.

    Args:
        parts: the bytes sent at first; the server reads each part before the next one is sent.
        then: the bytes sent repeatedly afterwards.
        statuses: the status of every answer; empty if the connection is closed without an answer.
        reason: the rejection reason; empty if the request does not reach the handler.
        seconds: the server's time limit.
    """

    parts: tuple[bytes, ...]
    then: bytes = b""
    statuses: tuple[int, ...] = (408,)
    reason: str = "length"
    seconds: float = 10.0


_PROMISE = request(length(60_000), body=b"")
_CODED = request(b"Transfer-Encoding: chunked", body=b"")
_HEADERS = POST + b"\r\nHost: test\r\n"
SLOW = {
    "a body that is not sent": Slow((_PROMISE,)),
    "a body sent byte by byte": Slow((_PROMISE,), b" "),
    "a body that lacks its last byte": Slow((post(GOOD)[:-1],)),
    "chunks sent one by one": Slow((_CODED,), b"1\r\n \r\n"),
    "complete JSON without a last chunk": Slow((_CODED + CHUNK,)),
    "an incomplete chunk": Slow((_CODED + b"ff\r\n{",)),
    "an endless chunk size": Slow((_CODED,), b"0"),
    "Expect, without a body": Slow((request(EXPECT, length(5), body=b""),), statuses=(100, 408)),
    "nothing": Slow((), statuses=(), reason=""),
    "one byte": Slow((b"P",), statuses=(), reason=""),
    "incomplete headers": Slow((_HEADERS,), statuses=(), reason=""),
    "headers sent byte by byte": Slow((_HEADERS + b"A: ",), b"a", (), ""),
    "headers sent line by line": Slow((_HEADERS,), b"A: b\r\n", (), ""),
    "empty lines": Slow((), b"\r\n", (), ""),
    "half a request after a complete one": Slow(
        (request(length(), close=False), b"POST /call"), statuses=(200,), reason=""
    ),
    "no request after a complete one": Slow((request(length(), close=False),), statuses=(200,), reason=""),
}
#: Requests rejected by their headers: the answer is sent without waiting for the body.
REJECTED_AT_ONCE = {
    "for another path": (request(length(5), line=b"POST /x HTTP/1.1", body=b""), 404, "token"),
    "of another method": (request(length(5), line=b"GET /callbacks HTTP/1.1", body=b""), 405, "method"),
    "encoded": (request(length(5), b"Content-Encoding: gzip", body=b""), 415, "encoding"),
    "too long": (request(length(70_000), body=b""), 413, "too_large"),
}
#: Bytes sent by a caller that then shuts down its sending side, and the status of every answer.
HALF_CLOSED = {
    "a request": (post(GOOD), (200,)),
    "a body that is cut off": (post(GOOD)[:-20], (408,)),
    "chunks that are cut off": (chunked(end=CHUNK), (408,)),
    "a request, and a body that is cut off": (request(length(), close=False) + post(GOOD)[:-20], (200, 408)),
    "a request, and malformed chunks": (request(length(), close=False) + chunked(end=b"zz\r\n"), (200, 400)),
    "a request, and an ambiguous one": (
        request(length(), close=False) + request(b"Host: x", length()),
        (200, 400),
    ),
    "a request, and no HTTP": (request(length(), close=False) + b"nonsense\r\n", (200, 400)),
    "a request, and headers that are too long": (
        request(length(), close=False) + POST + b"\r\nX: " + b"y" * 50_000,
        (200, 431),
    ),
    "a request, and half a one": (request(length(), close=False) + POST, (200,)),
    "requests of all kinds": (
        b"".join(
            request(length(), line=line, close=False) for line in (POST, b"PUT /callbacks HTTP/1.1") * 50
        ),
        (200, 405) * 50,
    ),
}
#: Requests whose body is truncated.
CUT_OFF = {
    "with a length": post(GOOD)[:-20],
    "in the middle of a chunk": chunked(end=CHUNK[:200]),
    "after whole JSON, before the last chunk": chunked(end=CHUNK),
}
