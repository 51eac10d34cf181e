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
    """Return the errors in a dashboard, with their places."""
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(dashboard)]


def test_every_dashboard_is_one(validator: Draft7Validator) -> None:
    """By the types of the Grafana version in tests/schema/package.json."""
    assert {name: found for name, d in DASHBOARDS.items() if (found := faults(validator, d))} == {}


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


def test_a_planted_fault_is_found(validator: Draft7Validator) -> None:
    """The check itself can fail."""
    missed = []
    for name, plant in PLANTED.items():
        dashboard = copy.deepcopy(DASHBOARDS["relay-overview.json"])
        plant(dashboard)
        if not faults(validator, dashboard):
            missed.append(name)
    assert missed == []
