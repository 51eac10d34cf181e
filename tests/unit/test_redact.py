"""What may be shown of a URL."""

import pytest

from exporter.logs import redact_text
from exporter.redact import UNREADABLE, Redactor

REDACTOR = Redactor(key=b"key", plain_hosts=["*.myqcloud.com"])
SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "shown", "host"),
    [
        (
            "rtmp://5000.livepush.myqcloud.com/live/room?txSecret=s3cr3t",
            "rtmp://5000.livepush.myqcloud.com/live/room",
            "5000.livepush.myqcloud.com",
        ),
        (
            "rtmp://user:s3cr3t@5000.livepush.myqcloud.com/live/room#s3cr3t",
            "rtmp://5000.livepush.myqcloud.com/live/room",
            "5000.livepush.myqcloud.com",
        ),
        ("rtmp://A.Example.COM:1935/live/s3cr3t", None, "a.example.com"),
        ("rtmp://[::1]:1935/", "rtmp://[::1]:1935/", "::1"),
        ("rtmp://[::1/s3cr3t", UNREADABLE, ""),
        ("rtmp://host:s3cr3t/a", UNREADABLE, ""),
        ("rtmp://a@s3cr3t@host/a", UNREADABLE, ""),
        ("rtmp://ho st/s3cr3t", UNREADABLE, ""),
        (
            "RTMP://5000.livepush.myqcloud.com",
            "rtmp://5000.livepush.myqcloud.com",
            "5000.livepush.myqcloud.com",
        ),
        ("s3cr3t", UNREADABLE, ""),
        ("", "", ""),
    ],
)
def test_a_destination_is_shown_without_secrets(url: str, shown: str | None, host: str) -> None:
    """Query, user part and fragment go; so does a last segment that may be a key."""
    actual, actual_host, _ = REDACTOR.destination(url, "room")
    assert SECRET not in actual
    assert actual_host == host
    assert shown is None or actual == shown


def test_a_stream_key_and_an_equal_stream_id_are_the_same_digest() -> None:
    """Equal secrets stay equal to the eye; another key gives another digest."""
    url, _, stream = REDACTOR.destination("rtmp://live.example.com/app/s3cr3t?x=1", "s3cr3t?x=1")
    assert url == f"rtmp://live.example.com/app/{stream}"
    assert stream.startswith("~")
    other = Redactor(key=b"other", plain_hosts=[]).destination("rtmp://live.example.com/app/s3cr3t", "s3cr3t")
    assert other[2] != stream
    assert REDACTOR.destination("rtmp://live.example.com/app/s3cr3t", "room")[2] == "room"


@pytest.mark.parametrize(
    "text",
    [
        "to rtmp://host/live/a?txSecret=s3cr3t&txTime=1 failed",
        "http://user:s3cr3t@host/a",
        "http://s3cr3t@host",
        '{"url": "http://host/a?s3cr3t"}',
        "rtmp://host/a#s3cr3t",
    ],
)
def test_a_log_line_keeps_no_secret_of_a_url(text: str) -> None:
    """Whatever a message was made of."""
    assert SECRET not in redact_text(text)
    assert "host" in redact_text(text)
