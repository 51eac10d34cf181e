"""The description of both listeners, made from the schemas, the reasons and the states of the code.

`docs.generate` writes it to docs/openapi.yaml; tests hold real listeners to it, and it to the routes and the
statuses that are in the code.
"""

import json
from typing import Any

import yaml

from exporter import __version__
from exporter.errors import REASONS
from exporter.protocol.events import BY_NAME, EventKind
from exporter.protocol.schemas import SHARED, schema_folder
from exporter.relay import STATES
from exporter.web.operators import MAX_PAGE

CALLBACKS = {"url": "http://127.0.0.1:8314", "description": "The callback listener; faces the internet."}
WEB = {"url": "http://127.0.0.1:10314", "description": "The web listener; for Prometheus and operators."}
SCHEMAS = "#/components/schemas/"
INTRODUCTION = """\
Made by `make docs`. A path of the one listener is 404 on the other.

What is no HTTP/1.1 (400, 414, 426, 431, or 403 for a websocket) is answered in plain text before any of this is
looked at. Any other method than those described is answered 405 with Allow, on the callback listener only where the
path is right; the web listener answers OPTIONS with Allow.
"""
STATUSES = {
    400: "Not JSON, or against its schema; kept for a look.",
    403: "The address may not send, or the signature is wrong, over, or missing where it is required.",
    404: "There is nothing here: the path is another one, or the token is wrong.",
    405: "Not POST.",
    408: "The body did not come within its time, or was cut off.",
    411: "Neither a length nor chunks.",
    413: "The body is too long.",
    415: "The body has a Content-Encoding.",
    429: "The source asks too often: nothing was counted, send it again.",
    503: "The store is down, or too much waits for it: nothing was counted, send it again.",
}
RETRY_AFTER = {"Retry-After": {"description": "After so many seconds.", "schema": {"type": "integer"}}}
ALLOW = {"Allow": {"description": "Methods that are there.", "schema": {"type": "string"}}}
HEADERS = {405: ALLOW, 429: RETRY_AFTER, 503: RETRY_AFTER}
Json = dict[str, Any]


