"""The dashboards are up to date, pass the rules of Grafana's linter, and count nothing twice."""

import re
from typing import Any

import yaml

from exporter.metrics.catalogue import CATALOGUE, PREFIX, Family, Scope
from grafana.source import DASHBOARDS as SOURCES
from tests.dashboards import DASHBOARDS, FOLDER, ROOT, Target, panels, selectors, targets, variables
from tests.each import each

#: Exclusions from the rules of the linter.
EXCLUSIONS = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]

#: The Grafana units that panels may use.
UNITS = {"short", "percentunit", "s", "dateTimeFromNow", "bytes", "string", "cps", "cpm", "bool_yes_no"}

RANGE_FUNCTIONS = {"rate", "increase", "last_over_time"}
AGGREGATIONS = ("sum", "max", "min")
ONCE = "max_without_instance_pod"

Panel = dict[str, Any]
every_dashboard = each({name: name for name in DASHBOARDS})
every_target = each({f"{target}: {target.expr}": target for target in targets()})
every_panel = each(
    {
        f"{name}: {panel['title']} ({panel['id']})": (name, panel)
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
    }
)


def family_of(name: str) -> Family | None:
    """Return the family of a series, None if it is not in the catalogue."""
    short = name.removeprefix(PREFIX)
    return CATALOGUE.get(short) or CATALOGUE.get(re.sub(r"_(bucket|sum|count)$", "", short))


def is_exempt(rule: str, **place: str) -> bool:
    """Return whether a rule is excluded for a dashboard or a panel."""
    return place in EXCLUSIONS[rule]["entries"] if rule in EXCLUSIONS else False


@each({rule: rule for rule in EXCLUSIONS})
def test_an_exclusion_has_a_reason(rule: str) -> None:
    """It names existing dashboards and panels."""
    assert EXCLUSIONS[rule]["reason"]
    titles = {"dashboard": {d["title"] for d in DASHBOARDS.values()}, "panel": {t.panel for t in targets()}}
    for entry in EXCLUSIONS[rule].get("entries", []):
        ((kind, title),) = entry.items()
        assert title in titles[kind]


@each({name: name for name in SOURCES})
def test_a_committed_dashboard_is_up_to_date(name: str) -> None:
    """`make dashboards` updates it."""
    assert (FOLDER / name).read_text() == SOURCES[name]()


def test_there_is_no_other_dashboard() -> None:
    """`make dashboards` would not update another dashboard."""
    assert set(DASHBOARDS) == set(SOURCES)


@every_target
def test_no_number_is_counted_twice(target: Target) -> None:
    """Series of the store are used once for all replicas, after the rate and before any sum."""
    for selector in selectors(target.expr):
        family = family_of(selector.name)
        if family is None:
            continue
        outer = list(selector.around)
        if outer and outer[0] in RANGE_FUNCTIONS:
            outer.pop(0)
        assert not RANGE_FUNCTIONS & set(outer), "a rate of an aggregation"
        if family.scope is Scope.PROCESS:
            assert ONCE not in outer
            assert outer[0].startswith(AGGREGATIONS)
        else:
            assert outer[0] == ONCE, selector
            assert "instance" not in selector.matchers


@every_target
def test_target_counter_agg_rule(target: Target) -> None:
    """A panel shows the increase of a counter, never its value."""
    if is_exempt("target-counter-agg-rule", panel=target.panel):
        assert re.search(r"\} offset \$__range\)", target.expr)
        return
    for selector in selectors(target.expr):
        if selector.name.endswith(("_total", "_bucket", "_sum", "_count")):
            assert selector.around[0] in {"rate", "increase"}


@every_target
def test_every_series_is_in_the_catalogue(target: Target) -> None:
    """Other series are recorded series, or those of Prometheus or of the process."""
    for selector in selectors(target.expr):
        if selector.name.startswith(PREFIX):
            assert family_of(selector.name)
        else:
            assert re.match(r"(fleet|task):css_relay_|process_|scrape_|up$", selector.name)


@every_dashboard
def test_template_datasource_rule(name: str) -> None:
    """The data source is a variable; an import by hand sets its value."""
    dashboard = DASHBOARDS[name]
    source = variables(dashboard, "datasource")["datasource"]
    assert (source["label"], source["query"]) == ("Data source", "prometheus")
    (asked,) = dashboard["__inputs"]
    assert source["current"]["value"] == f"${{{asked['name']}}}"
    assert (asked["type"], asked["pluginId"]) == ("datasource", "prometheus")


@each({f"{name}: {variable}": (name, variable) for name in DASHBOARDS for variable in ("job", "instance")})
def test_template_job_and_instance_rules(name: str, variable: str) -> None:
    """Both are variables with multiple choice."""
    found = variables(DASHBOARDS[name]).get(variable)
    if is_exempt(f"template-{variable}-rule", dashboard=DASHBOARDS[name]["title"]):
        assert found is None
        return
    assert found
    assert (found["label"], found["multi"], found["includeAll"]) == (variable, True, True)
    assert found["allValue"] == ".+"


