"""The plain way to count callbacks: falcon, jsonschema, and prometheus_client's multiprocess mode.

Nothing of it is durable, and a callback that comes twice counts twice. `python -m bench.plain` takes the
flags of `css-relay-exporter serve`; gunicorn's settings are the exporter's, but for two workers, which that
mode is for. Validators are made once, as jsonschema's documentation advises.
"""

import json
from typing import Any
from urllib.parse import urlsplit

from falcon import HTTPBadRequest
from falcon.asgi import App, Request, Response
from jsonschema import Draft202012Validator, ValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from referencing import Registry, Resource

from bench.bare import PATH, TAKEN, serve
from exporter.protocol.events import EventKind
from exporter.protocol.schemas import schema_folder
from exporter.server.master import Server

WORKERS = 2
CALLBACKS = Counter("plain_callbacks", "Callbacks taken.", ["event", "to_host"])


class Plain:
    """Parses, validates, counts."""

    def __init__(self) -> None:
        documents = {path.stem: json.loads(path.read_bytes()) for path in schema_folder().glob("*.json")}
        registry: Registry[Any] = Registry().with_resources(
            (document["$id"], Resource.from_contents(document)) for document in documents.values()
        )
        self._validators = {
            kind.callback_event: Draft202012Validator(documents[kind.schema], registry=registry)
            for kind in EventKind
        }

    async def on_post(self, req: Request, resp: Response) -> None:
        """Take a callback."""
        body = await req.get_media()
        for name in ("msg", "source_urls"):
            body[name] = json.loads(body[name])
        try:
            self._validators[body["callback_event"]].validate(body)
        except ValidationError as exc:
            raise HTTPBadRequest(description=exc.message) from exc
        CALLBACKS.labels(body["callback_event"], urlsplit(body["to_url"]).hostname).inc()
        resp.data = TAKEN


class Scrapes:
    """Adds up what the workers counted."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer a scrape."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        resp.data, resp.content_type = generate_latest(registry), CONTENT_TYPE_LATEST


class PlainServer(Server):
    """The exporter's server with two workers."""

    def load_config(self) -> None:
        """Set what differs."""
        super().load_config()
        self.cfg.set("workers", WORKERS)
        self.cfg.set("child_exit", lambda server, worker: mark_process_dead(worker.pid))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    plain: App[Request, Response] = App()
    plain.add_route(PATH, Plain())
    plain.add_route("/metrics", Scrapes())
    serve(plain, PlainServer)
