"""Access to the callback listener over real connections: tokens, signatures, addresses, proxies, rates."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from exporter import cli
from exporter.config.settings import read
from tests.clock import Clock
from tests.support import Answer, Exporter, request, running, sample, until

BODY = sample("derived/task_start_event_time")
TOKENS = ("canary-token-one", "canary-token-two")


def secrets(folder: Path, *lines: str, mode: int = 0o600, name: str = "secrets") -> str:
    """Write a file of secrets and return its path."""
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return str(path)


def signed(key: str, t: int) -> bytes:
    """Return a callback with a signature."""
    sign = hashlib.md5(f"{key}{t}".encode()).hexdigest()
    return json.dumps(json.loads(BODY) | {"t": t, "sign": sign}).encode()


def reason(answer: Answer) -> tuple[int, str]:
    """Return the status and the reason of an error response."""
    return answer[0], json.loads(answer[2])["reason"]


def test_callbacks_need_a_valid_token(tmp_path: Path) -> None:
    """Every configured token is valid; a wrong token gets the same 404 as an unknown path."""
    with running(tmp_path, callback__token_file=secrets(tmp_path, *TOKENS)) as exporter:
        for token in TOKENS:
            assert exporter.post(BODY, f"/callbacks/{token}")[0] == 200
        nowhere = exporter.post(BODY, "/nowhere")
        paths = (
            "/callbacks",
            "/callbacks/",
            "/callbacks/wrong",
            f"/callbacks/{TOKENS[0]}x",
            f"//callbacks/{TOKENS[0]}",
        )
        for path in (*paths, f"/callbacks/{TOKENS[0]}/", f"/callbacks/{TOKENS[0]}/more", "/callbacks/%ff"):
            answer = exporter.post(BODY, path)
            assert (answer[0], answer[2]) == (nowhere[0], nowhere[2]) == (404, answer[2]), path
            got = request(exporter.ports["callbacks"], "GET", path)
            assert (got[0], got[2]) == (404, nowhere[2])
        assert reason(request(exporter.ports["callbacks"], "GET", f"/callbacks/{TOKENS[0]}")) == (
            405,
            "method",
        )
        scrape = exporter.scrape()
        assert scrape.value("tasks_started_total") == 1
        assert scrape.value("callbacks_rejected_total", reason="token") == 17
        assert "canary" not in exporter.log


def test_tokens_are_rotated_without_a_restart(tmp_path: Path) -> None:
    """The new token replaces the old one within about a second; an empty file changes nothing."""
    path = secrets(tmp_path, "old-token")
    with running(tmp_path, callback__token_file=path) as exporter:
        assert exporter.post(BODY, "/callbacks/old-token")[0] == 200
        secrets(tmp_path, "new-token", name="next")
        os.replace(tmp_path / "next", path)
        until(lambda: exporter.post(BODY, "/callbacks/new-token")[0] == 200, "the new token")
        assert exporter.post(BODY, "/callbacks/old-token")[0] == 404
        Path(path).write_text("")
        until(
            lambda: (
                exporter.post(BODY, "/callbacks/new-token")[0] == 200
                and "the previous values stay in use" in exporter.log
            ),
            "the error is logged",
        )
        assert exporter.post(BODY, "/callbacks/new-token")[0] == 200


@pytest.mark.parametrize("flag", ["callback.token-file", "callback.sign-key-file"])
@pytest.mark.parametrize(
    ("lines", "mode", "message"),
    [(("a-token",), 0o604, "chmod o-rwx"), ((), 0o600, "write one secret per line")],
)
def test_a_secret_file_must_be_private_and_not_empty(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    flag: str,
    lines: tuple[str, ...],
    mode: int,
    message: str,
) -> None:
    """Other users must not be able to read it; the start fails with one line that names the flag."""
    assert cli.main(["serve", f"--{flag}={secrets(tmp_path, *lines, mode=mode)}"]) == 2
    error_text = capfd.readouterr().err
    assert message in error_text
    assert flag in error_text
    assert len(error_text.splitlines()) == 1


def test_a_signature_is_checked_if_a_callback_has_one(tmp_path: Path) -> None:
    """Every configured key is valid until `t`; by default an unsigned callback is accepted."""
    keys, clock = secrets(tmp_path, "canary-key-one", "canary-key-two"), Clock(tmp_path)
    t = int(clock.now()) + 100_000
    with running(tmp_path, clock=clock, callback__sign_key_file=keys) as exporter:
        assert exporter.post(BODY)[0] == 200
        assert exporter.post(signed("canary-key-one", t))[0] == 200
        assert exporter.post(signed("canary-key-two", t))[0] == 200
        assert reason(exporter.post(signed("canary-key-three", t))) == (403, "signature")
        clock.advance(100_061)
        assert reason(exporter.post(signed("canary-key-one", t))) == (403, "signature")
        assert exporter.scrape().value("callbacks_rejected_total", reason="signature") == 2
        assert exporter.scrape().value("quarantined_callbacks") == 0
        assert "canary" not in exporter.log


def test_without_a_key_no_signature_is_checked(tmp_path: Path) -> None:
    """Other callbacks of the service have signatures that this exporter cannot check."""
    with running(tmp_path) as exporter:
        assert exporter.post(signed("unknown", 1))[0] == 200


def test_a_signature_can_be_required(tmp_path: Path) -> None:
    """An unsigned callback is rejected before its schema is checked, and is not quarantined."""
    keys, clock = secrets(tmp_path, "key"), Clock(tmp_path)
    flags = {"callback__sign_key_file": keys, "callback__require_sign": "true"}
    with running(tmp_path, clock=clock, **flags) as exporter:
        assert exporter.post(signed("key", int(clock.now()) + 100_000))[0] == 200
        assert reason(exporter.post(BODY)) == (403, "signature")
        assert reason(exporter.post(b"{}")) == (403, "signature")
        assert reason(exporter.post(b"{")) == (400, "json")
        assert exporter.scrape().value("quarantined_callbacks") == 0


def test_a_required_signature_needs_a_key(capfd: pytest.CaptureFixture[str]) -> None:
    """The start fails with status 2 and names the missing flag."""
    assert cli.main(["serve", "--callback.require-sign=true"]) == 2
    assert "--callback.sign-key-file" in capfd.readouterr().err


def test_only_allowed_addresses_may_send(tmp_path: Path) -> None:
    """On every path; X-Forwarded-For is ignored unless a trusted proxy sent it."""
    with running(tmp_path, callback__allow_from="192.0.2.0/24") as exporter:
        assert reason(exporter.post(BODY)) == (403, "address")
        assert reason(exporter.post(BODY, "/nowhere")) == (403, "address")
        assert reason(exporter.post(BODY, X_Forwarded_For="192.0.2.1")) == (403, "address")
        assert exporter.scrape().value("callbacks_rejected_total", reason="address") == 3


#: X-Forwarded-For, and the status of the answer.
FORWARDED = {
    "192.0.2.1": 200,
    "198.51.100.7, 192.0.2.1": 200,
    "198.51.100.7": 403,
    "192.0.2.1, 198.51.100.7": 403,
    "": 403,
    "\xe9\xff": 403,
}


def test_trusted_proxies_state_the_client_address(tmp_path: Path) -> None:
    """By X-Forwarded-For, in one header or several, or by the PROXY protocol."""
    flags = {"callback__allow_from": "192.0.2.0/24", "callback__trusted_proxies": "127.0.0.0/8"}
    with running(tmp_path, **flags) as exporter:
        assert reason(exporter.post(BODY, X_Forwarded_For="198.51.100.7")) == (403, "address")
        assert reason(exporter.post(BODY)) == (403, "address")
        lines = b"POST /callbacks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n" % len(
            BODY
        )
        for text, status in FORWARDED.items():
            headers = lines + b"X-Forwarded-For: %s\r\n" % text.encode("latin-1")
            for encoding in (b"", b"Content-Encoding: identity\r\n"):
                answer = exporter.raw(headers + encoding + b"\r\n" + BODY)
                assert b" %d " % status in answer, (text, encoding)
                twice = exporter.raw(headers + encoding + b"X-Forwarded-For: 203.0.113.9\r\n\r\n" + BODY)
                assert b" 403 " in twice, (text, encoding)
        for source, status in ((b"192.0.2.1", 200), (b"198.51.100.7", 403)):
            header = b"PROXY TCP4 %s 127.0.0.1 4711 8314\r\n" % source
            assert b" %d " % status in exporter.raw(header + lines + b"\r\n" + BODY)
        second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 9, 127, 0, 0, 1]) + bytes(4)
        assert b" 200 " in exporter.raw(second + lines + b"\r\n" + BODY)
        assert b" 400 " in exporter.raw(b"PROXY nonsense\r\n" + lines + b"\r\n" + BODY)


def test_a_proxy_header_from_an_untrusted_address_is_rejected(anyone: Exporter) -> None:
    """Without a trusted proxy, a PROXY header is malformed HTTP: 400."""
    header = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 8314\r\n"
    assert b" 400 " in anyone.raw(header + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def test_requests_over_the_rate_limit_get_429_with_retry_after(tmp_path: Path) -> None:
    """The limit applies to one address; other addresses are not limited, and it ends after Retry-After."""
    line = b"POST /callbacks HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(BODY)
    with running(tmp_path, callback__rate_limit="3", callback__trusted_proxies="127.0.0.1/32") as exporter:
        # All 100 in one write. At 3 requests per second a slow machine would need 33 s to have none rejected.
        received = exporter.raw((line + length + BODY) * 99 + line + b"Connection: close\r\n" + length + BODY)
        statuses = re.findall(rb"HTTP/1\.1 (\d+)", received)
        assert statuses[:6] == [b"200"] * 6
        assert set(statuses) == {b"200", b"429"}
        assert len(statuses) == 100
        rejected = statuses.count(b"429")
        assert received.count(b'"reason":"rate"') == received.lower().count(b"retry-after: 1\r\n") == rejected
        assert exporter.post(BODY, X_Forwarded_For="192.0.2.2")[0] == 200
        until(
            lambda: exporter.post(BODY, X_Forwarded_For="192.0.2.1")[0] == 200, "the address may send again"
        )
        assert exporter.scrape().value("callbacks_rejected_total", reason="rate") >= rejected


@pytest.mark.parametrize(
    ("flags", "is_open"),
    [
        (["--callback.listen-address=0.0.0.0:0"], True),
        (["--callback.listen-address=127.0.0.1:0"], False),
        (["--callback.listen-address=0.0.0.0:0", "--callback.token-file=x"], False),
        (["--callback.listen-address=0.0.0.0:0", "--callback.allow-from=192.0.2.0/24"], False),
        (
            [
                "--callback.listen-address=0.0.0.0:0",
                "--callback.require-sign=true",
                "--callback.sign-key-file=x",
            ],
            False,
        ),
    ],
)
def test_a_listener_is_open_unless_access_is_restricted(flags: list[str], is_open: bool) -> None:
    """Access is restricted by a loopback address, a token, a required signature or allowed networks."""
    assert read(vars(cli.parse(["serve", *flags])), {}).is_open is is_open


def test_an_open_listener_is_reported(tmp_path: Path, anyone: Exporter) -> None:
    """With a warning and a metric; a listener with a token or on a loopback address is not reported."""
    secrets(tmp_path, "a-token")
    everywhere = "0.0.0.0:0"
    (tmp_path / "restricted").mkdir()
    token = str(tmp_path / "secrets")
    with (
        running(tmp_path, callback__listen_address=everywhere) as exporter,
        running(
            tmp_path / "restricted", callback__listen_address=everywhere, callback__token_file=token
        ) as restricted,
    ):
        for each, is_open in ((exporter, True), (restricted, False), (anyone, False)):
            assert each.scrape().value("exporter_callback_open") == is_open
            assert ("anybody may send" in each.log) is is_open