def document() -> Json:
    """Return the description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "css-relay-exporter",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": INTRODUCTION,
        },
        "servers": [CALLBACKS, WEB],
        "security": [{}],
        "paths": {**_callback_paths(), **_web_paths()},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


def text() -> str:
    """Return docs/openapi.yaml."""
    spelled_out = json.loads(json.dumps(document()))  # YAML would write what stands twice as an alias
    lines = yaml.safe_dump(spelled_out, sort_keys=False, allow_unicode=True, width=110)
    return f"# Made by `make docs` from docs/openapi.py and schemas/.\n{lines}"


def _callback_paths() -> Json:
    operation = {
        "summary": "Take a callback.",
        "description": "Answered 200 when it is durable; also if it is a duplicate, or of no use here.",
        "requestBody": {
            "required": True,
            "description": "JSON of at most 64 KiB (`--callback.max-body-bytes`), whatever the Content-Type says.",
            "content": {"application/json": {"schema": _reference("callback")}},
        },
        "responses": {
            "200": _answer("Committed.", _reference("taken")),
            **{
                str(status): _answer(said, _reference("refusal"), HEADERS.get(status))
                for status, said in STATUSES.items()
            },
        },
    }
    token = {
        "name": "token",
        "in": "path",
        "required": True,
        "description": "One of `--callback.token-file`.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~-]+$"},
    }
    plain = {"post": operation | {"operationId": "take"}}
    secret = {"post": operation | {"operationId": "take_with_token", "parameters": [token]}}
    return {
        "/callbacks": {"servers": [CALLBACKS], "description": "Without tokens.", **plain},
        "/callbacks/{token}": {
            "servers": [CALLBACKS],
            "description": "With tokens; the other is 404 then.",
            **secret,
        },
    }


def _web_paths() -> Json:
    page = {"text/html; charset=utf-8": {"schema": {"type": "string"}}}
    json_error = {"application/json": {"schema": _reference("error")}}  # where the account is no number
    plain = {"text/plain; charset=utf-8": {"schema": {"type": "string"}}}
    scrape = {
        "text/plain; version=0.0.4; charset=utf-8": {"schema": {"type": "string"}},
        "application/openmetrics-text; version=1.0.0; charset=utf-8": {"schema": {"type": "string"}},
    }
    appid = _parameter("path", "appid", {"type": "integer", "minimum": 0}, required=True)
    task = _parameter("path", "task_id", {"type": "string", "minLength": 1}, required=True)
    state = _parameter("query", "state", {"type": "string", "enum": list(STATES)})
    limit = _parameter(
        "query", "limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 1000}
    )
    after = _parameter("query", "after", {"type": "integer", "minimum": 0, "maximum": 2**62, "default": 0})
    filters = [
        _parameter("query", name, {"type": "string"})
        for name in ("state", "q", "sort", "order", "page", "refresh")
    ]
    known = {"200": _answer("The task.", _object(task=_reference("task")))}
    return {
        "/": _get(
            "The status page; filters that are malformed are as by default.", {"200": _of(page)}, filters
        ),
        "/tasks/{appid}/{task_id}": _get(
            "The page of a task.",
            {"200": _of(page), "404": _of(page | json_error), "503": _of(page)},
            [appid, task, filters[-1]],
        ),
        "/metrics": _get(
            "A scrape, in the format and encoding that is preferred (`--web.telemetry-path`).",
            {"200": _of(scrape)},
        ),
        "/-/healthy": _get("The process answers.", {"200": _of(plain)}),
        "/-/ready": _get(
            "The store can be written, and a scrape be rendered.", {"200": _of(plain), "503": _of(plain)}
        ),
        "/-/style.css": _get("The pages' stylesheet.", {"200": _of({"text/css; charset=utf-8": {}})}),
        "/-/refresh.js": _get("The pages' script.", {"200": _of({"text/javascript; charset=utf-8": {}})}),
        "/-/icon.svg": _get("The pages' icon.", {"200": _of({"image/svg+xml; charset=utf-8": {}})}),
        "/api/v1/tasks": _get(
            "The tasks known, page by page.",
            {
                "200": _answer("Some tasks.", _reference("tasks")),
                "400": _error("A parameter is malformed."),
                **_UNAVAILABLE,
            },
            [state, limit, after],
        ),
        "/api/v1/tasks/{appid}/{task_id}": _get(
            "One task.", {**known, "404": _error("No such task is known."), **_UNAVAILABLE}, [appid, task]
        ),
    }


def _get(summary: str, responses: Json, parameters: list[Json] | None = None) -> Json:
    challenge = {"WWW-Authenticate": {"description": "Basic.", "schema": {"type": "string"}}}
    denied = {
        "description": "The password is wrong or missing, where `--web.config.file` sets some.",
        "headers": challenge,
    }
    operation = {
        "summary": summary,
        "security": [{}, {"basic": []}],
        "responses": {**responses, "401": denied},
    }
    if parameters:
        operation["parameters"] = parameters
    return {"servers": [WEB], "get": operation}


def _parameter(place: str, name: str, schema: Json, *, required: bool = False) -> Json:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _of(content: Json) -> Json:
    return {"description": "As the path says.", "content": content}


def _answer(said: str, schema: Json, headers: Json | None = None) -> Json:
    answer: Json = {"description": said, "content": {"application/json": {"schema": schema}}}
    return answer | ({"headers": headers} if headers else {})


def _error(said: str, headers: Json | None = None) -> Json:
    return _answer(said, _reference("error"), headers)


_UNAVAILABLE = {
    "503": {
        "description": "The store does not answer.",
        "headers": RETRY_AFTER,
        "content": {"application/json": {"schema": {"$ref": SCHEMAS + "error"}}},
    }
}


def _reference(name: str) -> Json:
    return {"$ref": SCHEMAS + name}


def _object(**properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _schemas() -> Json:
    pointer = {"type": "string", "pattern": "^(/.*)?$"}
    fault = _object(pointer=pointer, message={"type": "string", "minLength": 1})
    faults = {"type": "array", "items": fault, "minItems": 1, "maxItems": 10}
    codes = {"type": "integer", "enum": list(STATUSES)}
    return {
        "taken": _object(code={"const": 0}),
        "refusal": _object(code=codes, reason={"enum": list(REASONS)}, errors=faults),
        "error": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "description": {"type": "string"}},
            "required": ["title"],
        },
        "task": _task(),
        "tasks": _object(
            tasks={"type": "array", "items": _reference("task")}, next={"type": ["integer", "null"]}
        ),
        **_callback_schemas(),
    }


def _task() -> Json:
    text, seconds = {"type": "string"}, {"type": ["number", "null"]}
    file = _object(index=text, started=seconds, duration_seconds={"type": "number"})
    return _object(
        appid={"type": "integer"},
        task_id=text,
        state={"enum": list(STATES)},
        stream_id=text,
        to_host=text,
        to_url=text,
        source_host=text,
        runs={"type": "integer", "minimum": 0},
        inferred={"type": "boolean"},
        started=seconds,
        exited=seconds,
        exit_code={"type": ["string", "null"]},
        exit_message={"type": ["string", "null"]},
        file={"anyOf": [file, {"type": "null"}]},
        last_callback={"type": "number"},
    )


def _callback_schemas() -> Json:
    """Return the schemas of callbacks as they come over the wire, where JSON may be inside a string."""
    names = [*SHARED, *(kind.schema for kind in EventKind)]
    documents = {name: json.loads((schema_folder() / f"{name}.json").read_bytes()) for name in names}
    shared = {f"common.{name}": _wired(schema) for name, schema in documents.pop("common")["$defs"].items()}
    others = {
        "other_event": {
            "description": "An event that is not known: kept for a look.",
            "allOf": [_reference("envelope")],
            "properties": {"callback_event": {"not": {"enum": list(BY_NAME)}}},
        },
        "other_product": {
            "description": "Another product's callback: of no use here.",
            "type": "object",
            "properties": {"event_type": {"type": "integer", "not": {"const": 314}}},
            "required": ["event_type"],
        },
    }
    choices = [*(kind.schema for kind in EventKind), *others]
    events = {name: _wired(schema) for name, schema in documents.items()}
    callback = {"anyOf": [_reference(name) for name in choices]}
    return {"callback": callback, **events, **others, **shared}


def _wired(schema: Any) -> Any:
    """Return a schema with its references led to this document, and with the texts that JSON may be in."""
    if isinstance(schema, list):
        return [_wired(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    wired = {key: _wired(value) for key, value in schema.items() if key not in ("$schema", "$id")}
    if "$ref" in wired:
        wired["$ref"] = _led(wired["$ref"])
    for name in {"msg", "source_urls"} & wired.get("properties", {}).keys():
        wired["properties"][name] = {"anyOf": [wired["properties"][name], {"type": "string"}]}
    return wired


def _led(reference: str) -> str:
    name = reference.removeprefix("urn:css-relay:").replace("#/$defs/", ".")
    return SCHEMAS + name