@every_dashboard
def test_template_label_promql_and_time_change_reload_rules(name: str) -> None:
    """A variable has the values of a label and is refreshed when the time range changes."""
    known = {"datasource"}
    for variable in variables(DASHBOARDS[name]).values():
        assert re.fullmatch(r"label_values\(css_relay_\w+(\{.+\})?, \w+\)", variable["query"])
        assert set(re.findall(r"\$(\w+)", variable["query"])) <= known, (
            "a variable may only depend on earlier ones"
        )
        assert variable["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert variable["refresh"] == 2
        known.add(variable["name"])


@every_dashboard
def test_uneditable_rule(name: str) -> None:
    """Dashboards are changed in the source only."""
    assert DASHBOARDS[name]["editable"] is False


@every_dashboard
def test_every_panel_has_its_own_id_and_place(name: str) -> None:
    """Rows have 24 columns, without gaps and overlaps."""
    everything = DASHBOARDS[name]["panels"]
    assert [panel["id"] for panel in everything] == list(range(1, len(everything) + 1))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    height = max(y for _, y in cells) + 1
    assert sorted(cells) == sorted((x, y) for x in range(24) for y in range(height))


@every_dashboard
def test_it_links_to_the_others(name: str) -> None:
    """Each link keeps the variables and the time range."""
    here = DASHBOARDS[name]["uid"]
    others = {f"/d/{dashboard['uid']}" for dashboard in DASHBOARDS.values()} - {f"/d/{here}"}
    assert {link["url"] for link in DASHBOARDS[name]["links"]} == others
    assert all(link["includeVars"] and link["keepTime"] for link in DASHBOARDS[name]["links"])


@every_panel
def test_panel_datasource_rule(name: str, panel: Panel) -> None:
    """Every panel and every query uses the selected data source."""
    for holder in (panel, *panel["targets"]):
        assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@every_panel
def test_panel_title_description_rule(name: str, panel: Panel) -> None:
    """A description is at least one sentence."""
    assert panel["title"]
    assert panel["description"].endswith(".")


@every_panel
def test_panel_units_rule(name: str, panel: Panel) -> None:
    """Every panel has a unit; in a table only the value has one, or Grafana would apply it to ids too."""
    overrides = panel["fieldConfig"]["overrides"]
    units = [p["value"] for o in overrides for p in o["properties"] if p["id"] == "unit"]
    units.append(panel["fieldConfig"]["defaults"]["unit"])
    assert set(units) <= UNITS
    assert (panel["type"] == "table") == (units[-1] == "string")


@every_panel
def test_panel_no_targets_rule(name: str, panel: Panel) -> None:
    """Every panel has queries, each with its own letter."""
    refs = [target["refId"] for target in panel["targets"]]
    assert refs == list("ABCDEFGH"[: len(refs)])
    assert refs


@every_panel
def test_a_task_in_a_table_links_to_its_dashboard(name: str, panel: Panel) -> None:
    """The link has its account, because task ids are only unique within an account."""
    if (
        panel["type"] == "table"
        and "task_id" in panel["targets"][0]["expr"]
        and name == "relay-overview.json"
    ):
        overrides = panel["fieldConfig"]["overrides"]
        (links,) = [p["value"] for o in overrides for p in o["properties"] if p["id"] == "links"]
        assert links[0]["url"].startswith("/d/css-relay-task?")
        assert "var-task=${__value.raw}" in links[0]["url"]
        assert "var-appid=${__data.fields.appid}" in links[0]["url"]


@every_panel
def test_exemplars_are_on_for_histograms(name: str, panel: Panel) -> None:
    """Each exemplar on a quantile is a single task."""
    for target in panel["targets"]:
        if "_bucket{" in target["expr"]:
            assert target["exemplar"] is True


@every_target
def test_target_rate_interval_rule(target: Target) -> None:
    """A rate uses Grafana's rate interval; an increase may use the whole time range."""
    for function, window in re.findall(r"(\w+)\(\w+\{[^}]*\}\[([^\]]+)\]", target.expr):
        assert window == "$__rate_interval" or (
            window == "$__range" and function in {"increase", "last_over_time"}
        )
    assert "$__interval" not in target.expr


@every_target
def test_target_job_and_instance_rules(target: Target) -> None:
    """All series are filtered by job, and series of the process by instance."""
    for selector in selectors(target.expr):
        assert 'job=~"$job"' in selector.matchers
        family = family_of(selector.name)
        is_own = family.scope is Scope.PROCESS if family else ":" not in selector.name
        assert ('instance=~"$instance"' in selector.matchers) is is_own


@every_dashboard
def test_a_query_uses_the_variables_of_its_dashboard(name: str) -> None:
    """It uses no other variables, and every variable is used."""
    dashboard = DASHBOARDS[name]
    built_in = {"__rate_interval", "__range"}
    used = {v for t in targets() if t.dashboard == name for v in re.findall(r"\$(\w+)", t.expr)} - built_in
    assert used == set(variables(dashboard))


COLOURS = {"active": "green", "failed": "red", "stopped": "#8e8e8e", "lost": "orange"}


@each({state: (state, colour) for state, colour in COLOURS.items()})
def test_a_state_has_one_colour_everywhere(state: str, wanted: str) -> None:
    """Green means active, red means failed."""
    colours = {
        str(prop["value"]["fixedColor"])
        for dashboard in DASHBOARDS.values()
        for panel in panels(dashboard)
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == state
        for prop in override["properties"]
        if prop["id"] == "color"
    }
    assert colours == {wanted}


def test_provisioning_fits_the_dashboards() -> None:
    """Exemplars link to the task; the path of the folder is the one to mount."""

    def read(path: str) -> Any:
        return yaml.safe_load((ROOT / "grafana" / "provisioning" / path).read_text())

    (source,) = read("datasources/prometheus.yml")["datasources"]
    (exemplars,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert (source["uid"], source["type"], exemplars["name"]) == ("prometheus", "prometheus", "task_id")
    assert exemplars["url"] == "/d/css-relay-task?var-task=$${__value.raw}"
    (provider,) = read("dashboards/css-relay.yml")["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
