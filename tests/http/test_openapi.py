"""docs/openapi.yaml matches the listeners: their answers are as described, and all answers are described.

schemathesis generates valid and invalid requests. `OPENAPI_EXAMPLES` sets the number for each operation and
kind; `make fuzz` runs more than the tests.
"""

import ast
import inspect
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import falcon
import pytest
import schemathesis
import yaml
from falcon.inspect import inspect_routes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from exporter.errors import REASONS
from exporter.metrics.process import Telemetry
from exporter.relay import FoldSettings
from exporter.web.operators import operator_app
from exporter.web.pages.handler import ExporterInfo, Pages
from tests.support import HANG_SECONDS, SAMPLES, Exporter, request, running, sample

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "15"))
LISTENERS = {":8314": "callbacks", ":10314": "web"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
TOKEN = "openapi-token"


def listener_of(path: str) -> str:
    """Return the listener of a path of the document."""
    url = DOCUMENT["paths"][path]["servers"][0]["url"]
    return LISTENERS[re.search(r":\d+$", url)[0]]  # type: ignore[index]


def statuses_of(listener: str) -> set[int]:
    """Return every status that the document lists for a listener."""
    operations = (
        operation
        for path, item in DOCUMENT["paths"].items()
        if listener_of(path) == listener
        for name, operation in item.items()
        if name in ("get", "post")
    )
    return {int(status) for operation in operations for status in operation["responses"]}


def paths_and_modes() -> list[tuple[str, GenerationMode]]:
    """Return every path with each kind of request; an invalid request needs a body or a parameter."""
    return [
        (path, mode)
        for path, item in DOCUMENT["paths"].items()
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or "post" in item or "parameters" in item["get"]
    ]


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory, anyone: Exporter) -> Iterator[dict[str, Exporter]]:
    """Yield an exporter with a token and one without, by path."""
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").write_text(TOKEN)
    (folder / "tokens").chmod(0o600)
    with running(folder, callback__token_file="tokens") as with_token:
        for name in ("documented/task_start", "derived/task_exit_full", "documented/vod_source_file_start"):
            anyone.post(sample(name))
        yield {"/callbacks/{token}": with_token, "": anyone}
        assert "Traceback" not in with_token.log


@pytest.mark.parametrize(
    ("path", "mode"), paths_and_modes(), ids=lambda value: getattr(value, "value", value)
)
def test_every_answer_is_described(exporters: dict[str, Exporter], path: str, mode: GenerationMode) -> None:
    """Its status, type, headers and body; a callback that violates the description is rejected."""
    exporter = exporters.get(path, exporters[""])
    schema = schemathesis.openapi.from_dict(DOCUMENT | {"paths": {path: DOCUMENT["paths"][path]}})
    base = f"http://127.0.0.1:{exporter.ports[listener_of(path)]}"
    for found in schema.get_all_operations():
        operation = found.ok()
        strategy = operation.as_strategy(generation_mode=mode)
        # A generated token is wrong; TOKEN reaches the handler behind it.
        tokens = st.sampled_from([TOKEN, None]) if "{token}" in path else st.none()

        @given(case=strategy, token=tokens)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def check(case: schemathesis.Case, token: str | None) -> None:
            if token is not None:
                case.path_parameters = {"token": token}
            response = case.call_and_validate(base_url=base, checks=CHECKS, timeout=HANG_SECONDS)
            if path == "/callbacks" and mode is GenerationMode.NEGATIVE:
                assert 400 <= response.status_code < 500

        check()


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_an_undescribed_method_is_answered_405(exporters: dict[str, Exporter], path: str) -> None:
    """With Allow; the web listener answers OPTIONS with 200 and Allow."""
    exporter, listener = exporters.get(path, exporters[""]), listener_of(path)
    concrete_path = path.format(token=TOKEN, appid=1, task_id="x")
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        if method.lower() not in DOCUMENT["paths"][path]:
            status, headers, _ = request(exporter.ports[listener], method, concrete_path)
            assert status == (200 if (listener, method) == ("web", "OPTIONS") else 405), method
            assert {"callbacks": "POST", "web": "GET"}[listener] in headers["allow"], method


def test_exactly_the_routes_of_the_code_are_described() -> None:
    """The routes of Falcon and the paths of the document are the same."""
    none = cast(Any, None)
    pages = Pages(
        store=none,
        telemetry=Telemetry(version="0", revision="0"),
        fold_settings=FoldSettings(),
        info=ExporterInfo("", "", "/metrics"),
    )
    app = operator_app(
        store=none,
        ingest=none,
        scraper=none,
        fold_settings=FoldSettings(),
        pages=pages,
        telemetry_path="/metrics",
    )
    routed = {re.sub(r":\w+}", "}", route.path) for route in inspect_routes(app)}
    assert routed == {path for path in DOCUMENT["paths"] if listener_of(path) == "web"}
    assert {path for path in DOCUMENT["paths"] if listener_of(path) == "callbacks"} == {
        "/callbacks",
        "/callbacks/{token}",
    }


def _rejections() -> Iterator[tuple[int, str]]:
    """Yield the status and the reason of every CallbackError in the code."""
    for path in sorted((ROOT / "exporter").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CallbackError":
                status, reason = node.args[:2]
                assert isinstance(status, ast.Constant), ast.unparse(node)
                assert isinstance(reason, ast.Constant), ast.unparse(node)
                yield int(cast(Any, status.value)), str(reason.value)


def test_exactly_the_rejections_of_the_code_are_described() -> None:
    """Each status and each reason with which a callback can be rejected."""
    found = set(_rejections())
    assert {status for status, _ in found} | {200} == statuses_of("callbacks")
    assert {reason for _, reason in found} == set(REASONS)


def test_exactly_the_errors_of_the_web_listener_are_described() -> None:
    """Errors by the class of Falcon, statuses set by the code, and 401 of basic authentication."""
    found = {200, 401, 404, 405}
    for path in (ROOT / "exporter/web").rglob("*.py"):
        text = path.read_text()
        for name in re.findall(r"falcon\.(HTTP\w+)\(", text):
            kind = getattr(falcon, name)
            found.add(int(kind(*([None] * _required_parameters(kind))).status[:3]))
        found |= {
            int(status) for status in re.findall(r"(?:resp\.status.*?= \(?\s*\"|return )([45]\d\d)\b", text)
        }
    assert found - {405} == statuses_of("web")


def _required_parameters(kind: type) -> int:
    parameters = list(inspect.signature(kind).parameters.values())
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def test_every_sample_matches_the_callback_schema() -> None:
    """The documented callbacks are valid by the schema of the document."""
    schema = {"$ref": "#/components/schemas/callback", "components": DOCUMENT["components"]}
    validator = Draft202012Validator(schema)
    for path in sorted(SAMPLES.glob("*/*.json")):
        assert list(validator.iter_errors(json.loads(path.read_text()))) == [], path.stem
