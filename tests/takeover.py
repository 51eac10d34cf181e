"""Stores of earlier versions, for tests that later versions can open them.

`python -m tests.takeover NAME` writes stores of the current version to `tests/kept_stores/NAME-REVISION`: a
store of each kind, the callbacks that were sent, and what the exporter showed then and an hour later. Create
one before a change of the stored format, and keep the existing ones.
"""

import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import valkey
from msgspec import Struct

from tests.clock import Clock
from tests.support import Exporter, running, until
from tests.valkeys import ValkeyServer

KEPT = Path(__file__).parent / "kept_stores"
KINDS = ("sqlite", "valkey")
#: When the stores were written, UNIX seconds: 2026-11-24T06:00:00Z.
WRITTEN = 1_795_500_000
LOST_AFTER_SECONDS, LATER_SECONDS = 7200.0, 3600.0
FLAGS = {"relay__lost_after": "2h", "metrics__labels": "appid,to_host,source_host"}
#: The state is settled if it is the same this many times in a row.
SAME_LOOKS = 200
#: Prefixes of the families of the process.
OWN = ("css_relay_exporter_", "css_relay_callbacks_rejected_total", "python_", "process_")


class Place(Protocol):
    """A store that an exporter serves, in a file or on a server."""

    url: str

    def save(self, kept: Path) -> None:
        """Save the store to a folder."""

    def load(self, kept: Path) -> None:
        """Load the store from a folder."""


class InFile(Struct):
    """A store in a file."""

    path: Path

    @property
    def url(self) -> str:
        """The value for `--store.url`."""
        return f"sqlite:{self.path}"

    def save(self, kept: Path) -> None:
        """Save the store to a folder; no process may have it open."""
        (kept / "sqlite.db.gz").write_bytes(gzip.compress(self.path.read_bytes(), mtime=0))

    def load(self, kept: Path) -> None:
        """Load the store from a folder."""
        self.path.write_bytes(gzip.decompress((kept / "sqlite.db.gz").read_bytes()))


class OnServer(Struct):
    """A store on a server, saved key by key, so that a server of any version can load it."""

    server: ValkeyServer

    @property
    def url(self) -> str:
        """The value for `--store.url`."""
        return self.server.url

    def save(self, kept: Path) -> None:
        """Save the store to a folder."""
        with self._client() as client:
            keys = {key: _value(client, key) for key in sorted(client.keys())}
        (kept / "valkey.json").write_text(json.dumps(keys, indent=0) + "\n")

    def load(self, kept: Path) -> None:
        """Load the store from a folder."""
        with self._client() as client:
            for key, value in json.loads((kept / "valkey.json").read_text()).items():
                _put(client, key, value)

    def _client(self) -> "valkey.Valkey":
        return self.server.client(encoding="latin-1")  # some values are bytes


def _value(client: "valkey.Valkey", key: str) -> dict[str, Any]:
    match client.type(key):
        case "hash":
            return {"hash": client.hgetall(key)}
        case "zset":
            return {"zset": dict(client.zrange(key, 0, -1, withscores=True))}
        case "set":
            return {"set": sorted(client.smembers(key))}
        case "string":
            return {"string": client.get(key)}
        case other:
            raise ValueError(f"{key} is a {other}")


def _put(client: "valkey.Valkey", key: str, value: dict[str, Any]) -> None:
    match value:
        case {"hash": fields}:
            client.hset(key, mapping=fields)
        case {"zset": scores}:
            client.zadd(key, scores)
        case {"set": members}:
            client.sadd(key, *members)
        case {"string": text}:
            client.set(key, text)


@contextmanager
def place(kind: str, folder: Path) -> Iterator[Place]:
    """Yield an empty store of a kind."""
    if kind == "sqlite":
        yield InFile(folder / "relay.db")
    else:
        with ValkeyServer(folder) as server:
            yield OnServer(server)


@contextmanager
def serving(folder: Path, at: Place, clock: Clock) -> Iterator[Exporter]:
    """Yield an exporter with that store and clock."""
    with running(folder, clock=clock, store__url=at.url, **FLAGS) as exporter:
        yield exporter
        exporter.stop()


def at_time(clock: Clock, seconds: float) -> None:
    """Set a clock to a time in UNIX seconds."""
    clock.advance(seconds - clock.now())


def shown(exporter: Exporter) -> dict[str, Any]:
    """Return the state that an exporter shows: the tasks, and every sample of the store that is not 0."""
    samples = {
        name + json.dumps(dict(sorted(labels))): value
        for (name, labels), value in exporter.scrape().samples.items()
        if value and not name.startswith(OWN)
    }
    tasks = json.loads(exporter.get("/api/v1/tasks")[2])["tasks"]
    return {"samples": samples, "tasks": sorted(tasks, key=lambda t: (t["appid"], t["task_id"]))}


