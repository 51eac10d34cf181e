"""The compiled schemas: validate callbacks and explain rejections.

`jsonschema_rs` validates, because it takes microseconds. `jsonschema` explains a rejection, because its
errors name what was expected. A test checks that both give the same result.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import jsonschema
import jsonschema_rs
import orjson
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource

from exporter.errors import ExporterError, Fault
from exporter.protocol.events import EventKind

#: An answer lists no more errors than this.
MAX_FAULTS = 10
#: Deeper levels are cut off before `jsonschema` explains a body: no schema describes them, and it fails on a
#: body with a thousand levels.
MAX_EXPLAINED_LEVELS = 16

#: The schema files that belong to no single event.
SHARED = ("common", "envelope")


class BrokenSchema(ExporterError):  # noqa: N818
    """A schema file that can't be used or contradicts the event table; the text names it, or its folder."""


class Schema:
    """A compiled schema.

    Args:
        name: name of the schema file, without `.json`.
        documents: every schema document, by that name.
    """

    def __init__(self, name: str, documents: Mapping[str, Any]) -> None:
        registry: Registry[Any] = Registry().with_resources(
            (document["$id"], Resource.from_contents(document)) for document in documents.values()
        )
        document = documents[name]
        self._explainer = jsonschema.Draft202012Validator(document, registry=registry)
        self._validator = jsonschema_rs.Draft202012Validator(
            document, registry=jsonschema_rs.Registry([(d["$id"], d) for d in documents.values()])
        )
        self.is_valid = self._validator.is_valid
        self.fields = frozenset(_properties(document, documents))
        properties = document.get("properties", {})
        #: The only valid value of `callback_event`; empty if the schema allows any.
        self.event: str = properties.get("callback_event", {}).get("const", "")
        msg = properties.get("msg", {})
        self.msg_fields = frozenset(_properties(msg, documents))

    def explain(self, body: object) -> tuple[Fault, ...]:
        """Return the errors of `body`, empty if it is valid; they quote no value, as it may be a secret."""
        faults: dict[Fault, None] = {}  # an ordered set: alternatives of one field give equal errors
        for error in self._explainer.iter_errors(_pruned(body, MAX_EXPLAINED_LEVELS)):
            for fault in _faults(error):
                faults.setdefault(fault)
            if len(faults) >= MAX_FAULTS:
                break
        return tuple(faults)[:MAX_FAULTS]


class Schemas:
    """All schemas, compiled once.

    Args:
        folder: folder of the schema files; by default the one installed with the program.

    Raises:
        BrokenSchema: a file is missing, is not JSON or is not a schema, or it contradicts the event table.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or schema_folder()
        names = (*SHARED, *(kind.schema for kind in EventKind))
        documents = {name: _read(folder / f"{name}.json") for name in names}
        try:
            self.envelope = Schema("envelope", documents)
            self.events = {kind: Schema(kind.schema, documents) for kind in EventKind}
        except Exception as exc:  # the two libraries raise many types
            raise BrokenSchema(f"the schemas in {folder} can't be compiled: {exc}") from exc
        for kind, schema in self.events.items():
            if schema.event != kind.callback_event:
                raise BrokenSchema(
                    f"{folder / kind.schema}.json: expected callback_event to be {kind.callback_event}, "
                    f"not {schema.event or 'anything'}"
                )
            unknown = {*kind.text_fields, *filter(None, [kind.time_field])} - schema.msg_fields
            if unknown:
                raise BrokenSchema(
                    f"{folder / kind.schema}.json: msg has no field {', '.join(sorted(unknown))}, "
                    f"which the row of {kind.callback_event} names"
                )


def schema_folder() -> Path:
    """Return the folder of the schema files: inside the installed package, or next to it in a checkout."""
    inside = Path(str(files("exporter"))) / "schemas"
    return inside if inside.is_dir() else inside.parent.parent / "schemas"


def _read(path: Path) -> dict[str, Any]:
    try:
        document = orjson.loads(path.read_bytes())
        jsonschema.Draft202012Validator.check_schema(document)
    except (OSError, orjson.JSONDecodeError, jsonschema.SchemaError) as exc:
        raise BrokenSchema(f"schema file {path}: {exc}") from exc
    if not isinstance(document, dict):
        raise BrokenSchema(f"schema file {path}: expected a JSON object")
    return document


def _properties(document: Mapping[str, Any], documents: Mapping[str, Any]) -> Iterator[str]:
    yield from document.get("properties", {})
    reference = document.get("$ref")
    if reference:
        base, _, pointer = reference.partition("#")
        target = next(d for d in documents.values() if d["$id"] == base)
        for step in pointer.split("/")[1:]:
            target = target[step]
        yield from _properties(target, documents)


def _pruned(value: Any, levels: int) -> Any:
    """Return `value` without the levels deeper than `levels`."""
    if isinstance(value, dict):
        return {name: _pruned(item, levels - 1) for name, item in value.items()} if levels else {}
    if isinstance(value, list):
        return [_pruned(item, levels - 1) for item in value] if levels else []
    return value


def _faults(error: ValidationError) -> Iterator[Fault]:
    # A missing field has no place of its own in the body: point to where it should be.
    if error.validator == "required":
        for name in cast("list[str]", error.validator_value):
            if name not in cast(Any, error.instance):
                yield Fault(_pointer([*error.absolute_path, name]), "is missing")
    else:
        yield Fault(_pointer(error.absolute_path), _expectation(error))


def _expectation(error: ValidationError) -> str:
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    wanted = cast(Any, error.validator_value)
    if error.validator == "anyOf" and _only_require_fields(wanted):
        names = " or ".join(alternative["required"][0] for alternative in wanted)
        return f"expected one of the fields {names}"
    if error.validator == "type":
        names = wanted if isinstance(wanted, str) else " or ".join(wanted)
        return f"expected {names}, not {_kind(error.instance)}"
    # The description of a field is the error message: it states what is valid.
    return f"expected: {schema.get('description', wanted)}"


def _only_require_fields(alternatives: Iterable[Any]) -> bool:
    return all(set(alternative) == {"required"} for alternative in alternatives)


def _kind(value: object) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return kinds.get(type(value), "null")


def _pointer(path: Iterable[str | int]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
