"""The dashboards are what Grafana's own types say a dashboard is.

The types are TypeScript, published by Grafana; a JSON Schema is made of them once and kept in pytest's cache.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft7Validator

from tests.dashboards import DASHBOARDS, panels
from tests.npm import installed, npm

TYPES = "node_modules/@grafana/schema/dist/types/raw/dashboard/x/dashboard_types.gen.d.ts"


@pytest.fixture(scope="session")
def validator(pytestconfig: pytest.Config) -> Draft7Validator:
    """What holds a dashboard against Grafana's types."""
    folder = installed(pytestconfig)
    schema = folder / "dashboard.schema.json"
    if not schema.exists():
        made = folder / "unfinished.json"
        generator = ["ts-json-schema-generator", "--path", TYPES, "--type", "Dashboard", "--no-type-check"]
        npm(folder, "exec", "--", *generator, "--additional-properties", "--out", made.name)
        made.rename(schema)
    return Draft7Validator(json.loads(schema.read_bytes()))


def faults(validator: Draft7Validator, dashboard: dict[str, Any]) -> list[str]:
    """Return where a dashboard is not one, and why."""
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(dashboard)]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_one(validator: Draft7Validator, name: str) -> None:
    """By the types of the Grafana that is named in tests/schema/package.json."""
    assert faults(validator, DASHBOARDS[name]) == []


PLANTED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a version that is text": lambda d: d.update(schemaVersion="41"),
    "a refresh that is a number": lambda d: d.update(refresh=30),
    "a place that is text": lambda d: panels(d)[0]["gridPos"].update(w="4"),
    "a panel without a type": lambda d: panels(d)[0].pop("type"),
    "a mode of thresholds that is not there": lambda d: panels(d)[0]["fieldConfig"]["defaults"][
        "thresholds"
    ].update(mode="relative"),
    "a transformation without a name": lambda d: next(p for p in panels(d) if p["type"] == "table")[
        "transformations"
    ][0].pop("id"),
    "a kind of variable that is not there": lambda d: d["templating"]["list"][0].update(type="databank"),
    "a link without a title": lambda d: d["links"][0].pop("title"),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(
    validator: Draft7Validator, plant: Callable[[dict[str, Any]], object]
) -> None:
    """So that no fault means something."""
    dashboard = copy.deepcopy(DASHBOARDS["relay-overview.json"])
    plant(dashboard)
    assert faults(validator, dashboard)
