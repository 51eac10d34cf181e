"""The redaction of URLs and texts."""

import json
from typing import Any

import pytest

from exporter.protocol.redact import MAX_TEXT, SECRET_WORDS, UNREADABLE, Redactor, redact_text, redacted_json
from exporter.store.sqlite import file
from exporter.store.valkey import script_runner as link

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
    """The query, the user and the fragment are removed; a last segment that may be a key is replaced."""
    actual, actual_host, _ = REDACTOR.destination(url, "room")
    assert SECRET not in actual
    assert actual_host == host
    assert shown is None or actual == shown


def test_a_stream_key_and_an_equal_stream_id_have_the_same_digest() -> None:
    """A reader then sees that they are equal. Another redaction key gives another digest."""
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
        "9p://u:s3cr3t@host/a to host",
        "of host: Authorization: Basic s3cr3t",
        """{"x": "host", "apiKey": "s3cr3t and 's3cr3t'", 'n': 1}""",
    ],
)
def test_a_log_line_contains_no_secret_of_a_url(text: str) -> None:
    """The rest of the message stays readable."""
    assert SECRET not in redact_text(text)
    assert "host" in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "--callback.token-file=/etc/tokens: can't be read",
        "--callback.sign-key-file=/etc/keys",
        "KeyError: 'index'",
        "store valkey://127.0.0.1:6379/0: a new one",
        "store valkey-cluster://127.0.0.1:6379/0: a new one",
        "tls_server_config.key_file: does not match the certificate",
        "basic_auth_users.keymaster: expected a bcrypt hash",
        "set ?ca-file= in --store.url to the authority, or lower ?wait-replicas= in it",
        *file.ADVICE.values(),
        *link.ADVICE.values(),
        "Listening at: http://[::1]:8314 (7)",
    ],
)
def test_a_log_line_without_a_secret_is_unchanged(text: str) -> None:
    """An operator needs the names of secret files, errors and addresses."""
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "rtmp:%2F%2Fpush.example.com%2Flive%2Fs3cr3tKEY%3FtxSecret%3Ds3cr3t refused",
        "refused live%2fs3cr3tKEY",
        "live_s3cr3tKEYx is refused",
        "stream S3CR3TKEY is refused",
    ],
)
def test_a_key_is_hidden_in_any_form_in_which_a_server_repeats_it(text: str) -> None:
    """Escaped, within a longer word, in other letter case; the rest stays readable."""
    shown = REDACTOR.message(text, "rtmp://push.example.com/live/s3cr3tKEY?txSecret=abc")
    assert "s3cr3t" not in shown.lower()
    assert "refused" in shown


def test_a_short_key_is_hidden_as_a_word_only() -> None:
    """A key of a few letters is part of many words; hiding it there would make the message unreadable."""
    shown = REDACTOR.message("stream live rejected: alive, /live/live.", "rtmp://push.example.com/app/live")
    digest = f"~{REDACTOR.digest('live')}"
    assert shown == f"stream {digest} rejected: alive, /{digest}/{digest}."


@pytest.mark.parametrize(("key", "is_hidden"), [("s3cr3tK", False), ("s3cr3tKE", True)])
def test_a_key_of_eight_characters_is_hidden_within_a_word(key: str, is_hidden: bool) -> None:
    """Such a key is in no other word by chance."""
    shown = REDACTOR.message(f"live{key}x rejected", f"rtmp://push.example.com/app/{key}")
    assert (key not in shown) is is_hidden


@pytest.mark.parametrize("word", SECRET_WORDS)
@pytest.mark.parametrize("name", ["{}", "tx{}", "{}_of-it", "MY-{}"])
def test_the_value_of_every_secret_word_is_hidden(word: str, name: str) -> None:
    """It is hidden in URLs, texts, JSON and log lines, in capitals, and within a longer name."""
    for field in (name.format(word), name.format(word.upper())):
        url = f"rtmp://5000.livepush.myqcloud.com/live/room?x=1&{field}={SECRET}"
        assert REDACTOR.destination(url, "")[0] == "rtmp://5000.livepush.myqcloud.com/live/room"
        for form in (
            "{}=s3cr3t", "{}:s3cr3t", "{} = s3cr3t,", "('{}': 's3cr3t, s3cr3t')", '{{"{}": "s3cr3t s3cr3t"}}',
            "a&{}=s3cr3t&b", "?{}=s3cr3t", "{}: Bearer s3cr3t",
        ):  # fmt: skip
            text = f"seen {form.format(field)} {url}"
            for shown in (REDACTOR.message(text, ""), redact_text(text)):
                assert SECRET not in shown
                assert shown.startswith("seen ")
                assert shown.endswith(" rtmp://5000.livepush.myqcloud.com/live/room")
        body = {
            field: SECRET,
            "x": [{field: [SECRET]}],
            "msg": json.dumps({field: {"y": SECRET}}),
            "n": "seen",
        }
        view = redacted_json(json.dumps(body).encode(), REDACTOR)
        assert view is not None
        assert SECRET not in view
        assert json.loads(view)["n"] == "seen"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("write packet error.", "write packet error."),
        ("", ""),
        ("two\nlines\tand a \u202ebell\a", "two lines and a bell"),
        (
            "open rtmp://u:s3cr3t@5000.livepush.myqcloud.com/live/room?txSecret=s3cr3t failed",
            "open rtmp://5000.livepush.myqcloud.com/live/room failed",
        ),
        ('"rtmp://ho st/s3cr3t"', None),
        ("to 9rtmp://host/s3cr3t?x", "to _unreadable"),
        ("rtmp://push.example.com/app/s3cr3t: denied", None),
        ("Already publishing: s3cr3t", "Already publishing: {key}"),
        ("stream app/s3cr3t?a=s3cr3t&b=s3cr3t gone", "stream app/{key}?… gone"),
        ("txSecret=s3cr3t&txTime=6A", "txSecret=…&txTime=6A"),
        ('{"token": "s3cr3t", "code": 5}', '{"token": "…", "code": 5}'),
        ("why? no reason", "why? no reason"),
        ("code=-22", "code=-22"),
    ],
)
def test_a_text_contains_no_secret(text: str, shown: str | None) -> None:
    """Its URLs are redacted as everywhere; the key of the callback's destination is replaced everywhere."""
    destination = "rtmp://push.example.com/app/s3cr3t?x=1"
    key = REDACTOR.destination(destination, "s3cr3t")[2]
    actual = REDACTOR.message(text, destination)
    assert SECRET not in actual
    assert shown is None or actual == shown.replace("{key}", key)


