"""The parser: accepted bodies in all documented forms, and the errors for rejected bodies."""

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import REASONS, CallbackError
from exporter.protocol.callback import Callback, Ignored
from exporter.protocol.events import BY_NAME, EventKind
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import BrokenSchema, Schemas, schema_folder
from tests.support import SAMPLES, sample

PARSER = Parser(schemas=Schemas(), redactor=Redactor(key=b"key", plain_hosts=["*.myqcloud.com"]))
BASE: dict[str, Any] = {
    "appid": 1,
    "event_type": 314,
    "callback_event": "TaskStart",
    "task_id": "t",
    "msg": {},
}


def parse(**more: Any) -> Callback:
    """Return the callback of BASE with `more`; None removes a field."""
    body = {key: value for key, value in (BASE | more).items() if value is not None}
    callback = PARSER.parse(json.dumps(body).encode())
    assert isinstance(callback, Callback)
    return callback


def rejection_of(raw: bytes) -> CallbackError:
    """Return the rejection of a body."""
    with pytest.raises(CallbackError) as caught:
        PARSER.parse(raw)
    assert caught.value.status == 400
    assert caught.value.reason in REASONS
    return caught.value


def test_every_sample_is_accepted() -> None:
    """The published samples, byte for byte, and the variants."""
    for path in SAMPLES.rglob("*.json"):
        value = PARSER.parse(path.read_bytes())
        ignored = {"other_event_type_stream_begin": False, "unknown_event": True}
        if path.stem in ignored:
            assert value == Ignored(is_quarantined=ignored[path.stem])
        else:
            assert isinstance(value, Callback), path


def test_the_published_samples_have_the_documented_values() -> None:
    """Start and finish of a file have different hosts, so the index identifies the file."""
    start = PARSER.parse(sample("documented/vod_source_file_start"))
    finish = PARSER.parse(sample("documented/vod_source_file_finish"))
    exit_ = PARSER.parse(sample("documented/task_exit"))
    assert isinstance(start, Callback)
    assert isinstance(finish, Callback)
    assert isinstance(exit_, Callback)
    assert (
        (start.subject, start.duration_seconds) == (finish.subject, finish.duration_seconds) == ("0", 14920.0)
    )
    assert (exit_.task_id, exit_.subject, exit_.stated_ms, exit_.to_host) == ("", "-22", None, "")
    assert start.to_url == "rtmp://5000.livepush.myqcloud.com/live/testvod"
    assert (start.to_host, start.stream_id) == ("5000.livepush.myqcloud.com", "testvod")


def test_the_forms_of_a_field_have_the_same_value() -> None:
    """appId, numbers as strings, objects as JSON texts."""
    assert parse(appid=None, appId="1").appid == parse().appid == 1
    assert parse(task_id=7).task_id == parse(task_id="7").task_id == parse(task_id=7.0).task_id == "7"
    assert parse(msg='{"task_start_time": 5}').stated_ms == parse(msg={"task_start_time": "5"}).stated_ms == 5
    assert parse(event_time="12").event_time_seconds == parse(event_time=12).event_time_seconds == 12
    assert parse(event_time="").event_time_seconds is None
    assert parse(msg="").stated_ms is None
    urls = ["http://a/x", "http://b/y"]
    assert parse(source_urls=json.dumps(urls) + "\n").sources == parse(source_urls=urls).sources != ""
    assert parse(source_urls="http://a/x").sources == parse(source_urls=["http://a/x?k=1"]).sources
    assert parse(source_urls="").sources == parse(source_urls=" \n").sources == ""


@pytest.mark.parametrize(
    ("code", "canonical"),
    [
        (-22, "-22"),
        ("-22", "-22"),
        ("-022", "-22"),
        (-22.0, "-22"),
        ("0", "0"),
        (None, ""),
        ("a:b", "a:b"),
        ("-", "-"),
    ],
)
def test_an_exit_code_has_one_form(code: object, canonical: str) -> None:
    """Equal codes must be equal label values."""
    assert parse(callback_event="TaskExit", msg={"code": code}).subject == canonical


def test_the_message_of_an_exit_is_redacted_and_shortened() -> None:
    """A missing message is empty; other events have no message."""
    url = "rtmp://push.example.com/app/s3cr3t"
    message = f"write to {url} failed. " + "x" * 500
    shown = parse(callback_event="TaskExit", to_url=url, msg={"code": -5, "message": message}).message
    assert shown.startswith("write to rtmp://push.example.com/app/~")
    assert "s3cr3t" not in shown
    assert len(shown) == 200
    for msg in ({}, {"message": ""}, {"message": None}):
        assert parse(callback_event="TaskExit", msg=msg).message == ""
    assert parse(msg={"message": "no exit"}).message == ""


