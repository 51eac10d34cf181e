"""The plain way to count callbacks: falcon, jsonschema, and the multiprocess mode of prometheus_client.

Nothing is durable, and a redelivery is counted again. `python -m bench.plain` accepts the flags of
`css-relay-exporter serve`. The settings of gunicorn are those of the exporter, except that there are two
workers, as the multiprocess mode allows. The validators are created once, as the documentation of jsonschema
recommends.
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

from bench.bare import ACCEPTED, PATH, serve
from exporter.protocol.events import EventKind
from exporter.protocol.schemas import schema_folder
from exporter.server.master import Server

WORKERS = 2
CALLBACKS = Counter("plain_callbacks", "Accepted callbacks.", ["event", "to_host"])


class PlainHandler:
    """A handler that parses, validates and counts a callback."""

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
        """Validate and count a callback."""
        body = await req.get_media()
        for name in ("msg", "source_urls"):
            body[name] = json.loads(body[name])
        try:
            self._validators[body["callback_event"]].validate(body)
        except ValidationError as exc:
            raise HTTPBadRequest(description=exc.message) from exc
        CALLBACKS.labels(body["callback_event"], urlsplit(body["to_url"]).hostname).inc()
        resp.data = ACCEPTED


class MetricsHandler:
    """A handler for `/metrics` that sums the counters of the workers."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer a scrape."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        resp.data, resp.content_type = generate_latest(registry), CONTENT_TYPE_LATEST


class PlainServer(Server):
    """The exporter's server with two workers."""

    def load_config(self) -> None:
        """Set the number of workers and the clean-up of an ended worker."""
        super().load_config()
        self.cfg.set("workers", WORKERS)
        self.cfg.set("child_exit", lambda server, worker: mark_process_dead(worker.pid))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    plain: App[Request, Response] = App()
    plain.add_route(PATH, PlainHandler())
    plain.add_route("/metrics", MetricsHandler())
    serve(plain, PlainServer)