@pytest.mark.parametrize("text", ["to {url}: denied", "({url})", "{url}, {url}.", "{url}"])
@pytest.mark.parametrize("url", ["rtmp://push.example.com/app/s3cr3t/", "rtmp://h/s3cr3t//?x=1"])
def test_a_key_before_a_slash_is_hidden(text: str, url: str) -> None:
    """It is hidden in a text too: alone, and in a URL followed by punctuation."""
    assert SECRET not in REDACTOR.message(text.format(url=url), "")
    assert SECRET not in REDACTOR.message(text.format(url=url) + " s3cr3t refused", url)


def test_a_stream_name_is_shown_at_plain_hosts() -> None:
    """There is no key to search for without a destination."""
    for url in ("rtmp://5000.livepush.myqcloud.com/live/room", ""):
        assert REDACTOR.message("room is busy", url) == "room is busy"


class CountingText(str):
    """A text that counts how many of its characters have been read."""

    def __new__(cls, text: str) -> "CountingText":
        """Return a text with a count of 0."""
        made = super().__new__(cls, text)
        made.read = 0
        return made

    def __getitem__(self, place: Any) -> str:
        """Return a part, and count its characters."""
        part = super().__getitem__(place)
        self.read += len(part)
        return part

    def __iter__(self) -> Any:
        """Iterate over all characters, and count them."""
        self.read += len(self)
        return super().__iter__()


UNITS = [
    "a",
    "a.",
    "://",
    "key",
    "key-",
    "?",
    "key=",
    "key='",
    "a://",
    "a://.",
    "x ",
    "\u202e",
    "rtmp://h/",
    "@",
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_long_text_costs_little(unit: str) -> None:
    """A caller cannot keep the program busy, nor hide a secret in a long text: only its beginning is read."""
    text = CountingText(unit * 60_000 + "rtmp://user:s3cr3t")
    shown = REDACTOR.message(text, "rtmp://push.example.com/app/s3cr3t")
    assert 0 < text.read <= MAX_TEXT
    assert len(shown) < 30_000
    assert SECRET not in shown


@pytest.mark.parametrize("unit", UNITS)
def test_a_long_log_line_is_read_once(unit: str) -> None:
    """Reading from each position to the end would take hours."""
    text = unit * 300_000 + " rtmp://user:s3cr3t@host/a"
    assert SECRET not in redact_text(text)


def test_a_url_cut_off_at_the_end_of_a_long_text_is_left_out() -> None:
    """Its password would look like a port."""
    text = "x" * 1970 + " rtmp://user:12345@push.example.com/app/a" + "y" * 100
    assert REDACTOR.message(text, "") == "x" * 1970


def test_only_a_text_over_the_limit_is_cut() -> None:
    """The last word before the limit may be cut in half, so it is removed."""
    assert REDACTOR.message("x" * 1990 + " " + "y" * 9, "") == "x" * 1990 + " " + "y" * 9
    assert REDACTOR.message("x" * 1990 + " " + "y" * 10, "") == "x" * 1990


def test_a_source_is_identified_without_its_secrets() -> None:
    """User, query and fragment of a URL are left out. A text that is not a URL is read up to its query."""
    host, digest = REDACTOR.sources(["http://origin.example.com:80/a/b"])
    assert host == "origin.example.com"
    for same in ("HTTP://u:s3cr3t@Origin.example.com:80/a/b?k=s3cr3t", "http://origin.example.com:80/a/b#x"):
        assert REDACTOR.sources([same]) == (host, digest)
    assert REDACTOR.sources(["http://origin.example.com:80/a/c"])[1] != digest
    assert REDACTOR.sources(["no url?k=s3cr3t"]) == REDACTOR.sources(["no url"])
    assert REDACTOR.sources(["no url"]) != REDACTOR.sources(["no other"])


def test_several_sources_are_identified_by_all_of_them_in_their_order() -> None:
    """The host is that of the first. The digest of a single source is that of its URL."""
    a, b, c = "http://h/a", "http://h/b", "http://h/c"
    assert REDACTOR.sources([a]) == ("h", REDACTOR.digest(a))
    assert REDACTOR.sources([a, b]) == REDACTOR.sources([f"{a}?k=1", f"{b}#2"])
    assert REDACTOR.sources([a, b])[0] == "h"
    assert len({REDACTOR.sources(urls)[1] for urls in ([a], [a, b], [b, a], [a, c], [a, b, c])}) == 5
