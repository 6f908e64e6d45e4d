# SPDX-License-Identifier: Apache-2.0
"""The report on a fitted law; importing this makes `headline`, `tiles` and `sections` know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosparse.records.law import LambdaLawRecord
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import compact_number, percent
from prosparse.reporting.plots import WIDTH
from prosparse.reporting.section import Section
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import Tile, headline, tiles
from prosparse.reporting.svg import BLUE, GRAY, GREEN, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE_POINTS = 200


@headline.register
def _(record: LambdaLawRecord) -> str:
    where = (
        " This is outside the runs' own lambdas: an extrapolation."
        if record.is_extrapolated
        else ""
    )
    return (
        f"For {percent(record.sparsity, 1)} sparsity the last stage wants lambda "
        f"{compact_number(record.factor)}{_interval(record)}.{where}"
    )


@tiles.register
def _(record: LambdaLawRecord) -> list[Tile]:
    return [
        (compact_number(record.factor), f"lambda for {percent(record.sparsity, 1)}"),
        (f"{record.r_squared:.4f}", f"R² over {len(record.points)} runs"),
    ]


@sections.register
def _(record: LambdaLawRecord, log: list[dict[str, Any]]) -> list[Section]:
    law = (
        f"sparsity (%) = 100 - exp({record.a:.3g} lambda^{record.alpha:.3g} + {record.b:.3g}), fitted "
        "to the logarithm of the active share. What is beyond the runs' own lambdas is dashed."
    )
    residuals = "Measured minus fitted sparsity, in percentage points."
    return [
        Section("The law", law, law_plot(record), law_grid(record)),
        Section(
            "Residuals",
            residuals,
            residual_plot(record),
            alternative="They are the last column of the table before.",
        ),
    ]


def law_grid(record: LambdaLawRecord) -> Grid:
    """Return each run's lambda and sparsity, and what the law says."""
    rows = [
        (
            point.run,
            compact_number(point.factor),
            percent(point.sparsity),
            percent(record.predicted(point.factor)),
            f"{100 * (point.sparsity - record.predicted(point.factor)):+.2f}",
        )
        for point in record.points
    ]
    return Grid(("run", "lambda", "sparsity", "by the law", "difference (points)"), tuple(rows))


def law_plot(record: LambdaLawRecord) -> str:
    """Return sparsity over lambda: the runs, the law, and the lambda it gives."""
    low, high = record.points[0].factor, record.points[-1].factor
    first, last = min(_smallest(record), record.factor) / 1.3, max(high, record.factor) * 1.3
    steps = [first * (last / first) ** (i / CURVE_POINTS) for i in range(CURVE_POINTS + 1)]
    if low == 0:  # on a scale that is linear up to the smallest lambda
        steps = [first * i / CURVE_POINTS for i in range(CURVE_POINTS)] + steps
    with drawing("lambda-law", WIDTH, 3.9) as plot:
        axes = plot.figure.subplots()
        axes.plot(
            steps, [100 * record.predicted(x) for x in steps], "--", color=GRAY, linewidth=1.2
        )
        inside = [x for x in steps if low <= x <= high]
        axes.plot(inside, [100 * record.predicted(x) for x in inside], color=BLUE, label="law")
        points = [(p.factor, 100 * p.sparsity) for p in record.points]
        axes.plot(*zip(*points, strict=True), "o", color=BLUE, label="runs")
        if record.factor_low is not None and record.factor_high is not None:
            reach = [[record.factor - record.factor_low], [record.factor_high - record.factor]]
            at = ([record.factor], [100 * record.sparsity])
            axes.errorbar(*at, xerr=reach, color=GREEN, capsize=4, zorder=3)
        label = f"lambda {compact_number(record.factor)}"
        axes.plot(record.factor, 100 * record.sparsity, "D", color=GREEN, label=label, zorder=4)
        _lambda_scale(axes, record)
        axes.set_xlabel("lambda of the last stage")
        axes.set_ylabel("sparsity (%)")
        axes.grid(axis="y")
        axes.legend(loc="lower right")
    return plot.svg


def residual_plot(record: LambdaLawRecord) -> str:
    """Return what the law leaves of each run's sparsity, over lambda."""
    with drawing("law-residuals", WIDTH, 2.4) as plot:
        axes = plot.figure.subplots()
        axes.axhline(0, color=GRAY, linewidth=0.8)
        rest = [100 * (p.sparsity - record.predicted(p.factor)) for p in record.points]
        axes.plot([p.factor for p in record.points], rest, "o", color=BLUE)
        _lambda_scale(axes, record)
        axes.set_xlabel("lambda of the last stage")
        axes.set_ylabel("residual (points)")
        axes.grid(axis="y")
    return plot.svg


def _smallest(record: LambdaLawRecord) -> float:
    return min(point.factor for point in record.points if point.factor > 0)


def _lambda_scale(axes: Axes, record: LambdaLawRecord) -> None:
    if record.points[0].factor > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=_smallest(record))


def _interval(record: LambdaLawRecord) -> str:
    if record.factor_low is None or record.factor_high is None:
        if len(record.points) == 3:
            return " (three runs fix the law exactly: how far to trust it takes a fourth)"
        return " (the runs do not determine the law: no interval)"
    low, high = compact_number(record.factor_low), compact_number(record.factor_high)
    return f" (95 % confidence: {low} to {high})"
