"""Write every dashboard to grafana/dashboards/; a test fails while a file there differs."""

from pathlib import Path

from grafana.source import DASHBOARDS

FOLDER = Path(__file__).parents[1] / "dashboards"

for name, build in DASHBOARDS.items():
    (FOLDER / name).write_text(build())
