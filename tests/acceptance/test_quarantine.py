"""The quarantine commands beside a running exporter: no secret is shown, nothing is counted twice."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from exporter.app import open_store
from exporter.config.settings import read
from exporter.store.transaction import QuarantineEntry
from tests.acceptance.commands import run, started
from tests.acceptance.load import Sender
from tests.support import HANG_SECONDS, Exporter, environment_of, running, sample, store_url, until

CANARY = "c4n4ry"
BODIES = 600
KILLS = 2
#: The minimum size of a pipe, its free space at first, and the maximum length of a line of a replay.
PIPE_BYTES, ROOM_BYTES, LINE_BYTES = 4096, 300, 64


def quarantine(folder: Path, *bodies: bytes) -> None:
    """Quarantine bodies as an exporter with older schemas would have done."""
    now = round(time.time(), 3)

    def work(transaction: object) -> None:
        for body in bodies:
            transaction.quarantine(QuarantineEntry("schema", body, "192.0.2.1", now))  # type: ignore[attr-defined]

    with closing(open_store(read({"store_url": store_url(folder)}, {}))) as store:
        store.transact(work)


def start(number: int) -> bytes:
    """Return a TaskStart callback of a task."""
    at = int(time.time())
    fields = {"appid": 7, "event_type": 314, "callback_event": "TaskStart", "task_id": f"q{number}"}
    return json.dumps({**fields, "event_time": at, "msg": {"task_start_time": at * 1000}}).encode()


def test_a_quarantined_body_is_shown_without_its_secrets(exporter: Exporter) -> None:
    """`list` shows the error, `show` redacts secrets, and `show --raw` prints the exact body."""
    body = {
        "appid": 1,
        "event_type": 314,
        "callback_event": "TaskMadeUp",
        "task_id": "1",
        "sign": CANARY,
        "to_url": f"rtmp://{CANARY}@host/live/{CANARY}?txSecret={CANARY}",
        "stream_id": CANARY,
        "source_urls": json.dumps([f"http://host/a?sig={CANARY}"]),
        "msg": json.dumps(
            {"url": f"http://host/{CANARY}", "message": f"pushing to {CANARY} with secret={CANARY}"}
        ),
    }
    raw = json.dumps(body).encode()
    broken = json.dumps(body | {"callback_event": "TaskStart", "event_time": [CANARY]}).encode()
    truncated = raw[:-1]
    answers = [exporter.post(each) for each in (raw, raw, broken, truncated)]
    assert [status for status, _, _ in answers] == [200, 200, 400, 400]
    assert CANARY not in str(answers)

    listed = run(exporter.folder, "quarantine", "list")
    rows = {line.split("\t")[1]: line.split("\t") for line in listed.splitlines()[1:]}
    assert rows.keys() == {"unknown_event", "schema", "json"}
    assert rows["unknown_event"][2] == "2"
    assert rows["schema"][7].startswith("/event_time expected")
    outputs = [listed, run(exporter.folder, "quarantine", "replay", "--all", status=1)]
    for reason, bytes_ in (("unknown_event", raw), ("schema", broken), ("json", truncated)):
        digest = rows[reason][0]
        outputs.append(run(exporter.folder, "quarantine", "show", digest[:8].upper()))
        assert started(exporter.folder, "quarantine", "show", digest, "--raw").communicate()[0] == bytes_
    assert '"callback_event": "TaskMadeUp"' in outputs[2]
    assert "Not JSON" in outputs[4]
    assert CANARY not in "".join(outputs)
    assert CANARY not in exporter.log
    scrape = exporter.scrape()
    assert scrape.value("quarantined_callbacks") == 3
    assert scrape.value("callbacks_total", event="other", outcome="ignored") == 2
    assert run(exporter.folder, "quarantine", "purge", "--all", "json") == "1 purged\n"
    assert exporter.scrape().value("quarantined_callbacks") == 2
    assert exporter.scrape().value("quarantined_bodies_total") == 3
    assert exporter.scrape().value("quarantine_evicted_total") == 0


def test_a_raw_body_is_not_written_to_a_terminal(exporter: Exporter) -> None:
    """It may contain control characters and keys."""
    exporter.post(b"\x1b[2J" + CANARY.encode())
    digest = run(exporter.folder, "quarantine", "list").splitlines()[1].split("\t")[0]
    read_end, write_end = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "quarantine", "show", digest, "--raw"],
        cwd=exporter.folder,
        env=exporter.environment,
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 1
    assert b"redirect the output to a file" in done.stderr
    os.close(write_end)
    os.close(read_end)


def test_replays_that_are_killed_beside_a_load_count_each_body_once(tmp_path: Path) -> None:
    """Two replays at a time are killed, while a worker on the same store serves and is killed, too."""
    with running(tmp_path) as exporter:
        quarantine(tmp_path, *(start(number) for number in range(BODIES)), b"{")
        with Sender(lambda: [exporter.ports["callbacks"]], seed=5, connections=4) as sender:
            for number in range(KILLS):
                with replaying(tmp_path) as one, replaying(tmp_path) as other:
                    until(lambda pair=(one, other): all(map(is_blocked, pair)), "both replays are blocked")  # type: ignore[misc]
                    if number == 0:
                        os.kill(exporter.worker, signal.SIGKILL)
                    unblock((one, other)[number % 2])
            sender.until_accepted(20)
        done = started(tmp_path, "quarantine", "replay", "--all")
        output = done.communicate(timeout=HANG_SECONDS)[0]
        assert output.endswith(b"1 still_invalid\n")
        assert b" applied" in output, "the killed replays had already applied all bodies"
        scrape = exporter.scrape()
        assert scrape.value("tasks_started_total", appid="7") == BODIES
        assert scrape.value("tasks", appid="7", state="active") == BODIES
        assert scrape.value("tasks_started_total", appid="4") == sender.accepted["TaskStart"]
        assert scrape.value("callbacks_total", outcome="applied") == BODIES + sender.accepted.total()
        assert scrape.value("quarantined_callbacks") == 1
        assert scrape.value("quarantine_evicted_total") == 0
        assert run(tmp_path, "quarantine", "list").count("\n") == 2


@contextmanager
def replaying(folder: Path) -> Iterator[int]:
    """Start a replay that blocks when its output pipe is full; yield the read end. Kill it at the end."""
    read_end, write_end = os.pipe()
    size = fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.write(write_end, b"." * (size - ROOM_BYTES))
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "exporter", "quarantine", "replay", "--all"],
        cwd=folder,
        env=environment_of(folder),
        stdout=write_end,
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    try:
        yield read_end
    finally:
        process.kill()
        status = process.wait(HANG_SECONDS)
        os.close(read_end)
    assert status == -signal.SIGKILL, "the replay ended before it was killed"


def is_blocked(pipe: int) -> bool:
    """Return whether the pipe has no space for another line."""
    unread = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
    return bool(unread > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - LINE_BYTES)


def unblock(pipe: int) -> None:
    """Empty the pipe, and wait until the replay writes again."""
    os.read(pipe, fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ))
    select.select([pipe], [], [])


def test_a_replay_with_other_fold_settings_is_refused(exporter: Exporter) -> None:
    """With another retry window a replay could count redeliveries; the error names the flag to add."""
    output = run(exporter.folder, "quarantine", "replay", "--all", "--relay.retry-window=2h", status=1)
    assert "add --relay.retry-window=1h to this command\n" in output
    assert exporter.post(sample("documented/task_start"))[0] == 200
