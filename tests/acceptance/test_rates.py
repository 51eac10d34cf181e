"""The documented rate over replicas is right while replicas start, stop and are scraped late.

promtool evaluates it on series at exact times. The chaos test checks that real replicas count once in a real
Prometheus.
"""

import json
import subprocess
from pathlib import Path

from tests.support import tool

STEP, WINDOW = 15, 300
#: The number of tasks started in each step, and the number of steps.
EACH, LAST = 3, 60
PER_SECOND = EACH / STEP
RATE = f"rate(css_relay_tasks_started_total[{WINDOW}s])"
DOCUMENTED = f"sum(max without (instance, pod) ({RATE}))"
#: The values that each of four replicas exports for two accounts; None for a missing scrape.
STEADY = [EACH * step for step in range(LAST)]
REPLICAS: dict[str, list[int | None]] = {
    "steady": [*STEADY],
    "leaving": [*STEADY[:25], *[None] * (LAST - 25)],
    # From its first scrape it shows the values of the store; it does not start at 0.
    "joining": [*[None] * 30, *STEADY[30:]],
    "late": [*STEADY[:35], *[None] * 4, *STEADY[39:]],
}


def test_no_rate_jumps_when_a_replica_leaves_joins_or_is_scraped_late(tmp_path: Path) -> None:
    """It is constant at every step; a plain sum would count every callback once per replica."""
    steps = range(WINDOW // STEP, LAST)
    steady = [expected_value(DOCUMENTED, 2 * PER_SECOND, step) for step in steps]
    assert promtool_errors(tmp_path, steady) == ""
    plain = f"sum({RATE})"
    assert promtool_errors(tmp_path, [expected_value(plain, 2 * 3 * PER_SECOND, WINDOW // STEP)]) == ""
    assert "FAILED" in promtool_errors(
        tmp_path, [expected_value(plain, 2 * 3 * PER_SECOND, step) for step in steps]
    )


def expected_value(query: str, value: float, step: int) -> dict[str, object]:
    """Return a promtool test of a query's value at a step."""
    sample = {"labels": "{}", "value": round(value * 1000)}
    return {"expr": f"round(1000 * {query})", "eval_time": f"{step * STEP}s", "exp_samples": [sample]}


def promtool_errors(folder: Path, tests: list[dict[str, object]]) -> str:
    """Return the errors of promtool, an empty text if there are none."""
    series = [
        {
            "series": f'css_relay_tasks_started_total{{appid="{appid}", instance="{name}", pod="{name}"}}',
            "values": " ".join("_" if value is None else str(value) for value in values),
        }
        for appid in (1, 2)
        for name, values in REPLICAS.items()
    ]
    case = {"interval": f"{STEP}s", "input_series": series, "promql_expr_test": tests}
    (folder / "case.yml").write_text(json.dumps({"evaluation_interval": f"{STEP}s", "tests": [case]}))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", folder / "case.yml"], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
