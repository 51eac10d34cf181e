"""The panels of the dashboards: one function for each kind, and the same colour for a state in all of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import bargauge as bargauges
from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap as heatmaps
from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.builders import timeseries as graphs
from grafana_foundation_sdk.models import common, dashboard, heatmap
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.source import queries

GOOD, BAD, WORRY, QUIET, PLAIN, BOUND = "green", "red", "orange", "#8e8e8e", "blue", "purple"
STATES = {"active": GOOD, "failed": BAD, "stopped": QUIET, "lost": WORRY}
QUANTILES = {0.5: ("p50", "green"), 0.95: ("p95", "orange"), 0.99: ("p99", "red")}

#: Thresholds: pairs of a lowest value and a colour. The first has no lowest value.
Steps = Sequence[tuple[float | None, str]]
NEUTRAL: Steps = ((None, PLAIN),)
NONE_IS_GOOD: Steps = ((None, GOOD), (1, BAD))

#: Widths of table columns, in pixels; the other columns share the rest.
WIDTHS = {
    "task_id": 95,
    "appid": 105,
    "code": 90,
    "Value": 105,
    "stream_id": 120,
    "source_host": 140,
    "version": 80,
    "revision": 90,
    "python": 80,
}

#: Thresholds of a task's downtime, in seconds: the service restarts most tasks within a minute or two.
DOWN: Steps = ((None, GOOD), (1, WORRY), (180, BAD))

#: The data source that the user selected at the top of the dashboard.
SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")

#: The builder of a panel. The SDK has one class for each kind and no common base class.
Builder = TypeVar("Builder", bound=Any)


def line(expression: str, legend: str = "", *, exemplars: bool = False) -> prometheus.Dataquery:
    """Return a query over the dashboard's time range."""
    query = prometheus.Dataquery().expr(expression).legend_format(legend).range().datasource(SOURCE)
    return query.exemplar(exemplars)