def _callback(event: str, task: str, at: float | None, msg: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a callback; `more` replaces fields, and None removes a field."""
    fields = {
        "appid": 1300000001,
        "callback_event": event,
        "event_type": 314,
        "event_time": None if at is None else str(int(at)),
        "task_id": task,
        "stream_id": f"room-{task}",
        "to_url": f"rtmp://push.example.com/live/room-{task}?txSecret=0123456789abcdef&txTime=6AF4C5D0",
        "source_urls": [f"https://origin.example.com/{task}/list.m3u8?token=s3cret"],
        "msg": json.dumps(msg),
    }
    return {name: value for name, value in (fields | more).items() if value is not None}


def _start(task: str, at: float, **more: Any) -> dict[str, Any]:
    return _callback("TaskStart", task, at, {"task_start_time": round(at * 1000)}, **more)


def _exit(task: str, at: float, code: int | str, message: str = "", **more: Any) -> dict[str, Any]:
    msg = {"code": code, "message": message, "task_exit_time": round(at * 1000)}
    return _callback("TaskExit", task, at, msg, **more)


def _file(event: str, task: str, at: float | None, index: int, length: float = 60.0) -> dict[str, Any]:
    url = f"https://cdn.example.com/{task}/{index}.mp4?token=s3cret"
    return _callback(f"VodSourceFile{event}", task, at, {"url": url, "index": index, "duration": length})


def story(now: float) -> list[dict[str, Any]]:
    """Return callbacks that create every kind of stored data, in the order they are sent at `now`."""
    shared = ["https://origin.example.com/shared.m3u8"]
    return [
        # A task that plays its third file; a part of its history is settled.
        _start("vod", now - 400.2),
        _file("Start", "vod", now - 398, 0),
        _file("Finish", "vod", now - 338, 0),
        _file("Start", "vod", now - 337, 1),
        _file("Finish", "vod", now - 276, 1),
        _file("Start", "vod", now - 20, 2, 600.0),
        # A live task that has just started for the second time.
        _start("live", now - 900.5),
        _exit("live", now - 30.25, -104, "connection reset by peer"),
        _start("live", now - 10.75),
        # A task with its newest callbacks in the wrong order.
        _exit(
            "failed", now - 40.1, "-22", "write packet error: rtmp://push.example.com/live/x?txSecret=0123"
        ),
        _start("failed", now - 100.1),
        _start("stopped", now - 500.0),
        _exit("stopped", now - 50.0, 0, "task stopped."),
        _file("Start", "inferred", now - 15, 4),
        _file("Start", "dead-air", now - 300, 0),
        _file("Finish", "dead-air", now - 240, 0),
        _start("dead-air", now - 300.6),
        _callback("TaskStart", "untimed", None, {"task_start_time": 0}),
        _file("Start", "untimed", None, 0),
        _callback("TaskAlarm", "vod", now - 60, {"type": "PullFileUnstable"}),
        _callback("TaskAlarm", "vod", now - 59, {"AlarmType": "SomethingNew"}),
        _callback("TaskAlarm", "untimed", None, {"type": "FileEndEarly"}),
        _callback("ResetTaskConfig", "vod", now - 58, {}, note="a field that no schema names"),
        # Exits without a task id: the first matches one active task, the second matches two.
        _start("owner", now - 70.5),
        _exit("", now - 5.5, -5, "", task_id=None, source_urls=_start("owner", 0)["source_urls"]),
        _start("one", now - 80.5, source_urls=shared),
        _start("other", now - 80.4, source_urls=shared),
        _exit("", now - 4.5, -5, "", task_id=None, source_urls=shared, to_url=None, stream_id=None),
        # A sender that states the same start time for two runs.
        _start("conflict", now - 120.5),
        _exit("conflict", now - 90.5, -32, "broken pipe"),
        {**_start("conflict", now - 120.5), "event_time": str(int(now - 85))},
        _callback("TaskRebalanced", "vod", now - 3, {"number": 1}),
        {"event_type": 100, "appid": 1},
    ]


MALFORMED = b'{"appid": 1300000001, "callback_event": "TaskStart", "msg": {"task_start_time": "never"}}'


def make(kept: Path) -> None:
    """Write the stores of the current version to a folder."""
    kept.mkdir(parents=True)
    bodies = [json.dumps(fields) for fields in story(WRITTEN)]
    (kept / "callbacks.json").write_text(json.dumps(bodies, indent=0) + "\n")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name, place(kind, Path(name)) as at:
            folder = Path(name)
            clock = Clock(folder)
            heard = WRITTEN - LOST_AFTER_SECONDS + LATER_SECONDS / 2
            at_time(clock, heard)
            with serving(folder, at, clock) as exporter:
                lost = _start("lost", heard - 1)
                assert exporter.post(json.dumps(lost).encode())[0] == 200
                at_time(clock, WRITTEN)
                assert [exporter.post(body.encode())[0] for body in bodies] == [200] * len(bodies)
                assert exporter.post(MALFORMED)[0] == 400
                expected = {"then": shown(exporter)}
            at.save(kept)
            at_time(clock, WRITTEN + LATER_SECONDS)
            with serving(folder, at, clock) as exporter:
                expected["later"] = shown_when_settled(exporter)
            (kept / f"{kind}.expected.json").write_text(json.dumps(expected, indent=0, sort_keys=True) + "\n")


def shown_when_settled(exporter: Exporter) -> dict[str, Any]:
    """Return the state that an exporter shows after its sweeps have settled everything that was due."""
    looks = [shown(exporter)]

    def is_settled() -> bool:
        looks.append(shown(exporter))
        return looks[-SAME_LOOKS:].count(looks[-1]) == SAME_LOOKS

    until(is_settled, "everything that was due is settled")
    return looks[-1]


if __name__ == "__main__":
    revision = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    make(KEPT / f"{sys.argv[1]}-{revision}")
