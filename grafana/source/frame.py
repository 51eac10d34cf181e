"""The parts that every dashboard has: variables, links, rows, numbered panels, and the fields for an import."""

import json
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from grafana.source.panels import SOURCE

OLDEST_GRAFANA = "11.0.0"
TITLES = {
    "css-relay-overview": "Relay overview",
    "css-relay-task": "Relay task",
    "css-relay-health": "Exporter health",
}

#: The name of the data source input that Grafana asks for when a file is imported by hand.
INPUT = "DS_PROMETHEUS"

#: A row: its title, and its panels from left to right.
Row = tuple[str, Sequence[Any]]


def source() -> build.DatasourceVariable:
    """Return the variable that every query takes its data source from.

    An import by hand replaces the input's name by the data source chosen there. Provisioning leaves the name. It is
    not the name of a data source, so Grafana uses its first Prometheus instead.
    """
    current = dashboard.VariableOption(text=f"${{{INPUT}}}", value=f"${{{INPUT}}}")
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus").current(current)


def several(name: str, query: str, *, everything: str, label: str | None = None) -> build.QueryVariable:
    """Return a variable with multiple choice.

    Args:
        everything: the regular expression for "All"; `.*` also matches series without the label.
    """
    variable = _query(name, query, label or name).multi(True).include_all(True).all_value(everything)
    return variable.current(dashboard.VariableOption(text=["All"], value=["$__all"]))


def one(name: str, query: str, label: str) -> build.QueryVariable:
    """Return a variable with a single choice."""
    return _query(name, query, label).multi(False)


def unseen(name: str, query: str, label: str) -> build.QueryVariable:
    """Return a hidden variable that holds all values of its query."""
    variable = (
        _query(name, query, label).multi(True).include_all(True).hide(dashboard.VariableHide.HIDE_VARIABLE)
    )
    return variable.current(dashboard.VariableOption(text=["All"], value=["$__all"]))


def assemble(
    uid: str,
    description: str,
    *,
    variables: Sequence[Any],
    links: Sequence[str],
    rows: Sequence[Row],
    since: str,
) -> str:
    """Return a dashboard as the text of its JSON file.

    Args:
        links: the uids of the dashboards that it links to.
        since: the start of its default time range.
    """
    whole = build.Dashboard(TITLES[uid]).uid(uid).description(description).tags(["css-relay"]).readonly()
    whole.time(since, "now").refresh("30s").timezone("browser").tooltip(
        dashboard.DashboardCursorSync.CROSSHAIR
    )
    whole.variables([source(), *variables]).links([_link(target) for target in links])
    for title, panels in rows:
        whole.with_row(build.Row(title))
        for panel in panels:
            whole.with_panel(panel)
    built = whole.build()
    built.annotations = dashboard.AnnotationContainer(list_val=[])
    _number(built.panels or [])
    document: dict[str, Any] = json.loads(json.dumps(built, cls=JSONEncoder))
    return json.dumps(_requirements(document) | document, indent=2) + "\n"


def _number(panels: Sequence[Any]) -> None:
    """Give every panel its id and every query its letter; Grafana refers to them by these."""
    for number, panel in enumerate(panels, start=1):
        panel.id_val = number
        for letter, target in zip(ascii_uppercase, getattr(panel, "targets", None) or (), strict=False):
            target.ref_id = letter


def _query(name: str, query: str, label: str) -> build.QueryVariable:
    variable = build.QueryVariable(name).label(label).query(query).datasource(SOURCE)
    return variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        dashboard.VariableSort.NATURAL_ASC
    )


def _link(uid: str) -> build.DashboardLink:
    link = build.DashboardLink(TITLES[uid]).type(dashboard.DashboardLinkType.LINK).url(f"/d/{uid}")
    return link.icon("dashboard").include_vars(True).keep_time(True)


def _requirements(document: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs and requirements that Grafana checks when the file is imported by hand."""
    kinds = sorted({panel["type"] for panel in document["panels"]} - {"row"})
    asked = {
        "name": INPUT,
        "label": "Prometheus",
        "description": "The Prometheus that scrapes the exporter.",
        "type": "datasource",
        "pluginId": "prometheus",
        "pluginName": "Prometheus",
    }
    needs = [
        ("grafana", "grafana", "Grafana", OLDEST_GRAFANA),
        ("datasource", "prometheus", "Prometheus", "1.0.0"),
    ]
    needs += [("panel", kind, kind, "") for kind in kinds]
    return {
        "__inputs": [asked],
        "__requires": [dict(zip(("type", "id", "name", "version"), need, strict=True)) for need in needs],
    }