def test_a_file_without_an_index_is_identified_by_its_url_without_the_query() -> None:
    """The query may be signed again each time; the file is the same."""

    def file(**msg: Any) -> Callback:
        return parse(callback_event="VodSourceFileStart", msg=msg)

    assert file(url="http://a/x?sign=1").subject == file(url="http://a/x?sign=2").subject
    assert file(url="http://a/x").subject != file(url="http://a/y").subject
    assert file(url="http://a/x", index="03").subject == "3"
    assert file(url="http://host.example/x").source_host == "host.example"
    assert file(url="not a url?secret").subject == file(url="not a url").subject


def test_the_alarm_type_has_two_names() -> None:
    """The SDK uses AlarmType."""
    assert parse(callback_event="TaskAlarm", msg={"type": "x"}).subject == "x"
    assert parse(callback_event="TaskAlarm", msg={"AlarmType": "y"}).subject == "y"
    assert parse(callback_event="TaskAlarm", msg={}).subject == ""
    assert parse(callback_event="ResetTaskConfig", msg=None).subject == ""


@pytest.mark.parametrize(
    "name", ["vod_source_file_start", "vod_source_file_finish", "task_alarm", "reset_task_config"]
)
def test_a_field_with_an_empty_name_is_unknown(name: str) -> None:
    """Events without a time field must not read their time from a field with an empty name."""
    path = next(path for path in SAMPLES.glob(f"*/{name}*.json"))
    body = json.loads(path.read_bytes())
    msg = json.loads(body["msg"]) if isinstance(body.get("msg"), str) else body.get("msg") or {}
    callback = PARSER.parse(json.dumps(body | {"msg": msg | {"": "x"}}).encode())
    assert isinstance(callback, Callback)
    assert callback.stated_ms is None
    assert "msg." in callback.unknown_fields


@pytest.mark.parametrize(
    ("name", "field"), [("TaskStart", "task_start_time"), ("TaskExit", "task_exit_time")]
)
def test_the_time_in_msg_is_read(name: str, field: str) -> None:
    """It is more precise than `event_time`."""
    callback = parse(callback_event=name, msg={field: 1_795_500_000_123})
    assert (callback.kind, callback.stated_ms) == (BY_NAME[name], 1_795_500_000_123)


def test_only_a_file_has_a_duration() -> None:
    """A duration is in seconds; a missing duration is 0."""
    assert (
        parse(callback_event="VodSourceFileStart", msg={"index": 0, "duration": "5"}).duration_seconds == 5.0
    )
    assert parse(callback_event="VodSourceFileFinish", msg={"index": 0}).duration_seconds == 0.0
    assert parse(msg={"duration": 5}).duration_seconds == 0.0


def test_a_body_is_authenticated_before_it_is_validated() -> None:
    """Any JSON value is authenticated, valid or not."""
    seen = []

    def authenticate(body: object) -> None:
        seen.append(body)
        raise CallbackError(403, "signature")

    redactor = Redactor(key=b"key", plain_hosts=[])
    parser = Parser(schemas=Schemas(), redactor=redactor, authenticate=authenticate)
    for raw in (b"[1]", b'{"event_type":7}'):
        with pytest.raises(CallbackError, match="signature"):
            parser.parse(raw)
    with pytest.raises(CallbackError, match="json"):
        parser.parse(b"{")
    assert seen == [[1], {"event_type": 7}]


def test_unknown_fields_are_listed() -> None:
    """They never make a callback invalid."""
    assert parse(zone=1, msg={"node": 2, "task_start_time": 0}).unknown_fields == ("zone", "msg.node")
    every = dict.fromkeys(Schemas().events[EventKind.START].fields, "1") | {
        "source_urls": "",
        "zone": 1,
        "_": 2,
    }
    callback = PARSER.parse(json.dumps(every | BASE).encode())
    assert isinstance(callback, Callback)
    assert callback.unknown_fields == ("_", "zone")


NESTED = {
    "array": lambda n: b"[" * n + b"]" * n,
    "object": lambda n: b'{"a":' * n + b"1" + b"}" * n,
}


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("levels", [1025, 20000])
def test_a_body_that_is_nested_too_deep_is_rejected(kind: str, levels: int) -> None:
    """The body is rejected before any code walks it."""
    assert rejection_of(NESTED[kind](levels)).reason == "json"


