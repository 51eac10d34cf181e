"""A fleet for measurements: tasks that started ten minutes ago and play a file, written into a store.

Their callbacks pass through the exporter's own parser, fold and store, in larger batches than over HTTP.
After that a sweep settles everything that is due, so that no sweep disturbs the measurement.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import orjson

from bench.stores import opened
from exporter.config.settings import Settings
from exporter.config.store_url import StoreUrl
from exporter.ingest.batch import BatchApplier, BatchItem
from exporter.protocol.parser import Parser
from exporter.protocol.redact import Redactor
from exporter.protocol.schemas import Schemas
from exporter.store.protocol import Store

AGE_SECONDS = 600.0
FILE_SECONDS = 3600
BATCH_TASKS = 2000
DESTINATIONS = 10
FIRST_TASK = 10**8


def fill(place: Path | StoreUrl, tasks: int) -> None:
    """Create a store, in a file or at a URL, with that many active tasks that play their first file."""
    settings = Settings()
    store = opened(StoreUrl(path=str(place)) if isinstance(place, Path) else place, settings)
    parser = Parser(
        schemas=Schemas(), redactor=Redactor(key=store.secret, plain_hosts=settings.redact_plain_hosts)
    )
    applier = BatchApplier(settings.fold_settings, settings.metrics_labels)
    now = time.time()
    for begin in range(0, tasks, BATCH_TASKS):
        numbers = range(begin, min(begin + BATCH_TASKS, tasks))
        batch = [arrived for number in numbers for arrived in _history(parser, number, now - AGE_SECONDS)]
        store.transact(partial(applier.apply, batch))
    _settle(store, applier, now)
    store.close()


def task_start(number: int, at: float) -> bytes:
    """Return a TaskStart."""
    return _body("TaskStart", number, at, {"task_start_time": int(at * 1000)})


def file_start(number: int, at: float, index: int) -> bytes:
    """Return a VodSourceFileStart of the file at `index`."""
    url = f"http://origin.example.com/vod/{number}/{index}.m3u8?sign=s3cr3t"
    return _body("VodSourceFileStart", number, at, {"url": url, "index": index, "duration": FILE_SECONDS})


def _history(parser: Parser, number: int, at: float) -> Iterator[BatchItem]:
    yield BatchItem(at, parser.parse(task_start(number, at)))
    yield BatchItem(at + 1, parser.parse(file_start(number, at + 1, 0)))


def _settle(store: Store, applier: BatchApplier, now: float) -> None:
    while keys := store.due_keys(now, BATCH_TASKS):
        store.transact(partial(applier.sweep, keys, now))


def _body(event: str, number: int, at: float, msg: dict[str, object]) -> bytes:
    task, host = FIRST_TASK + number, 5000 + number % DESTINATIONS
    secret = "txSecret=0123456789abcdef0123456789abcdef&txTime=6A000000"
    return orjson.dumps(
        {
            "appid": 1250000001,
            "event_type": 314,
            "interface": "general_callback",
            "product_name": "pullpush",
            "source_urls": f'["http://origin.example.com/vod/{task}.m3u8?sign=s3cr3t"]\n',
            "stream_id": f"room{task}",
            "task_id": str(task),
            "to_url": f"rtmp://{host}.livepush.myqcloud.com/live/room{task}?{secret}",
            "callback_event": event,
            "event_time": str(int(at)),
            "msg": orjson.dumps(msg).decode(),
        }
    )
