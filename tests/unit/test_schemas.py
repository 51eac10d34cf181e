"""The schema files: self-documenting, and with the same results in both validators."""

import json
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from referencing import Registry, Resource

from exporter.protocol.events import EventKind
from exporter.protocol.schemas import SHARED, Schemas, schema_folder
from tests.unit.histories import max_examples

DOCUMENTS = {path.stem: json.loads(path.read_bytes()) for path in schema_folder().glob("*.json")}
SCHEMAS = Schemas()
REGISTRY: Registry[Any] = Registry().with_resources(
    (document["$id"], Resource.from_contents(document)) for document in DOCUMENTS.values()
)
SLOW = {
    kind: jsonschema.Draft202012Validator(DOCUMENTS[kind.schema], registry=REGISTRY) for kind in EventKind
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["", "0", "-1", "12", "12\n", "1" * 17, "x" * 257, "é", "http://a/b?c=d", "١٢"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
messages = st.dictionaries(
    st.sampled_from(
        [
            "task_start_time",
            "url",
            "index",
            "duration",
            "code",
            "message",
            "task_exit_time",
            "type",
            "AlarmType",
        ]
    ),
    values,
    max_size=5,
)
FIELDS = sorted(SCHEMAS.envelope.fields)
bodies = st.fixed_dictionaries(
    {
        "event_type": st.just(314),
        "appid": scalars | st.just(4),
        "task_id": scalars | st.just("t"),
        "msg": messages | values,
    }
) | st.dictionaries(st.sampled_from(FIELDS), values)


@given(kind=st.sampled_from(list(EventKind)), body=bodies)
@max_examples(250)
def test_both_validators_give_the_same_verdict(kind: EventKind, body: dict[str, Any]) -> None:
    """The fast one decides, the other one explains. If they differed, a rejection would have no reason."""
    body = orjson.loads(orjson.dumps({**body, "callback_event": kind.callback_event}))
    schema = SCHEMAS.events[kind]
    slow = SLOW[kind].is_valid(body)
    assert schema.is_valid(body) == slow
    assert bool(schema.explain(body)) == (not slow)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_schema_is_titled_described_and_valid(name: str) -> None:
    """A reader needs no other document."""
    document = DOCUMENTS[name]
    jsonschema.Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["title"]
    assert document["description"]


def test_every_field_is_titled_and_described() -> None:
    """The description has the unit, if there is one."""
    for name, document in DOCUMENTS.items():
        for path, field in _fields(document):
            if "$ref" not in field and "const" not in field and path[-1] != "msg":
                assert field.get("title"), (name, path)
                assert field.get("description"), (name, path)


@pytest.mark.parametrize("kind", EventKind, ids=lambda kind: kind.name)
def test_every_example_is_valid(kind: EventKind) -> None:
    """An example that is invalid under its own schema would mislead."""
    examples = DOCUMENTS[kind.schema]["examples"]
    assert examples
    for example in examples:
        assert SCHEMAS.events[kind].is_valid(example)


def test_every_schema_file_is_used() -> None:
    """A schema without a row in the event table would be unused."""
    assert set(DOCUMENTS) == {*SHARED, *(kind.schema for kind in EventKind)}


def _fields(node: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    if not isinstance(node, dict):
        return []
    found = [((*path, name), field) for name, field in node.get("properties", {}).items()]
    for key in ("$defs", "properties"):
        for name, inner in node.get(key, {}).items():
            found += _fields(inner, (*path, name))
    return found
