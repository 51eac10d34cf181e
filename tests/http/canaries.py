"""Callbacks with a distinct canary, a text that stands for a secret, in every place that may contain one.

By the contract these places contain no secret and may be shown: `appid`, `task_id`, the `code` of an exit,
the type of an alarm, the `index` of a file, times, the *names* of unknown fields, hosts, the path of a
destination (its last segment only at `--redact.plain-hosts`), and a `stream_id` that differs from that
last segment.
"""

import json
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from exporter.protocol.events import BY_NAME
from tests.http.corpus import MSGS, fields

T = 1_795_500_000


class Canaries:
    """A generator of canaries that records the place of each one."""

    def __init__(self) -> None:
        self._places: list[str] = []
        self._words: set[str] = set()

    def __call__(self, place: str) -> str:
        """Return a new canary for a place."""
        self._places.append(place)
        return f"cnry{len(self._places) - 1:04d}x"

    def word(self, place: str) -> str:
        """Return a new canary for a plain word of a rejected body: neither in a URL nor in a secret field.

        Only `quarantine show` may print it, because an operator needs the invalid value.
        """
        self._words.add(place)
        return self(place)

    def __len__(self) -> int:
        return len(self._places)

    def found_in(self, text: str, *, except_words: bool = False) -> list[str]:
        """Return the places of the canaries in `text`; `except_words` leaves out those of `word`."""
        text = text.lower()
        found = [place for number, place in enumerate(self._places) if f"cnry{number:04d}x" in text]
        return [place for place in found if not (except_words and place in self._words)]


class SentBody(Struct, frozen=True):
    """A request body with canaries.

    Args:
        name: a description.
        body: the body.
        status: the status of the answer of an exporter that accepts every caller.
    """

    name: str
    body: bytes
    status: int = 200


def bodies_with_canaries(plant: Canaries) -> Iterator[SentBody]:
    """Yield valid and invalid callbacks of every event, with canaries wherever a secret may be."""
    for event in BY_NAME:
        for host in ("push.example.com", "5000.livepush.myqcloud.com"):
            yield _good(plant, event, host)
        yield from _bad(plant, event)
    yield _unknown(plant)
    yield from _malformed_json(plant)
    other = {"event_type": 1, "appid": plant("another product: appid"), "msg": plant("another product: msg")}
    yield SentBody("another product", json.dumps(other).encode())


def _good(plant: Canaries, event: str, host: str) -> SentBody:
    where = f"{event} to {host}: "
    is_plain = host.endswith("myqcloud.com")
    key = "room" if is_plain else plant(where + "last path segment, equal to stream_id")
    user, password, query, fragment = (plant(where + f"to_url, {part}") for part in _PARTS)
    to_url = f"rtmp://{user}:{password}@{host}/live/{key}?txSecret={query}&txTime=6AF4C5D0#{fragment}"
    msg = dict(MSGS[event])
    if "url" in msg:
        msg["url"] = _source(plant, where + "msg.url")
    if "message" in msg:
        msg["message"] = _message(plant, where, key, to_url)
    msg["inner"] = {"deeper": [plant(where + "unknown field of msg")]}
    sources = [_source(plant, where + "source_urls"), _source(plant, where + "second of source_urls")]
    changes = {
        "task_id": f"task-{event}-{host[0]}",
        "stream_id": f"{key}?{plant(where + 'query of stream_id')}",
        "to_url": to_url,
        "source_urls": json.dumps(sources) + "\n",
        "msg": json.dumps(msg),
        "sign": plant(where + "sign"),
        "t": T + 600,
        "unknown": plant(where + "unknown field"),
    } | {name: plant(where + name) for name in ("interface", "product_name", "callback_url")}
    return SentBody(where, json.dumps(fields(event, **changes)).encode())


_PARTS = ("user", "password", "query", "fragment")


def _source(plant: Canaries, where: str) -> str:
    user, password, query, fragment = (plant(f"{where}, {part}") for part in _PARTS)
    path = plant(f"{where}, path")
    return f"https://{user}:{password}@origin.example.com/{path}/a.mp4?token={query}#{fragment}"


def _message(plant: Canaries, where: str, key: str, to_url: str) -> str:
    parts = {
        name: plant(f"{where}message, {name}") for name in ("user", "query", "foreign key", "token", "sign")
    }
    return (
        f'{key} refused: \'{to_url}\' sign={parts["sign"]} "token": "{parts["token"]}" via '
        f"srt://{parts['user']}@relay.example.org/app/{parts['foreign key']}?{parts['query']}"
        if "myqcloud" not in to_url
        else f"'{to_url}' sign={parts['sign']} token: {parts['token']} http://{parts['user']}@a.example/b?{parts['query']}"
    )


def _bad(plant: Canaries, event: str) -> Iterator[SentBody]:
    """Yield the event with a value of a wrong type in one field at a time, with canaries in it."""
    for name in ("appid", "event_time", "task_id", "stream_id", "to_url", "source_urls", "msg"):
        where = f"{event} with a wrong {name}"
        wrong: Any = {plant.word(where + ", a name"): plant.word(where + ", a value")}
        if name == "appid":
            wrong = plant.word(where)
        yield SentBody(
            where, json.dumps(fields(event, **{name: [wrong] if name == "msg" else wrong})).encode(), 400
        )
    for name, value in MSGS[event].items():
        where = f"{event} with a wrong msg.{name}"
        msg = MSGS[event] | {name: [plant.word(where), value]}
        url = f"rtmp://h/{plant(where + ', to_url')}?{plant(where + ', query')}"
        yield SentBody(where, json.dumps(fields(event, msg=json.dumps(msg), to_url=url)).encode(), 400)


def _unknown(plant: Canaries) -> SentBody:
    """Return an unknown event with canaries, also in its name."""
    where = "an unknown event: "
    url = f"rtmp://u:{plant(where + 'password')}@h/live/{plant(where + 'key')}?k={plant(where + 'query')}"
    changes = {
        "msg": {"x": plant.word(where + "msg")},
        "to_url": url,
        "y": plant.word(where + "unknown field"),
    }
    return SentBody("an unknown event", json.dumps(fields(plant.word(where + "name"), **changes)).encode())


def _malformed_json(plant: Canaries) -> Iterator[SentBody]:
    texts = {
        "a word": "%s",
        "cut off": '{"event_type":314,"to_url":"rtmp://h/%s',
        "a form": "event_type=314&txSecret=%s",
        "a broken msg": json.dumps(fields(msg='{"url":"%s"')),
        "broken sources": json.dumps(fields(source_urls='["%s"')),
    }
    for name, text in texts.items():
        yield SentBody(name, (text % plant(f"no JSON: {name}")).encode(), 400)
