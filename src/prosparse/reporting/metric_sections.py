# SPDX-License-Identifier: Apache-2.0
"""The parts of a report on the metrics of sparsity: what they give, what they cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import compact_number, increase, percent
from prosparse.reporting.plots import WIDTH
from prosparse.reporting.section import Section
from prosparse.reporting.summary import metric_setting, metric_verdict
from prosparse.reporting.svg import BLUE, GRAY, GREEN, ORANGE, drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.metric import MetricMeasure, MetricPoint
    from prosparse.records.sparsity import MeasureRecord

LOOKS = {
    "cett": ("CETT", BLUE, "o-"),
    "topk": ("top-k", ORANGE, "s--"),
    "fat": ("FAT-epsilon", GREEN, "^-."),
}
SHOWN_UP_TO = 1.0
"""The plot ends where perplexity has doubled."""


def metric_sections(record: MeasureRecord) -> list[Section]:
    """Return the parts on a record's metric; none when the model ran as it is."""
    parts = []
    metric = record.metric
    if metric is not None:
        parts.append(Section("Weak neurons left out", metric_verdict(metric)))
    if record.points:
        text = (
            "Each point is the same model with its weak neurons switched off, on the same text; "
            "± is the standard error of paired windows. The lower right is best."
        )
        points = sorted(record.points, key=lambda point: (point.metric, point.sparsity))
        chosen = None if metric is None else metric.point
        title = "Perplexity against sparsity"
        parts.append(Section(title, text, metric_plot(points), point_grid(points, chosen)))
    if metric is not None and metric.layer_thresholds:
        parts.append(Section("Thresholds of CETT", _cett_text(metric), grid=threshold_grid(metric)))
    return parts


def metric_plot(points: Sequence[MetricPoint]) -> str:
    """Return perplexity increase over the activation ratio (1 - sparsity), a line for each metric."""
    with drawing("metric-plot", WIDTH, 3.9) as plot:
        axes = plot.figure.subplots()
        axes.axhline(0, color=GRAY, linewidth=0.8)
        for metric, (label, color, line) in LOOKS.items():
            own = [p for p in points if p.metric == metric and p.perplexity_increase <= SHOWN_UP_TO]
            if own:
                axes.errorbar(
                    [100 * (1 - p.sparsity) for p in own],
                    [100 * p.perplexity_increase for p in own],
                    yerr=[100 * _finite(p.perplexity_increase_stderr) for p in own],
                    fmt=line,
                    color=color,
                    capsize=3,
                    markersize=5,
                    label=label,
                )
        axes.set_xlabel("activation ratio (%): neurons that are left in")
        axes.set_ylabel("perplexity increase over the model as it is (%)")
        axes.invert_xaxis()
        axes.grid(axis="y")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left")
    return plot.svg


def point_grid(points: Sequence[MetricPoint], chosen: MetricPoint | None = None) -> Grid:
    """Return every setting with what it gives and costs, the chosen one marked."""
    rows = tuple(
        (
            metric_setting(point),
            percent(point.sparsity),
            percent(1 - point.sparsity),
            f"{point.perplexity:.2f}",
            increase(point.perplexity_increase, point.perplexity_increase_stderr),
        )
        for point in points
    )
    header = ("setting", "sparsity", "activation ratio", "perplexity", "increase")
    settings = [(p.metric, p.setting) for p in points]
    place = (chosen.metric, chosen.setting) if chosen is not None else None
    return Grid(header, rows, marked=settings.index(place) if place in settings else None)


def threshold_grid(metric: MetricMeasure) -> Grid:
    """Return CETT's threshold, error and sparsity of each layer."""
    columns = (metric.layer_thresholds, metric.layer_errors, metric.point.layer_sparsity)
    return Grid(
        ("layer", "t", "relative output error", "sparsity"),
        tuple(
            (str(layer), compact_number(t), f"{error:.4f}", percent(sparsity))
            for layer, (t, error, sparsity) in enumerate(zip(*columns, strict=True))
        ),
    )


def _cett_text(metric: MetricMeasure) -> str:
    return (
        "Neuron j is left out where |x_1j| times the norm of its column of down_proj is below t. Each "
        "layer has the largest t found whose mean relative output error, on "
        f"{metric.calibration_tokens:,} calibration tokens (the first of each data set), stays within "
        f"{compact_number(metric.point.setting)}."
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
