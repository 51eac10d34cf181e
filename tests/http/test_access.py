"""Who gets in: tokens, signatures, addresses, proxies, rates and slow callers, over real connections."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support import Exporter, request, running, sample, until

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


def reason(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    """Return status and reason of a refusal."""
    return answer[0], json.loads(answer[2])["reason"]


def test_only_a_token_leads_in(tmp_path: Path) -> None:
    """Any of them; a wrong one looks like any other path, to whatever method."""
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
    """The new one holds within a second or so, the old one no more; a broken file changes nothing."""
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
                and "what was read before holds" in exporter.log
            ),
            "told",
        )
        assert exporter.post(BODY, "/callbacks/new-token")[0] == 200


@pytest.mark.parametrize("flag", ["callback__token_file", "callback__sign_key_file"])
@pytest.mark.parametrize(
    ("lines", "mode", "message"),
    [(("a-token",), 0o604, "chmod o-rwx"), ((), 0o600, "expected a secret a line")],
)
def test_a_file_of_secrets_must_be_of_use(
    tmp_path: Path, flag: str, lines: tuple[str, ...], mode: int, message: str
) -> None:
    """Others may not read it; the start ends with a line that names the flag."""
    exporter = Exporter(tmp_path, **{flag: secrets(tmp_path, *lines, mode=mode)})
    with pytest.raises(AssertionError):
        exporter.start()
    assert exporter.process is not None
    assert exporter.process.wait(10) == 2
    assert message in exporter.log
    assert flag.replace("__", ".").replace("_", "-") in exporter.log
    assert len(exporter.log.splitlines()) == 1


def test_signatures_are_checked_where_they_are(tmp_path: Path) -> None:
    """With several keys; without one a callback is taken unless it is required."""
    keys = secrets(tmp_path, "canary-key-one", "canary-key-two")
    soon, past = int(time.time()) + 600, int(time.time()) - 61
    with running(tmp_path, callback__sign_key_file=keys) as exporter:
        assert exporter.post(BODY)[0] == 200
        assert exporter.post(signed("canary-key-one", soon))[0] == 200
        assert exporter.post(signed("canary-key-two", soon))[0] == 200
        assert reason(exporter.post(signed("canary-key-three", soon))) == (403, "signature")
        assert reason(exporter.post(signed("canary-key-one", past))) == (403, "signature")
        assert exporter.scrape().value("callbacks_rejected_total", reason="signature") == 2
        assert exporter.scrape().value("quarantined_callbacks") == 0
        assert "canary" not in exporter.log


def test_a_signature_can_be_required(tmp_path: Path) -> None:
    """Then nothing of a stranger's is read further, or kept."""
    keys = secrets(tmp_path, "key")
    with running(tmp_path, callback__sign_key_file=keys, callback__require_sign="true") as exporter:
        assert exporter.post(signed("key", int(time.time()) + 600))[0] == 200
        assert reason(exporter.post(BODY)) == (403, "signature")
        assert reason(exporter.post(b"{}")) == (403, "signature")
        assert reason(exporter.post(b"{")) == (400, "json")
        assert exporter.scrape().value("quarantined_callbacks") == 0


def test_a_required_signature_needs_a_key(tmp_path: Path) -> None:
    """Said at the start."""
    exporter = Exporter(tmp_path, callback__require_sign="true")
    with pytest.raises(AssertionError, match=r"--callback\.sign-key-file"):
        exporter.start()


def test_only_allowed_addresses_may_send(tmp_path: Path) -> None:
    """To whatever path; and a header is not believed unless a trusted proxy wrote it."""
    with running(tmp_path, callback__allow_from="192.0.2.0/24") as exporter:
        assert reason(exporter.post(BODY)) == (403, "address")
        assert reason(exporter.post(BODY, "/nowhere")) == (403, "address")
        assert reason(exporter.post(BODY, X_Forwarded_For="192.0.2.1")) == (403, "address")
        assert exporter.scrape().value("callbacks_rejected_total", reason="address") == 3


def test_trusted_proxies_say_who_sends(tmp_path: Path) -> None:
    """By X-Forwarded-For, in one header or several, or by the PROXY protocol."""
    flags = {"callback__allow_from": "192.0.2.0/24", "callback__trusted_proxies": "127.0.0.0/8"}
    with running(tmp_path, **flags) as exporter:
        assert exporter.post(BODY, X_Forwarded_For="192.0.2.1")[0] == 200
        assert reason(exporter.post(BODY, X_Forwarded_For="198.51.100.7")) == (403, "address")
        assert reason(exporter.post(BODY, X_Forwarded_For="192.0.2.1, 198.51.100.7")) == (403, "address")
        assert reason(exporter.post(BODY)) == (403, "address")
        lines = b"POST /callbacks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n" % len(
            BODY
        )
        several = lines + b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n" + BODY
        assert b" 403 " in exporter.raw(several)
        for source, status in ((b"192.0.2.1", b" 200 "), (b"198.51.100.7", b" 403 ")):
            header = b"PROXY TCP4 %s 127.0.0.1 4711 8314\r\n" % source
            assert status in exporter.raw(header + lines + b"\r\n" + BODY)
        second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 9, 127, 0, 0, 1]) + bytes(4)
        assert b" 200 " in exporter.raw(second + lines + b"\r\n" + BODY)
        assert b" 400 " in exporter.raw(b"PROXY nonsense\r\n" + lines + b"\r\n" + BODY)


