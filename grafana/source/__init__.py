"""The Grafana dashboards as code: `python -m grafana.source` writes grafana/dashboards/.

`queries` builds the PromQL, `panels` the panels, `frame` the parts that every dashboard has. `overview`, `task`
and `health` are the dashboards. The package is not part of the exporter and imports only its metric catalogue.
"""

from grafana.source import health, overview, task

#: The dashboards, by file name.
DASHBOARDS = {
    "relay-overview.json": overview.dashboard,
    "relay-task.json": task.dashboard,
    "exporter-health.json": health.dashboard,
}
