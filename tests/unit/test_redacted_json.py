"""The redacted JSON of a rejected body."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.protocol.redact import MAX_DESTINATIONS, Redactor, redacted_json
from tests.support import SAMPLES
from tests.unit.histories import max_examples

REDACTOR = Redactor(key=b"key", plain_hosts=["*.myqcloud.com"])
CANARY = "c4n4ry"


def shown(body: Any) -> Any:
    """Return the redacted form of a body."""
    text = redacted_json(json.dumps(body).encode(), REDACTOR)
    assert text is not None
    assert CANARY not in text
    return json.loads(text)


def test_every_sample_is_shown_with_all_its_fields() -> None:
    """JSON texts are unpacked, and values that are not secret are unchanged."""
    for path in sorted(SAMPLES.rglob("*.json")):
        body = json.loads(path.read_bytes())
        view = shown(body)
        assert view.keys() == body.keys(), path
        for name in ("appid", "callback_event", "event_type", "task_id"):
            assert view.get(name) == body.get(name), path
        assert view.get("sign") in (None, "…")


@pytest.mark.parametrize(
    "body",
    [
        {"sign": CANARY, "Sign": CANARY, "txSecret": [CANARY], "x": {"token": {"a": CANARY}}},
        {"password": 4, "sign": CANARY},
        {"to_url": f"rtmp://user:{CANARY}@host/live/{CANARY}?x={CANARY}#{CANARY}"},
        {"to_url": f" RTMP://host/live/{CANARY}/ "},
        {"to_url": f"rtmp://host/live/a {CANARY}?k={CANARY}", "y": "seen"},
        {"to_url": f"rtmp:/{CANARY}"},
        {"to_url": [f"rtmp://host/live/{CANARY}"]},
        {"to_url": f"rtmp://host/live/{CANARY}", "stream_id": CANARY, "z": f"no stream {CANARY} here"},
        {"msg": {"to_url": f"rtmp://host/live/{CANARY}"}, "stream_id": CANARY},
        {"msg": json.dumps({"url": f"http://host/f?sig={CANARY}", "m": json.dumps([f"secret={CANARY}"])})},
        {"msg": "{" + f'"url": "rtmp:\\/\\/host\\/{CANARY}"'},
        {"source_urls": json.dumps([f"http://a/{CANARY}?{CANARY}"])},
        {"note": f"pushed to rtmp://host/live/{CANARY}?k={CANARY} in vain, key={CANARY}"},
        {f"rtmp://host/live/{CANARY}?{CANARY}": 1, f"to rtmp:\\/\\/host\\/{CANARY}": 2},
        [[f"http://host/{CANARY}"]],
        {"message": f"see rtmp:\\/\\/host\\/live\\/{CANARY}"},
        {"message": f"see rtmp%3A%2f%2fhost%2Flive%2F{CANARY}"},
        {"message": f'"rtmp://host/live/{CANARY}'},
        f"http://host/{CANARY}",
    ],
)
def test_no_secret_is_shown_in_any_position(body: Any) -> None:
    """The secret is in a field, a URL, a text, a field's name, or a text that only looks like JSON."""
    shown(body)


LEAVES = st.sampled_from(
    [
        f"rtmp://user:{CANARY}@host/live/x",
        f"rtmps://host:1935/live/{CANARY}",
        f"http://host/a/b?sig={CANARY}&c=1",
        f"see http://host/{CANARY} and rtmp://host/live/{CANARY}?k={CANARY}",
        f"txSecret={CANARY}",
        f'{{"to_url": "rtmp:\\/\\/host\\/live\\/{CANARY}"}}',
        f'["http://host/\\u0061?{CANARY}"]',
    ]
)
NAMES = st.sampled_from(["to_url", "msg", "source_urls", "stream_id", "callback_url", "message", "x", "é"])
BODIES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(BODIES)
@max_examples(60)
def test_no_secret_is_shown_in_any_shape(body: Any) -> None:
    """The secret is in lists, in objects, or in JSON texts inside them."""
    shown(body)
    shown({"msg": json.dumps(body)})


def test_values_that_are_not_secret_are_unchanged() -> None:
    """Stream names of plain hosts, numbers, texts, null."""
    body = {
        "to_url": "rtmp://5000.livepush.myqcloud.com/live/room",
        "stream_id": "room",
        "n": [1, None, True, 1.5],
        "message": "Connection refused",
        "sign": None,
    }
    assert shown(body) == body


def test_a_json_text_is_unpacked() -> None:
    """It is indented. A text that only looks like JSON is hidden."""
    inner = {"to_host": "a", "files": ["1", {"x": 2}]}
    body = {"msg": json.dumps(inner), "list": f" {json.dumps(['a'])}", "text": '"a"', "half": "[half"}
    hidden = "… (5 characters that can't be read)"
    assert shown(body) == {"msg": inner, "list": ["a"], "text": "a", "half": hidden}
    text = redacted_json(json.dumps(body).encode(), REDACTOR)
    assert text is not None
    assert '\n  "msg": {\n    "to_host": "a",' in text


def test_json_texts_are_unpacked_to_a_limited_depth() -> None:
    """A JSON text counts as one level, its content as another."""
    nested: Any = 1
    for _ in range(12):
        nested = {"a": json.dumps(nested)}
    text = redacted_json(json.dumps(nested).encode(), REDACTOR)
    assert text is not None
    assert text.count("{") == 8
    many: Any = 1
    for _ in range(40):
        many = [many]
    text = redacted_json(json.dumps(many).encode(), REDACTOR)
    assert text is not None
    assert text.count("[") == 16


def test_a_body_that_is_nested_too_deep_is_cut() -> None:
    """A deep body costs no more than a few levels."""
    levels = 600
    text = redacted_json(b'{"a":' * levels + b"[" * 9 + b"]" * 9 + b"}" * levels, REDACTOR)
    assert text is not None
    assert text.count("{") == 16
    assert redacted_json(b"[" * 900 + b"]" * 900, REDACTOR) is not None


class CountingRedactor(Redactor):
    """A redactor that counts its calls."""

    def __init__(self) -> None:
        super().__init__(key=b"key", plain_hosts=[])
        self.calls: Counter[str] = Counter()

    def message(self, text: str, to_url: str) -> str:
        """Count a call for a text."""
        self.calls["message"] += 1
        return super().message(text, to_url)

    def destination(self, url: str, stream_id: str) -> tuple[str, str, str]:
        """Count a call for a destination."""
        self.calls["destination"] += 1
        return super().destination(url, stream_id)


def calls_for(destinations: int) -> Counter[str]:
    """Return the calls for a body with this number of destinations, and a text for each."""
    redactor = CountingRedactor()
    body = [{"to_url": f"rtmp://host/live/{CANARY}{n}", "note": f"{CANARY}{n}"} for n in range(destinations)]
    text = redacted_json(json.dumps(body).encode(), redactor)
    assert text is not None
    assert CANARY not in text
    return redactor.calls


def test_a_body_with_too_many_destinations_is_shown_without_texts() -> None:
    """Each text is searched for each destination, so the work would grow with the square of their number."""
    assert calls_for(MAX_DESTINATIONS)["message"] == 3 * MAX_DESTINATIONS**2
    assert calls_for(MAX_DESTINATIONS + 1)["message"] == calls_for(600)["message"] == 0
    assert calls_for(600)["destination"] == 600


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", f"rtmp://host/{CANARY}".encode(), b"[" * 9999])
def test_a_body_that_is_not_json_is_not_shown(raw: bytes) -> None:
    """A secret may be anywhere in it."""
    assert redacted_json(raw, REDACTOR) is None
