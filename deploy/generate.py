"""Writes what is made for Kubernetes: `python -m deploy.generate`.

The values schema of the Helm chart gets its settings from the exporter's flags, and deploy/kubernetes/ is
rendered from the chart, for those without Helm. A test fails while a file differs from what is written here.
"""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helm_python import Chart

from exporter.config.flags import (
    Flag,
    flags_of,
    parse_address,
    parse_count,
    parse_duration,
    parse_list,
    parse_networks,
    parse_path,
    parse_switch,
)
from exporter.config.settings import Settings
from exporter.metrics.catalogue import LABEL_CHOICES

FOLDER = Path(__file__).parent
CHART = FOLDER / "helm" / "css-relay-exporter"
SCHEMA = CHART / "values.schema.json"
MANIFESTS = FOLDER / "kubernetes"
NAME = "css-relay"

Rendered = dict[str, str]
Form = dict[str, Any]

LIST: Form = {"type": ["string", "array"], "items": {"type": ["string", "integer"]}}
COUNT: Form = {"type": "integer", "minimum": 1, "maximum": 1_000_000_000}
FORMS: Mapping[object, Form] = {
    parse_address: {"type": "string", "pattern": ":[1-9][0-9]{0,4}$"},
    parse_count: COUNT,
    parse_duration: {"type": "string", "pattern": "^([0-9]+([.][0-9]+)?(ms|s|m|h|d|w))+$"},
    parse_list: LIST,
    parse_networks: LIST,
    parse_path: {"type": "string", "pattern": "^/."},
    parse_switch: {"type": "boolean"},
}
#: Of flags that mean more to the chart than to the exporter, or have a form of their own.
SPECIAL: Mapping[str, Form] = {
    "callback.rate-limit": {"anyOf": [{"const": "off"}, COUNT]},
    "metrics.labels": {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"enum": list(LABEL_CHOICES)}}]
    },
    # The file lies on the volume, and a password belongs into a Secret.
    "store.url": {
        "type": "string",
        "pattern": "^(sqlite:/data/.+|(valkeys?|rediss?|valkeys?-cluster)://[^@]+)$",
    },
}

#: What is plain in deploy/kubernetes/: one replica on an SQLite file, behind a token.
PLAIN_VALUES: Form = {
    "secrets": {"tokens": {"name": f"{NAME}-tokens"}},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
}
#: Those of kinds that only the Prometheus operator knows.
OPERATOR = ("servicemonitor.yaml", "prometheusrule.yaml")


def form(flag: Flag) -> Form:
    """Return the JSON Schema of a flag's value."""
    known = SPECIAL.get(flag.name) or FORMS.get(flag.parse)
    if known is None:
        # A reader made by one_of() keeps its choices to itself.
        choices = inspect.getclosurevars(flag.parse).nonlocals.get("choices") if flag.parse is not str else ()
        known = {"enum": list(choices)} if choices else {"type": "string"}
    return {"description": flag.help, **known}


def schema() -> str:
    """Return the values schema, its settings as the flags are now."""
    document = json.loads(SCHEMA.read_text())
    document["properties"]["settings"]["properties"] = {
        flag.name: form(flag) for flag in flags_of(Settings).values()
    }
    return json.dumps(document, indent=2) + "\n"


def render(values: Form, name: str = NAME) -> Rendered:
    """Return what the chart makes of some values, by the name of the template; what is empty is left out."""
    with Chart.load(CHART) as chart:
        rendered = chart.render(values, name=name, namespace=NAME)
    return {Path(path).name: text.strip() + "\n" for path, text in rendered.items() if text.strip()}


def manifests() -> Rendered:
    """Return the plain manifests, by their path in deploy/kubernetes/."""
    made = {}
    for name, text in render(PLAIN_VALUES).items():
        if name.endswith(".yaml"):
            # Nobody but Helm may take them for its own.
            plain = re.sub(r"^ +(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*\n", "", text, flags=re.M)
            path = f"prometheus-operator/{name}" if name in OPERATOR else name
            made[path] = f"# Made by `make chart` from deploy/helm/css-relay-exporter.\n{plain}"
    return made


def files() -> dict[Path, str]:
    """Return everything that is made, by its path."""
    return {SCHEMA: schema()} | {MANIFESTS / path: text for path, text in manifests().items()}


if __name__ == "__main__":
    SCHEMA.write_text(schema())  # first, for it has a say in what is rendered
    for path, text in files().items():
        path.write_text(text)
