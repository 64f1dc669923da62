"""What a panel of ours always has: a unit, a description that says what is good and what to do, a legend with a table.

`$namespace` and `$datasource` are the dashboard's variables; `$__rate_interval` is Grafana's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)

DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")

HEIGHT: Final = 8
"""Of a panel, in Grafana's grid of 24 columns."""

SECONDS, BYTES, RATIO, COUNT, PER_S, MESSAGES_PER_S = "s", "bytes", "percentunit", "short", "reqps", "mps"
"""Grafana's names of units."""


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and what a series of it is called."""

    expr: str
    legend: str


def of(metric: str, *matchers: str) -> str:
    """The series of a metric in the chosen namespace."""
    inside = ", ".join(['namespace="$namespace"', *matchers])
    return f"{metric}{{{inside}}}"


def rate(metric: str, *by: str, matching: Sequence[str] = ()) -> str:
    """Events a second, put together by labels."""
    return f"{_sum(by)} (rate({of(metric, *matching)}[$__rate_interval]))"


def total(metric: str, *by: str, matching: Sequence[str] = ()) -> str:
    return f"{_sum(by)} ({of(metric, *matching)})"


def quantiles(metric: str, what: str) -> list[Query]:
    """The median, and what one in a hundred is above, of a histogram in all pods."""
    return [
        Query(f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le')})", f"{what}, {name}")
        for share, name in ((0.5, "median"), (0.99, "p99"))
    ]


def worst_pod(metric: str) -> Query:
    """The 99th percentile of each pod."""
    return Query(f"histogram_quantile(0.99, {rate(f'{metric}_bucket', 'pod', 'le')})", "{{pod}}")


def series(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    limit: float | None = None,
    most: float | None = None,
    names: Sequence[str] = (),
) -> timeseries.Panel:
    """Lines over time. `limit`: a dashed line at which an alert begins; `names` of the values 0, 1, 2 …"""
    legend = VizLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.BOTTOM)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(DATASOURCE)
        .span(width)
        .height(HEIGHT)
        .min(0)
        .line_width(1)
        .fill_opacity(8)
        .show_points(VisibilityMode.NEVER)
        .legend(legend.show_legend(True).calcs(["lastNotNull", "max"]).sort_by("Max").sort_desc(True))
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .targets(list(_targets(queries)))
    )
    if most is not None:
        panel.max(most)
    if limit is not None:
        panel.thresholds(_thresholds((None, "transparent"), (limit, "red")))
        panel.thresholds_style(GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    if names:
        panel.mappings(list(_named(names)))
    return panel


def numbers(title: str, description: str, unit: str, *queries: Query, width: int = 8, red_below: float) -> stat.Panel:
    """A number now for each query, red below one value."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(DATASOURCE)
        .span(width)
        .height(HEIGHT)
        .thresholds(_thresholds((None, "red"), (red_below, "green")))
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .targets(list(_targets(queries)))
    )


def _sum(by: Sequence[str]) -> str:
    return f"sum by ({', '.join(by)})" if by else "sum"


def _targets(queries: Sequence[Query]) -> Iterable[prometheus.Dataquery]:
    for number, query in enumerate(queries):
        made = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).datasource(DATASOURCE)
        yield made.ref_id(chr(ord("A") + number)).range()


def _thresholds(*steps: tuple[float | None, str]) -> ThresholdsConfig:
    listed = [Threshold(value=value, color=color) for value, color in steps]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(listed)


def _named(names: Sequence[str]) -> Iterable[ValueMapping]:
    yield ValueMap({str(value): ValueMappingResult(text=name, index=value) for value, name in enumerate(names)})
