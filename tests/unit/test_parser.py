"""Properties of the parser that hold for every body, tested on generated examples as in `test_order`.

If hypothesis finds a counterexample, it prints the body. Copy it into an `@example` above the test, and keep
it there after the fault is fixed: such examples run first in each run.
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
from exporter.store.protocol import encode
from tests.support import SAMPLES
from tests.unit.histories import SETTINGS, max_examples

PARSER = Parser(schemas=Schemas(), redactor=Redactor(key=b"key", plain_hosts=["*.myqcloud.com"]))
BODIES = [json.loads(path.read_bytes()) for path in sorted(SAMPLES.rglob("*.json"))]
FIELDS = sorted({name for body in BODIES for name in body} | {"appId", "AlarmType", "", "extra"})
CANARY = "c4n4ry"


def parsed(raw: bytes) -> Callback | Ignored | None:
    """Return the value of a body, None if it is rejected with status, reason and faults."""
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
def changed_sample(draw: st.DrawFn) -> bytes:
    """Draw a sample with fields changed, removed or added, whole or cut off."""
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


@given(st.binary(max_size=80) | changed_sample())
@example(b"")
@example(b"\xff")
@example(
    b'{"event_type":314,"appid":1,"callback_event":"VodSourceFileStart","task_id":"t","msg":{"url":"","index":null}}'
)
@example(b'{"event_type":314,"appid":1,"callback_event":"TaskStart","task_id":"t","msg":{"":"1"}}')
@example(b'{"event_type":314,"appid":1,"callback_event":"TaskExit","msg":{"code":"\xc2\xb2"}}')
@example(b'{"event_type":314,"appid":1,"callback_event":"TaskExit","msg":{"code":1e300}}')
@max_examples(120)
def test_any_body_is_accepted_or_rejected_with_a_reason(raw: bytes) -> None:
    """The fields of a value have their types and limits; equal bodies have equal values."""
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
    """Draw a form of a whole number that a sender may use."""
    return st.sampled_from([number, str(number), float(number), f"0{number}"])


@st.composite
def spellings(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw one callback in two forms."""
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
def test_all_forms_of_a_callback_have_the_same_value(pair: tuple[bytes, bytes]) -> None:
    """Field names, numbers as texts, JSON within texts, white space, order."""
    one, other = (parsed(raw) for raw in pair)
    assert isinstance(one, Callback)
    assert one == other


#: URLs with a secret in every possible position; a secret in the last segment is the stream key.
WITH_STREAM_KEY = [
    f"rtmp://user:{CANARY}@push.example.com/live/{CANARY}?txSecret={CANARY}&t=1#{CANARY}",
    f"RTMP://push.example.com:1935/a/b/{CANARY}/",
]
WITH_SECRET = [
    *WITH_STREAM_KEY,
    f"rtmp://5000.livepush.myqcloud.com/live/room?{CANARY}",
    f"http://{CANARY}@h/x?{CANARY}",
    f"http://h/x?sign={CANARY}",
    f"no url?{CANARY}",
]


@st.composite
def callback_with_secrets(draw: st.DrawFn) -> bytes:
    """Draw a callback whose URLs contain a secret."""
    event = draw(st.sampled_from(sorted(BY_NAME)))
    url, to_url = draw(st.sampled_from(WITH_SECRET)), draw(st.sampled_from(WITH_SECRET))
    key = [CANARY] if to_url in WITH_STREAM_KEY else []
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


@given(callback_with_secrets())
@example(  # a stream key before a slash was shown in the message of an exit
    b'{"event_type":314,"appid":4,"callback_event":"TaskExit","to_url":"rtmp://a.example.com/live/c4n4ry/",'
    b'"msg":{"message":"could not push to rtmp://a.example.com/live/c4n4ry/: c4n4ry refused"}}'
)
@max_examples(100)
def test_no_secret_of_a_url_is_in_any_field(raw: bytes) -> None:
    """The record of its task has no secret either."""
    value = parsed(raw)
    assert isinstance(value, Callback)
    assert CANARY not in repr(value)
    folded = fold(Task(appid=4, task_id="t"), value, 1_795_500_000.0, SETTINGS)
    assert CANARY.encode() not in encode(folded.task)
