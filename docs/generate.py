"""Writes the documentation that is made from the code: `python -m docs.generate`.

docs/metrics.md comes from the catalogue, docs/settings.md from the flags, docs/callbacks.md from the schemas,
docs/openapi.yaml from all of it. The tables and plots of docs/benchmarks.md come from docs/benchmarks.json.
A test fails while a page differs from what is written here.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench import page
from bench.plots import PLOTS
from docs import openapi
from exporter.config.flags import default_text, flags_of
from exporter.config.settings import Settings
from exporter.metrics.catalogue import FAMILIES, PREFIX, Family, Scope, in_scope
from exporter.protocol.events import EventKind
from exporter.protocol.schemas import schema_folder
from exporter.simulator.options import SimulatorSettings

DOCS = Path(__file__).parent

INTRODUCTIONS = {
    Scope.STORE: "Computed from the store at each scrape. `css_relay_tasks` also has the labels of `--metrics.labels`.",
    Scope.LABELLED: (
        "Kept in the store. These families also have the labels of `--metrics.labels` (by default `appid` and `to_host`). "
        "A value that a callback lacks is `_unknown`. Label sets over `--metrics.max-label-sets` share one whose values "
        "are all `_other`. When a label set is first seen, its series appear with the value 0, except those with a code."
    ),
    Scope.FLEET: "Kept in the store. `event` is the name of a known event, or `other`.",
    Scope.TASK: (
        "For at most `--metrics.max-tasks` tasks. Each series also has the labels `appid`, `task_id` and `to_host`. "
        "The series of a task disappear when the task is deleted."
    ),
    Scope.PROCESS: "They start at 0 with each process: sum them over replicas. `process_*` and `python_info` are exposed too.",
}

ONE_REPLICA = "max without (instance, pod) ({})"


def metrics() -> str:
    """Return docs/metrics.md."""
    parts = [
        "# Metrics\n\n<!-- Made by `make docs` from exporter/metrics/catalogue.py. -->\n\n"
        "Every replica on a store exposes the same values for the families of that store. Their counters never decrease, "
        "not even after a restart. Do not sum replicas: take `max without (instance, pod)` of the rate or of the gauge "
        "first, then sum.\n\n"
        "Counters increase immediately. [Durations](fold.md#durations) may be recorded only when `--relay.reorder-window` has "
        "passed; [missing callbacks](fold.md#what-was-missing) always are.\n"
    ]
    for scope in Scope:
        parts.append(f"## Of {scope.value}\n\n{INTRODUCTIONS[scope]}\n")
        rows = [_row(family) for family in in_scope(scope)]
        parts.append(
            "| metric | type | labels | meaning | example query |\n| --- | --- | --- | --- | --- |\n"
            + "\n".join(rows)
            + "\n"
        )
    parts.append("## Buckets\n\n| histogram | upper bounds |\n| --- | --- |\n" + "\n".join(_buckets()) + "\n")
    return "\n".join(parts)


def settings() -> str:
    """Return docs/settings.md."""
    rows = [
        f"| `--{flag.name}` | `{flag.variable}` | {_code(default_text(Settings, field))} | {flag.help} |"
        for field, flag in flags_of(Settings).items()
    ]
    return (
        "# Settings\n\n<!-- Made by `make docs` from exporter/config/settings.py. -->\n\n"
        "A flag has priority over its environment variable, and that over the default. Flags are written `--flag value` or "
        "`--flag=value`. Durations are written like `90s`, `3m`, `1h30m` or `31d`, lists with commas. A flag or a variable "
        "beginning with `CSS_RELAY_` that is unknown or malformed ends the start with status 2 and a message that names it.\n\n"
        "| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n\n"
        "## `simulate`\n\n<!-- From exporter/simulator/options.py. -->\n\n"
        "Flags only, no environment variables. A flag with the default `false` is `true` if it is given without a value. See [the simulator](simulator.md).\n\n"
        "| flag | default | meaning |\n| --- | --- | --- |\n" + "\n".join(_simulation_rows()) + "\n"
    )


def _simulation_rows() -> Iterator[str]:
    for field, flag in flags_of(SimulatorSettings).items():
        yield f"| `--{flag.name}` | {_code(default_text(SimulatorSettings, field))} | {flag.help} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def callbacks() -> str:
    """Return docs/callbacks.md."""
    documents = {path.stem: json.loads(path.read_bytes()) for path in schema_folder().glob("*.json")}
    parts = [
        "# Callbacks\n\n<!-- Made by `make docs` from schemas/ and exporter/protocol/events.py. -->\n\n"
        "A callback is validated against the JSON Schema file of its event in `schemas/`, after the JSON strings in `msg` and "
        "`source_urls` are decoded. Other fields are allowed; they are counted in `css_relay_unknown_fields_total`.\n",
        "## Every callback\n",
        _fields(documents["envelope"]["properties"], documents),
    ]
    for kind in EventKind:
        document = documents[kind.schema]
        msg = document["properties"]["msg"]
        fields = msg.get("properties") or _resolved(msg, documents).get("properties", {})
        parts.append(
            f"## {kind.callback_event}\n\n{document['description']} Schema: `schemas/{kind.schema}.json`. "
            f"Counted in `{PREFIX}{kind.counter}`; on the pages: {kind.description}.\n"
        )
        parts.append(
            _fields(fields, documents, prefix="msg.")
            if fields
            else "The vendor does not document its `msg`.\n"
        )
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "metrics.md": metrics,
    "settings.md": settings,
    "callbacks.md": callbacks,
    "openapi.yaml": openapi.text,
    "benchmarks.md": page.text,
    **{f"pictures/{name}": partial(page.plot, name) for name in PLOTS},
}


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" + _values(family) for label in family.labels) or ""
    query = f"`{_example(family)}`"
    return f"| `{family.full_name}` | {family.kind} | {labels} | {family.help} | {query} |"


def _values(family: Family) -> str:
    if family.limit:
        return f" (at most {family.limit})"
    return " = " + ", ".join(family.values) if family.values else ""


def _example(family: Family) -> str:
    """Return an example query: one replica for families of the store, the sum of all for those of processes."""
    name = family.full_name
    shared = "{}" if family.scope is Scope.PROCESS else ONE_REPLICA
    if family.kind == "histogram":
        buckets = shared.format(f"rate({name}_bucket[5m])")
        return f"histogram_quantile(0.95, sum by (le) ({buckets}))"
    inner = shared.format(f"rate({name}[5m])" if family.kind == "counter" else name)
    if family.scope is Scope.TASK or (family.kind == "gauge" and not family.labels):
        return inner if family.scope is not Scope.PROCESS else f"sum({inner})"
    by = f" by ({family.labels[-1]})" if family.labels else ""
    return f"{'max' if name.endswith('timestamp_seconds') else 'sum'}{by} ({inner})".replace("sum (", "sum(")


def _buckets() -> Iterator[str]:
    for family in FAMILIES:
        if family.buckets:
            yield f"| `{family.full_name}` | {', '.join(f'{edge:g}' for edge in family.buckets)} |"


def _fields(fields: dict[str, Any], documents: dict[str, Any], prefix: str = "") -> str:
    rows = []
    for name, field in fields.items():
        resolved = _resolved(field, documents)
        example = json.dumps(resolved["examples"][0]) if "examples" in resolved else ""
        rows.append(f"| `{prefix}{name}` | {resolved['description']} | {f'`{example}`' if example else ''} |")
    return "| field | meaning | example |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def _resolved(field: dict[str, Any], documents: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in field:
        return field
    base, _, pointer = field["$ref"].partition("#")
    target: dict[str, Any] = next(d for d in documents.values() if d["$id"] == base)
    for step in pointer.split("/")[1:]:
        target = target[step]
    return target


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
