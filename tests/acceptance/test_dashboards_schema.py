"""The dashboards are valid according to Grafana's own types."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft7Validator

from tests.dashboards import DASHBOARDS, panels
from tests.npm import dashboard_schema


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    """A validator with Grafana's types."""
    return Draft7Validator(json.loads(dashboard_schema().read_bytes()))


def faults(validator: Draft7Validator, dashboard: dict[str, Any]) -> list[str]:
    """Return the errors of a dashboard, with their JSON paths."""
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(dashboard)]


def test_every_dashboard_is_valid(validator: Draft7Validator) -> None:
    """It is valid by the types of the Grafana version in tests/schema/package.json."""
    assert {name: found for name, d in DASHBOARDS.items() if (found := faults(validator, d))} == {}


PLANTED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a version that is text": lambda d: d.update(schemaVersion="41"),
    "a refresh that is a number": lambda d: d.update(refresh=30),
    "a position that is text": lambda d: panels(d)[0]["gridPos"].update(w="4"),
    "a panel without a type": lambda d: panels(d)[0].pop("type"),
    "an unknown mode of thresholds": lambda d: panels(d)[0]["fieldConfig"]["defaults"]["thresholds"].update(
        mode="relative"
    ),
    "a transformation without a name": lambda d: next(p for p in panels(d) if p["type"] == "table")[
        "transformations"
    ][0].pop("id"),
    "an unknown kind of variable": lambda d: d["templating"]["list"][0].update(type="databank"),
    "a link without a title": lambda d: d["links"][0].pop("title"),
}


def test_a_planted_fault_is_found(validator: Draft7Validator) -> None:
    """Each of these faults is reported, so the check above can fail."""
    missed = []
    for name, plant in PLANTED.items():
        dashboard = copy.deepcopy(DASHBOARDS["relay-overview.json"])
        plant(dashboard)
        if not faults(validator, dashboard):
            missed.append(name)
    assert missed == []
