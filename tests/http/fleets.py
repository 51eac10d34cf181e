"""Fleets for tests of the pages, written into a store without an exporter."""

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from exporter.app import open_store
from exporter.config.settings import Settings
from exporter.config.store_url import parse_store
from exporter.ingest.batch import BatchFolder, BatchItem
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from tests.support import store_url

HOUR = 3600.0
SECRET = "txSecret=0123456789abcdef0123456789abcdef&txTime=6A000000"

#: Age in seconds, event, task id and `msg`. The first digit of the task id selects the destination.
FleetEvent = tuple[float, str, str, dict[str, Any]]

HOSTS = {
    "1": "rtmp://5000.livepush.myqcloud.com/live",
    "2": "rtmp://5001.livepush.myqcloud.com/live",
    "9": "rtmp://a.rtmp.example.com:1935/live2",
}


def callback(event: str, task: str, at: float, msg: dict[str, Any], **changes: Any) -> bytes:
    """Return a callback of a task with an event time in Unix seconds."""
    time_field = {"TaskStart": "task_start_time", "TaskExit": "task_exit_time"}.get(event)
    body = {
        "appid": 1250000001,
        "event_type": 314,
        "interface": "general_callback",
        "product_name": "pullpush",
        "source_urls": f'["http://origin.example.com/{task}.m3u8?sign=s3cr3t"]\n',
        "stream_id": f"room{task[-3:]}",
        "task_id": task,
        "to_url": f"{HOSTS[task[0]]}/room{task[-3:]}?{SECRET}",
        "callback_event": event,
        "event_time": str(int(at)),
        "msg": orjson.dumps(msg | ({time_field: int(at * 1000)} if time_field else {})).decode(),
    }
    return orjson.dumps(body | changes)


def varied_fleet() -> list[FleetEvent]:
    """Return the events of a fleet with tasks in every state that the pages can show."""
    # Live sources, on air for hours.
    events: list[FleetEvent] = [(9 * HOUR - n * 1800, "TaskStart", f"1181{40 + n}", {}) for n in range(9)]
    for number in range(3):  # playlists
        task, began = f"2240{10 + number}", 4000.0 - number * 700
        events += [
            (began, "TaskStart", task, {}),
            (began - 1, "VodSourceFileStart", task, {"index": 0, "duration": 1800}),
            (began - 1801, "VodSourceFileFinish", task, {"index": 0, "duration": 1800}),
            (began - 1802, "VodSourceFileStart", task, {"index": 1, "duration": 3600}),
        ]
    packet = {"code": -22, "message": "write packet error."}
    events += [
        # failed, and not restarted
        (5 * HOUR, "TaskStart", "118170", {}),
        (185, "TaskExit", "118170", packet),
        (26 * HOUR, "TaskStart", "900017", {}),
        (2 * HOUR, "TaskExit", "900017", {"code": -110, "message": "Already publishing: room017"}),
        # failed, and restarted
        (7 * HOUR, "TaskStart", "118171", {}),
        (
            1500,
            "TaskExit",
            "118171",
            {"code": -104, "message": "read rtmp://5000.livepush.myqcloud.com/live"},
        ),
        (1440, "TaskStart", "118171", {}),
        (3 * HOUR, "TaskStart", "224020", {}),
        (2400, "TaskExit", "224020", {"code": -875574520, "message": "Server returned 404 Not Found"}),
        (2300, "TaskStart", "224020", {}),
        # has played nothing since its file finished; plays a file that is overdue
        (1400, "TaskStart", "224030", {}),
        (1399, "VodSourceFileStart", "224030", {"index": 0, "duration": 900}),
        (484, "VodSourceFileFinish", "224030", {"index": 0, "duration": 900}),
        (1206, "TaskStart", "224031", {}),
        (1205, "VodSourceFileStart", "224031", {"index": 4, "duration": 600}),
        (300, "TaskAlarm", "224031", {"type": "PullFileUnstable"}),
        # lost; stopped as planned
        (5000, "VodSourceFileStart", "900099", {"index": 0, "duration": 600}),
        (3 * HOUR, "TaskStart", "224040", {}),
        (900, "TaskExit", "224040", {"code": 0, "message": ""}),
    ]
    return events


def fill(folder: Path, events: Iterable[FleetEvent]) -> None:
    """Write events into the store of an exporter started in `folder`, and settle the tasks that are due."""
    now = time.time()
    bodies = [
        (now - seconds_ago, callback(event, task, now - seconds_ago, msg))
        for seconds_ago, event, task, msg in events
    ]
    put(folder, bodies, now)


def put(folder: Path, bodies: Iterable[tuple[float, bytes]], now: float) -> None:
    """Write callbacks into the store, with their arrival in Unix seconds; settle the tasks due at `now`."""
    settings = Settings(store_url=parse_store(store_url(folder)))
    store = open_store(settings)
    redactor = Redactor(key=store.secret, plain_hosts=settings.redact_plain_hosts)
    parser = Parser(schemas=Schemas(), redactor=redactor)
    batches = BatchFolder(settings.fold_settings, settings.metrics_labels)
    arrived = [BatchItem(at, parser.parse(body)) for at, body in sorted(bodies)]
    store.transact(partial(batches.apply, arrived))
    while keys := store.due(now, 1000):
        store.transact(partial(batches.sweep, keys, now))
    store.close()