@pytest.mark.parametrize("field", ["msg", "appid", "to_url", "source_urls", "stream_id"])
@pytest.mark.parametrize("kind", NESTED)
def test_a_wrong_field_is_named_however_deep_its_value_is(kind: str, field: str) -> None:
    """The code that explains a rejection must not fail on a deep value."""
    raw = json.dumps(BASE | {field: "DEEP"}).encode().replace(b'"DEEP"', NESTED[kind](1000))
    if kind == "object" and field == "msg":
        assert isinstance(PARSER.parse(raw), Callback)
    else:
        assert rejection_of(raw).faults[0].pointer.startswith(f"/{field}")


def test_nesting_inside_msg_is_limited_too() -> None:
    """A JSON text in `msg` is parsed like a body. A deep value of an unknown field is accepted."""
    deep = "[" * 1025 + "]" * 1025
    rejected = rejection_of(json.dumps(BASE | {"msg": '{"a": ' + deep + "}"}).encode())
    assert (rejected.reason, rejected.faults[0].pointer) == ("json", "/msg")
    assert parse(extra=json.loads("[" * 900 + "]" * 900)).unknown_fields == ("extra",)


def test_many_brackets_side_by_side_are_accepted() -> None:
    """Only the depth is limited."""
    assert parse(extra=[[]] * 200).task_id == "t"


@pytest.mark.parametrize(
    ("body", "pointer", "message"),
    [
        ({"event_type": "314"}, "/event_type", "314 for the relay"),
        ({"event_type": None}, "/event_type", "is missing"),
        ({"callback_event": None}, "/callback_event", "is missing"),
        ({"callback_event": 7}, "/callback_event", "expected string, not integer"),
        ({"appid": None}, "", "expected one of the fields appid or appId"),
        ({"appid": "x"}, "/appid", "a whole number"),
        ({"task_id": None}, "/task_id", "is missing"),
        ({"task_id": ""}, "/task_id", "1 to 256 characters"),
        ({"task_id": "1\n"}, None, ""),
        ({"msg": {"task_start_time": -1}}, "/msg/task_start_time", "whole milliseconds"),
        ({"msg": {"task_start_time": "1\n"}}, "/msg/task_start_time", "whole milliseconds"),
        ({"msg": "[]"}, "/msg", "expected object, not array"),
        ({"source_urls": "[1]"}, "/source_urls/0", "expected string, not integer"),
        ({"source_urls": 1}, "/source_urls", "expected array or null, not integer"),
        (
            {"callback_event": "VodSourceFileStart", "msg": {}},
            "/msg",
            "expected one of the fields index or url",
        ),
        (
            {"callback_event": "VodSourceFileStart", "msg": {"index": 0, "duration": True}},
            "/msg/duration",
            "in seconds",
        ),
        ({"callback_event": "Unknown", "stream_id": []}, "/stream_id", "expected string or null, not array"),
    ],
)
def test_a_rejection_has_a_pointer_and_the_expected_value(
    body: dict[str, Any], pointer: str | None, message: str
) -> None:
    """They show the sender what to correct."""
    raw = json.dumps({k: v for k, v in (BASE | body).items() if v is not None}).encode()
    if pointer is None:
        assert isinstance(PARSER.parse(raw), Callback)
        return
    faults = rejection_of(raw).faults
    assert any(f.pointer == pointer and message in f.message for f in faults), faults


def test_a_rejection_never_repeats_the_body() -> None:
    """Any field of a body may contain a push key."""
    canary = "canary-7f3a"
    bodies = [
        BASE | {"to_url": [canary]},
        BASE | {"appid": canary},
        BASE | {"msg": {"task_start_time": canary}},
        BASE | {"msg": "{" + canary},
        BASE | {"source_urls": {"a": canary}},
    ]
    for body in bodies:
        rejected = rejection_of(json.dumps(body).encode())
        assert canary not in str(rejected)


@pytest.mark.parametrize(
    "raw", [b"", b" ", b"\xff", b"\xef\xbb\xbf{}", b"{", b"NaN", b'{"a":Infinity}', b'{"a":1e999}', b"{}x"]
)
def test_a_body_that_is_not_strict_json_is_rejected(raw: bytes) -> None:
    """UTF-8 without a byte order mark, no NaN, nothing after the value."""
    assert rejection_of(raw).reason == "json"


def test_a_scalar_is_not_a_callback() -> None:
    """It is JSON, but not an object."""
    assert rejection_of(b"1").faults[0].message == "expected an object"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        "true",
        '{"type": 5}',
        '{"$ref": "urn:css-relay:nowhere", "$id": "urn:css-relay:common"}',
    ],
)
def test_a_broken_schema_file_is_named_in_the_error(tmp_path: Path, content: str | None) -> None:
    """An operator then knows which file to fix."""
    for path in schema_folder().glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / "common.json"
    broken.unlink() if content is None else broken.write_text(content)
    with pytest.raises(BrokenSchema, match=str(tmp_path)):
        Schemas(tmp_path)
