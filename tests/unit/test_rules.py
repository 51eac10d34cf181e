"""The rules, their tests and the runbook agree, and queries use each metric according to its scope."""

import json
import re
from itertools import pairwise

import pytest

from tests.each import each
from tests.rules import (
    ALERTS,
    CASE_FILES,
    FOREIGN,
    PAGE,
    RECORDED,
    ROOT,
    Case,
    cases,
    family,
    faults,
    metrics,
    page_queries,
    seconds,
    windows,
)

SEVERITIES = ("page", "warning", "info")
RULES = {**RECORDED, **ALERTS}
every_alert = each({name: name for name in ALERTS})


def page_rows() -> dict[str, str]:
    """Return the alerts of the page's table, with their severity."""
    return dict(re.findall(r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \|", PAGE.read_text(), re.MULTILINE))


def histories(alert: str) -> list[tuple[Case, list[tuple[int, bool]]]]:
    """Return the cases with an alert, and the times at which it must fire or not."""
    return [(case, case.told[alert]) for case in cases() if alert in case.told]


@every_alert
def test_an_alert_has_its_severity_texts_and_links(alert: str) -> None:
    """Severity, summary, a description with the first check, links to its runbook and to a dashboard."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["annotations"]["summary"][0].isupper()
    assert re.search(r"\. First [^.].*\.$", rule["annotations"]["description"])
    url, anchor = rule["annotations"]["runbook_url"].split("#")
    assert url == "https://css-relay-exporter.example/docs/alerts.md"
    assert anchor == alert.lower()
    assert re.match(r"https://grafana\.example/d/css-relay-\w+\?var-job=", rule["annotations"]["dashboard"])


def test_a_dashboard_that_an_alert_links_to_exists() -> None:
    """The link has the uid of a dashboard file."""
    known = {json.loads(path.read_text())["uid"] for path in (ROOT / "grafana").rglob("dashboards/*.json")}
    if not known:
        pytest.skip("there are no dashboards yet")
    links = " ".join(rule["annotations"]["dashboard"] for rule in ALERTS.values())
    assert set(re.findall(r"/d/([\w-]+)", links)) <= known


def test_the_page_has_a_section_and_a_row_for_each_alert_and_no_other() -> None:
    """Renderers create a heading's anchor from its text in lower case."""
    headings = re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)
    assert page_rows() == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}


def test_the_page_has_every_recorded_series() -> None:
    """The page has the names that dashboards use."""
    text = PAGE.read_text()
    assert [name for name in RECORDED if f"`{name}`" not in text] == []


def test_every_alert_named_anywhere_exists() -> None:
    """The page, its links and the Alertmanager example name only existing alerts."""
    for path in (PAGE, ROOT / "deploy" / "alertmanager.yml", *CASE_FILES):
        assert set(re.findall(r"\bCSSRelay\w+", path.read_text())) <= ALERTS.keys(), path.name
    anchors = {heading.lower() for heading in re.findall(r"^#+ (\w+)$", PAGE.read_text(), re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", PAGE.read_text())) <= anchors


@each({name: name for name in RULES})
def test_a_rule_uses_each_metric_according_to_its_scope(name: str) -> None:
    """Metrics of the store once for all replicas, metrics of the process summed, and all metrics exist."""
    query = RULES[name]["expr"]
    assert list(faults(query)) == []
    assert all(m in RECORDED or m in FOREIGN or family(m) for m in metrics(query))


@each({query: query for query in page_queries()})
def test_a_query_of_the_runbook_uses_each_metric_according_to_its_scope(query: str) -> None:
    """Operators paste these queries."""
    found = [f for f in faults(query) if not re.match(r"(process_|scrape_samples)", f)]
    assert found == []


WRONG = (
    "sum(css_relay_tasks)",
    "max without (instance) (css_relay_tasks)",
    "max without (instance, pod) (css_relay_tasks_failed_total)",
    "max without (instance, pod) (rate(css_relay_tasks[5m]))",
    "rate(max without (instance, pod) (css_relay_tasks_failed_total)[5m:])",
    "sum(rate(css_relay_tasks_failed_total[5m]))",
    "increase(fleet:css_relay_tasks_failed:sum[5m])",
    "max without (instance, pod) (rate(css_relay_callbacks_rejected_total[5m]))",
    "sum by (instance) (rate(css_relay_callbacks_rejected_total[5m]))",
    "max without (instance, pod) (css_relay_no_such_thing)",
    "fleet:css_relay_no_such_thing:sum",
)


@each({query: query for query in WRONG})
def test_a_wrong_use_is_found(query: str) -> None:
    """The check itself is tested: it can fail."""
    assert list(faults(query))


@each({name: name for name, rule in ALERTS.items() if windows(rule["expr"])})
def test_an_alert_on_a_rate_waits_until_the_store_is_older_than_its_range(alert: str) -> None:
    """A restored store looks like a counter reset; `for` gives the rule that records the age time to run."""
    rule = ALERTS[alert]
    gate = re.search(
        r"unless on \(job, namespace\)\s+fleet:css_relay_store_age:seconds < (\d+)\s*$", rule["expr"]
    )
    assert gate
    assert int(gate[1]) == max(900, *windows(rule["expr"]))
    assert seconds(rule["for"]) >= 120


@every_alert
def test_an_alert_fires_at_its_time_and_clears_in_one_case_and_is_silent_in_another(alert: str) -> None:
    """It does not fire one evaluation earlier; the other case only looks similar."""
    found = histories(alert)
    assert any(fires_and_clears(case, expected) for case, expected in found)
    assert any(not any(fires for _, fires in expected) for _, expected in found)


def fires_and_clears(case: Case, expected: list[tuple[int, bool]]) -> bool:
    """Return whether an alert is absent, fires one evaluation later, and is absent in the end."""
    pairs = pairwise(expected)
    rises = any(not a and b and later - earlier == case.step for (earlier, a), (later, b) in pairs)
    return rises and not expected[-1][1]


def test_names_of_cases_are_unique_sentences() -> None:
    """A name states what the case checks."""
    names = [case.name for case in cases()]
    assert len(names) == len(set(names))
    assert all(name[0].isupper() and len(name.split()) >= 6 for name in names)
