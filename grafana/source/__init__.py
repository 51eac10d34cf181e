"""The Grafana dashboards as code: `python -m grafana.source` writes grafana/dashboards/.

`queries` is the PromQL, `panels` what a panel looks like, `frame` what every dashboard has; `overview`, `task`
and `health` are the dashboards themselves. It is no part of the exporter: only the catalogue is shared.
"""

from grafana.source import health, overview, task

#: What is written, by file name.
DASHBOARDS = {
    "relay-overview.json": overview.dashboard,
    "relay-task.json": task.dashboard,
    "exporter-health.json": health.dashboard,
}