def latest(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Return a query for the current values."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).instant().datasource(SOURCE)


def quantiles(name: str) -> list[prometheus.Dataquery]:
    """Return queries for p50, p95 and p99 of a histogram, with exemplars of single tasks."""
    return [line(queries.quantile(q, name), legend, exemplars=True) for q, (legend, _) in QUANTILES.items()]


def exits() -> list[prometheus.Dataquery]:
    """Return queries for the ended runs, by exit code."""
    # 0 is a query of its own and always has a value: it is then the first series, and no other code gets its green.
    planned = queries.per_minute("tasks_exited_total", only='code="0"')
    others = queries.per_minute("tasks_exited_total", "code", only='code!="0"')
    return [line(f"{planned} or vector(0)", "0"), line(others, "{{code}}")]


def stat(
    title: str,
    description: str,
    expression: str,
    *,
    unit: str = "short",
    steps: Steps = NEUTRAL,
    nothing: str | None = None,
    words: Mapping[int, tuple[str, str]] | None = None,
    spark: bool = False,
    decimals: int = 0,
) -> stats.Panel:
    """Return a panel with one current number; with `spark` also a graph of it in the background.

    Args:
        nothing: the text that is shown if there is no number.
        words: the text and colour that are shown instead of a number.
    """
    panel = _panel(stats.Panel(), title, description, unit, steps, nothing)
    panel.reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_mode(common.BigValueColorMode.VALUE)
    panel.graph_mode(common.BigValueGraphMode.AREA if spark else common.BigValueGraphMode.NONE)
    if words:
        panel.mappings([_words(words)])
    panel.text_mode(common.BigValueTextMode.VALUE).decimals(decimals)
    # A blank legend: the panel has one series, and its title names it.
    query = line(expression, " ") if spark else latest(expression, " ")
    return panel.with_target(query).height(4).span(4)


def graph(
    title: str,
    description: str,
    *targets: prometheus.Dataquery,
    unit: str = "short",
    colours: Mapping[str, str] | None = None,
    bounds: Collection[str] = (),
    stacked: bool = False,
    bars: bool = False,
    dots: bool = False,
    steps: Steps = NEUTRAL,
    most: float | None = None,
    nothing: str | None = None,
) -> graphs.Panel:
    """Return lines, stacked areas or stacked bars over time, from 0.

    Args:
        colours: the colours of series, by name; other series get the next colour of the palette.
        bounds: the names of series that are an upper limit; they are drawn dashed and not filled.
        dots: draw a dot for each value and connect dots over gaps, for values that are measured rarely.
        most: the upper end of the axis.
    """
    panel = _panel(graphs.Panel(), title, description, unit, steps, nothing)
    panel.min(0).color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC))
    panel.legend(options.VizLegendOptions().show_legend(True).display_mode(common.LegendDisplayMode.LIST))
    panel.tooltip(options.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    panel.show_points(common.VisibilityMode.ALWAYS if dots else common.VisibilityMode.NEVER)
    panel.span_nulls(dots).fill_opacity(80 if stacked or bars else 5)
    panel.line_width(2 if dots else 0 if stacked else 1)
    if bars:
        panel.draw_style(common.GraphDrawStyle.BARS)
    if stacked or bars:
        panel.stacking(options.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel.max(most)
    for name, colour in (colours or {}).items():
        panel.override_by_name(name, [_fixed(colour)])
    for name in bounds:
        panel.override_by_name(name, _bound())
    return panel.targets(list(targets)).height(8).span(8)


def timeline(title: str, description: str, target: prometheus.Dataquery) -> graphs.Panel:
    """Return a band over time in the colours of a task's states."""
    panel = graph(title, description, target, stacked=True, colours=STATES, most=1)
    panel.axis_placement(common.AxisPlacement.HIDDEN)
    return panel.line_interpolation(common.LineInterpolation.STEP_AFTER).height(5).span(24)


def quantile_graph(
    title: str, description: str, name: str, *extra: prometheus.Dataquery, unit: str = "s", **more: Any
) -> graphs.Panel:
    """Return the quantiles of a histogram over time; there is no value where nothing was observed."""
    colours = dict(QUANTILES.values()) | more.pop("colours", {})
    targets = (*quantiles(name), *extra)
    return graph(title, description, *targets, unit=unit, dots=True, colours=colours, **more)


def heat(title: str, description: str, name: str, *, unit: str = "s") -> heatmaps.Panel:
    """Return a heatmap of a histogram's buckets over time; a brighter cell has more observations."""
    panel = _panel(heatmaps.Panel(), title, description, unit, NEUTRAL, "nothing measured")
    panel.color(
        heatmaps.HeatmapColorOptions().mode(heatmap.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    )
    panel.y_axis(heatmaps.YAxisConfig().unit(unit)).cell_gap(1).hide_legend()
    panel.filter_values(heatmaps.FilterValueRange().le(1e-9))
    query = line(queries.buckets(name), "{{le}}", exemplars=True).format(PromQueryFormat.HEATMAP)
    return panel.with_target(query).height(8).span(12)


def bar_gauge(
    title: str,
    description: str,
    *targets: prometheus.Dataquery,
    unit: str = "short",
    steps: Steps = NEUTRAL,
    most: float | None = None,
    nothing: str | None = None,
    decimals: int = 0,
) -> bargauges.Panel:
    """Return a bar for the current value of each series."""
    panel = _panel(bargauges.Panel(), title, description, unit, steps, nothing)
    panel.reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"])).min(0)
    panel.orientation(common.VizOrientation.HORIZONTAL).display_mode(common.BarGaugeDisplayMode.BASIC)
    panel.decimals(decimals)
    if most is not None:
        panel.max(most)
    return panel.targets(list(targets)).height(8).span(8)


def table(
    title: str,
    description: str,
    expression: str,
    columns: Mapping[str, str],
    *,
    unit: str = "s",
    steps: Steps = NEUTRAL,
    nothing: str | None = None,
) -> tables.Panel:
    """Return a table of current values, largest first; a column `task_id` links to the task's dashboard.

    Args:
        columns: the headings, in order, by label name or `Value`.
    """
    # Only the column of the value has the unit: with a unit for all, Grafana would format ids and codes with it too.
    panel = _panel(tables.Panel(), title, description, "string", steps, nothing)
    panel.with_target(latest(f"sort_desc({expression})").format(PromQueryFormat.TABLE)).height(8).span(8)
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True} | ({} if "Value" in columns else {"Value": True}),
                "indexByName": {name: place for place, name in enumerate(columns)},
                "renameByName": dict(columns),
            },
        )
    )
    if not columns.keys() <= WIDTHS.keys():
        for name in (name for name in columns if name in WIDTHS):
            width = dashboard.DynamicConfigValue(id_val="custom.width", value=WIDTHS[name])
            panel.override_by_name(columns[name], [width])
    if "Value" in columns:
        panel.sort_by([options.TableSortByFieldState().display_name(columns["Value"]).desc(True)])
        coloured = dashboard.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"})
        panel.override_by_name(
            columns["Value"], [dashboard.DynamicConfigValue(id_val="unit", value=unit), coloured]
        )
    if "task_id" in columns:
        panel.override_by_name(columns["task_id"], [_link_to_task()])
    return panel


def _panel(
    panel: Builder, title: str, description: str, unit: str, steps: Steps, nothing: str | None
) -> Builder:
    panel.title(title).description(description).datasource(SOURCE).unit(unit)
    thresholds = [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    panel.thresholds(build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(thresholds))
    panel.color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    if nothing is not None:
        panel.no_value(nothing)
    return panel


def _words(words: Mapping[int, tuple[str, str]]) -> dashboard.ValueMap:
    return dashboard.ValueMap(
        options={
            str(number): dashboard.ValueMappingResult(text=text, color=colour, index=place)
            for place, (number, (text, colour)) in enumerate(words.items())
        }
    )


def _fixed(colour: str) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})


def _bound() -> list[dashboard.DynamicConfigValue]:
    look = {"lineStyle": {"fill": "dash", "dash": [10, 10]}, "fillOpacity": 0, "showPoints": "never"}
    styles = [
        dashboard.DynamicConfigValue(id_val=f"custom.{name}", value=value) for name, value in look.items()
    ]
    return [_fixed(BOUND), *styles]


def _link_to_task() -> dashboard.DynamicConfigValue:
    url = (
        "/d/css-relay-task?${datasource:queryparam}&${job:queryparam}"
        "&var-appid=${__data.fields.appid}&var-task=${__value.raw}&${__url_time_range}"
    )
    return dashboard.DynamicConfigValue(id_val="links", value=[{"title": "This task", "url": url}])