def test_nobody_else_may_speak_for_others(tmp_path: Path) -> None:
    """A PROXY header from anybody is no HTTP."""
    with running(tmp_path) as exporter:
        header = b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 8314\r\n"
        assert b" 400 " in exporter.raw(header + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def test_a_source_that_asks_too_often_is_told_when_to_come_again(tmp_path: Path) -> None:
    """429 with Retry-After; others are not touched, and it may again after that time."""
    with running(tmp_path, callback__rate_limit="5", callback__trusted_proxies="127.0.0.1/32") as exporter:
        answers = [exporter.post(BODY, X_Forwarded_For="192.0.2.1") for _ in range(30)]
        refused = [answer for answer in answers if answer[0] != 200]
        assert 10 <= 30 - len(refused) <= 16
        assert all(reason(answer) == (429, "rate") and answer[1]["retry-after"] == "1" for answer in refused)
        assert exporter.post(BODY, X_Forwarded_For="192.0.2.2")[0] == 200
        until(lambda: exporter.post(BODY, X_Forwarded_For="192.0.2.1")[0] == 200, "it may again", 5)
        assert exporter.scrape().value("callbacks_rejected_total", reason="rate") >= len(refused)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("callback__token_file", "secrets"),
        ("callback__allow_from", "192.0.2.0/24"),
        ("", ""),
    ],
)
def test_an_open_listener_is_told(tmp_path: Path, flag: str, value: str) -> None:
    """By a warning and a metric, unless something guards it."""
    secrets(tmp_path, "a-token")
    flags = {"callback__listen_address": "0.0.0.0:0"} | ({flag: value} if flag else {})
    with running(tmp_path, **flags) as exporter:
        assert exporter.scrape().value("exporter_callback_open") == (0 if flag else 1)
        assert ("anybody may send" in exporter.log) is not bool(flag)


@contextmanager
def connected(exporter: Exporter) -> Iterator[socket.socket]:
    """Yield a connection to the callback listener."""
    with socket.create_connection(("127.0.0.1", exporter.ports["callbacks"]), timeout=30) as connection:
        yield connection


def closed_after(connection: socket.socket) -> float:
    """Return after how many seconds the other side closes."""
    begun = time.monotonic()
    while connection.recv(65536):
        pass
    return time.monotonic() - begun


ENDLESS = (b"", b"POST /callbacks HTTP/1.1\r\n", b"P", b"POST /callbacks HTTP/1.1\r\nHost: x\r\nA: ")


@pytest.mark.slow
def test_headers_that_never_end_are_not_waited_for(exporter: Exporter) -> None:
    """Ten seconds and no longer, a byte now and then notwithstanding."""
    with ThreadPoolExecutor(len(ENDLESS)) as pool:
        waits = list(pool.map(partial(waited_for, exporter), ENDLESS))
    assert all(9 < seconds < 15 for seconds in waits), waits


def waited_for(exporter: Exporter, begin: bytes) -> float:
    """Return after how many seconds a connection is closed whose headers begin, and never end."""
    with connected(exporter) as connection:
        connection.sendall(begin)
        begun = time.monotonic()
        connection.settimeout(1)
        while time.monotonic() - begun < 20:
            try:
                if begin.endswith(b" "):
                    connection.sendall(b"a")
                if connection.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        return time.monotonic() - begun


@pytest.mark.slow
def test_an_idle_connection_is_closed(exporter: Exporter) -> None:
    """After an answer it is kept for a few seconds; half of a next request does not keep it for ever."""
    message = b"POST /callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    with connected(exporter) as connection:
        connection.sendall(message)
        assert b" 200 " in connection.recv(65536)
        assert 4 < closed_after(connection) < 8
    with connected(exporter) as connection:
        connection.sendall(message)
        assert b" 200 " in connection.recv(65536)
        time.sleep(0.5)  # what comes with the answer belongs to a connection that is not idle yet
        connection.sendall(b"POST /call")
        assert 9 < closed_after(connection) < 15


def test_a_caller_that_ends_its_side_gets_its_answer(exporter: Exporter) -> None:
    """It has said all, and may well say so."""
    message = b"POST /callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    with connected(exporter) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " in connection.recv(65536)
