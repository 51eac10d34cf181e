"""What must hold of the parser for every body: truths tried on drawn examples, as in `test_order`.

Where hypothesis finds a counterexample it prints the body. Copy it into an `@example` above the test, and
keep it there when the parser is mended: examples are run first each time.
"""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from exporter.errors import CallbackError
from exporter.protocol.callback import Callback, Ignored
from exporter.protocol.events import BY_NAME, EventKind
from exporter.protocol.parser import MAX_MESSAGE, Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.relay import Task, fold
from exporter.store.records import encode
from tests.support import SAMPLES
from tests.unit.histories import SETTINGS, max_examples

PARSER = Parser(schemas=Schemas(), redactor=Redactor(key=b"key", plain_hosts=["*.myqcloud.com"]))
BODIES = [json.loads(path.read_bytes()) for path in sorted(SAMPLES.rglob("*.json"))]
FIELDS = sorted({name for body in BODIES for name in body} | {"appId", "AlarmType", "", "extra"})
CANARY = "c4n4ry"


def parsed(raw: bytes) -> Callback | Ignored | None:
    """Return the value of a body, None if it is refused as it should be."""
    try:
        return PARSER.parse(raw)
    except CallbackError as exc:
        rejected = exc
    assert rejected.status == 400
    assert rejected.reason in ("json", "schema")
    assert rejected.faults
    assert CANARY not in str(rejected)
    return None


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "0",
            "-1",
            "7",
            "07",
            "7.0",
            "-22",
            "12\n",
            "9" * 17,
            "x" * 257,
            "١٢",
            "{",
            "[]",
            "{}",
            '["http://a/b"]',
        ]
    ),
    st.sampled_from(
        [f"rtmp://host/live/{CANARY}", f"http://u:{CANARY}@host/a?k={CANARY}", 0, 1, 7, 314, 2.0, 1e300]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A sample, of which some fields have other values, or are gone, or are new."""
    body: dict[str, Any] = dict(draw(st.sampled_from(BODIES)))
    if isinstance(body.get("msg"), str) and draw(st.booleans()):
        msg = json.loads(body["msg"])
        if isinstance(msg, dict):
            msg |= draw(st.dictionaries(st.sampled_from(sorted(msg) or ["url"]), values, max_size=2))
            body["msg"] = draw(st.sampled_from([msg, json.dumps(msg)]))
    body |= draw(st.dictionaries(st.sampled_from(FIELDS), values, max_size=3))
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=2)):
        body.pop(name, None)
    raw = json.dumps(body).encode("utf-8", "surrogatepass")
    return draw(st.sampled_from([raw, raw[: draw(st.integers(0, len(raw)))]]))


@given(st.binary(max_size=80) | bent())
@example(b"")
@example(b"\xff")
@example(
    b'{"event_type":314,"appid":1,"callback_event":"VodSourceFileStart","task_id":"t","msg":{"url":"","index":null}}'
)
@example(b'{"event_type":314,"appid":1,"callback_event":"TaskStart","task_id":"t","msg":{"":"1"}}')
@example(b'{"event_type":314,"appid":1,"callback_event":"TaskExit","msg":{"code":"\xc2\xb2"}}')
@example(b'{"event_type":314,"appid":1,"callback_event":"TaskExit","msg":{"code":1e300}}')
@max_examples(120)
def test_whatever_comes_is_a_value_or_refused_with_a_reason(raw: bytes) -> None:
    """A value has the types that it says, and bounds; the same bytes are always the same value."""
    value = parsed(raw)
    if isinstance(value, Callback):
        assert parsed(raw) == value
        assert (value.appid >= 0, len(value.task_id) <= 256) == (True, True)
        assert value.task_id or value.kind is EventKind.EXIT
        assert value.event_time_seconds is None or 0 < value.event_time_seconds < 10**12
        assert value.stated_ms is None or 0 < value.stated_ms < 10**15
        assert value.duration_seconds >= 0
        assert len(value.message) <= MAX_MESSAGE
        assert type(value.duration_seconds) is float
        hash(value)


def spelled(number: int) -> st.SearchStrategy[Any]:
    """A whole number as a sender may write it."""
    return st.sampled_from([number, str(number), float(number), f"0{number}"])


@st.composite
def spellings(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """One callback, written in two ways."""
    event = draw(st.sampled_from(sorted(BY_NAME)))
    appid, task, time, ms, index, length, code = (draw(st.integers(1, 99999)) for _ in range(7))
    urls = draw(st.lists(st.sampled_from(["http://a/x?k=1", "http://b:80/y", "rtmp://c/z"]), max_size=3))
    kind = draw(st.sampled_from(["PullFileFailed", "New"]))

    def written() -> bytes:
        msg: dict[str, Any] = {
            "TaskStart": {"task_start_time": draw(spelled(ms))},
            "VodSourceFileStart": {"index": draw(spelled(index)), "duration": draw(spelled(length))},
            "VodSourceFileFinish": {"index": draw(spelled(index)), "duration": draw(spelled(length))},
            "TaskExit": {"code": draw(spelled(code)), "task_exit_time": draw(spelled(ms)), "message": "why"},
            "TaskAlarm": {draw(st.sampled_from(["type", "AlarmType"])): kind},
            "ResetTaskConfig": {},
        }[event]
        body: dict[str, Any] = {
            "event_type": draw(st.sampled_from([314, 314.0])),
            "callback_event": event,
            draw(st.sampled_from(["appid", "appId"])): draw(spelled(appid)),
            "task_id": draw(st.sampled_from([task, str(task), float(task)])),
            "event_time": draw(spelled(time)),
            "msg": draw(st.sampled_from([msg, json.dumps(msg), f" {json.dumps(msg)}\n"])),
            "source_urls": draw(st.sampled_from([urls, json.dumps(urls), f"\n{json.dumps(urls)} "])),
        }
        order = draw(st.permutations(sorted(body)))
        return json.dumps({name: body[name] for name in order}).encode()

    return written(), written()


@given(spellings())
@max_examples(60)
def test_every_spelling_of_a_callback_is_the_same_value(pair: tuple[bytes, bytes]) -> None:
    """Names, numbers as texts, JSON inside of texts, spaces, order."""
    one, other = (parsed(raw) for raw in pair)
    assert isinstance(one, Callback)
    assert one == other


#: URLs that hold a secret wherever one may stand; where it is the last segment it is the key of the stream.
KEYED = [
    f"rtmp://user:{CANARY}@push.example.com/live/{CANARY}?txSecret={CANARY}&t=1#{CANARY}",
    f"RTMP://push.example.com:1935/a/b/{CANARY}/",
]
SECRETIVE = [
    *KEYED,
    f"rtmp://5000.livepush.myqcloud.com/live/room?{CANARY}",
    f"http://{CANARY}@h/x?{CANARY}",
    f"http://h/x?sign={CANARY}",
    f"no url?{CANARY}",
]


@st.composite
def secretive(draw: st.DrawFn) -> bytes:
    """A callback whose URLs hold a secret."""
    event = draw(st.sampled_from(sorted(BY_NAME)))
    url, to_url = draw(st.sampled_from(SECRETIVE)), draw(st.sampled_from(SECRETIVE))
    key = [CANARY] if to_url in KEYED else []
    message = f"could not push to {to_url}: {' '.join(key)} refused, token={CANARY}"
    msg = {"url": url, "code": -5, "message": message}
    body = {
        "event_type": 314,
        "callback_event": event,
        "appid": 4,
        "task_id": "t",
        "to_url": to_url,
        "stream_id": draw(st.sampled_from(["room", f"room?{CANARY}", *key])),
        "source_urls": draw(st.sampled_from([[url], json.dumps([url, to_url]), None, url])),
        "callback_url": to_url,
        "sign": CANARY,
        "msg": draw(st.sampled_from([msg, json.dumps(msg)])),
    }
    return json.dumps({k: v for k, v in body.items() if v is not None}).encode()


@given(secretive())
@example(  # a key before a slash was shown where the message of an exit had it
    b'{"event_type":314,"appid":4,"callback_event":"TaskExit","to_url":"rtmp://a.example.com/live/c4n4ry/",'
    b'"msg":{"message":"could not push to rtmp://a.example.com/live/c4n4ry/: c4n4ry refused"}}'
)
@max_examples(100)
def test_no_secret_of_a_url_is_in_any_field(raw: bytes) -> None:
    """Not in the value, and not in the record of its task."""
    value = parsed(raw)
    assert isinstance(value, Callback)
    assert CANARY not in repr(value)
    assert CANARY not in encode(fold(Task(appid=4, task_id="t"), value, 1_795_500_000.0, SETTINGS).task)
