# SPDX-License-Identifier: Apache-2.0
"""The report on fitted laws; importing this makes `headline`, `tiles` and `sections` know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prosparse.records.law_fit import LawFit, LawPrediction, LawsRecord
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import compact_number, listing, percent
from prosparse.reporting.plots import WIDTH
from prosparse.reporting.sections import Section, sections
from prosparse.reporting.summary import Tile, headline, tiles
from prosparse.reporting.svg import BLUE, GRAY, GREEN, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_INTERVAL = "not determined"
HEADROOM = 0.25  # of the points' spread: how far a plot's axis goes beyond them
MOST_IN_WORDS = 4


@headline.register
def _(record: LawsRecord) -> str:
    if len(record.fits) > MOST_IN_WORDS:
        found = sorted(fit.r_squared for fit in record.fits)
        return f"{len(found)} curves were fitted, with R² from {found[0]:.4f} to {found[-1]:.4f}."
    return " ".join(_in_words(record, fit) for fit in record.fits)


@tiles.register
def _(record: LawsRecord) -> list[Tile]:
    return [
        (f"{fit.r_squared:.4f}", f"R² of {fit.name}, {fit.law}")
        for fit in record.fits[:MOST_IN_WORDS]
    ]


@sections.register
def _(record: LawsRecord, log: list[dict[str, Any]]) -> list[Section]:
    found = []
    for index, fit in enumerate(record.fits):
        text = " ".join(
            [
                f"{fit.formula}, fitted to {fit.num_points} points of {fit.source}. The band is the "
                f"{percent(record.confidence, 0)} confidence of the curve; beyond the points the curve "
                "is dashed, an extrapolation.",
                *fit.notes,
            ]
        )
        figure = fit_plot(fit, f"law-fit-{index}")
        title = f"{fit.name}: {fit.law}"
        found.append(Section(title, text, figure, parameter_grid(record, fit)))
        if fit.predictions:
            found.append(Section(f"{fit.name}: by the law", grid=prediction_grid(record, fit)))
        if fit.points:
            about = "Measured minus fitted activation ratio, in percentage points."
            residuals = [100 * (p.activation_ratio - p.by_law) for p in fit.points]
            words = f"They lie between {min(residuals):+.2f} and {max(residuals):+.2f} points."
            figure = residual_plot(fit, f"residuals-{index}")
            title = f"{fit.name}: residuals"
            found.append(Section(title, about, figure, alternative=words))
    return found


def parameter_grid(record: LawsRecord, fit: LawFit) -> Grid:
    """Return the law's numbers with their intervals, and how well it fits."""
    rows = [(p.name, _number(p.value), _interval(p.low, p.high)) for p in fit.parameters]
    rows += [
        ("R²", f"{fit.r_squared:.5f}", ""),
        ("RMS residual (points)", f"{100 * fit.rms_residual:.4f}", ""),
    ]
    if fit.correlation is not None:
        rows.append(("correlation of neighboring residuals", f"{fit.correlation:.2f}", ""))
    return Grid(("", "value", f"{percent(record.confidence, 0)} interval"), tuple(rows))


def prediction_grid(record: LawsRecord, fit: LawFit) -> Grid:
    """Return what the law says where it was asked."""
    rows = [
        (
            compact_number(p.x),
            percent(p.activation_ratio),
            _interval(*(None if v is None else 100 * v for v in (p.low, p.high))),
            "extrapolation" if p.is_extrapolated else "within the points",
        )
        for p in fit.predictions
    ]
    header = (fit.x_name, "activation ratio", f"{percent(record.confidence, 0)} interval (%)", "")
    return Grid(header, tuple(rows))


def fit_plot(fit: LawFit, name: str) -> str:
    """Return the points, the law, its confidence band, and beyond the points a dashed line."""
    with drawing(name, WIDTH, 3.6) as plot:
        axes = plot.figure.subplots()
        inside = [p for p in fit.curve if not p.is_extrapolated]
        beyond = [p for p in fit.curve if p.x >= inside[-1].x]
        _draw(axes, inside, "-", BLUE, "law")
        _draw(axes, beyond, "--", GRAY, "extrapolation")
        if fit.points:
            x, ratio = [p.x for p in fit.points], [100 * p.activation_ratio for p in fit.points]
            axes.plot(x, ratio, "o", color=GREEN, markersize=3.5, label="measured", zorder=3)
        shown = [100 * p.activation_ratio for p in (*fit.points, *fit.curve)]
        room = HEADROOM * (max(shown) - min(shown)) or 1.0
        axes.set_ylim(max(0.0, min(shown) - room), min(100.0, max(shown) + room))
        if fit.law == "lambda":
            axes.set_xscale("log")
        axes.set_xlabel(fit.x_name)
        axes.set_ylabel("activation ratio (%)")
        axes.grid(axis="y")
        axes.legend(loc="best")
    return plot.svg


def residual_plot(fit: LawFit, name: str) -> str:
    """Return what the law leaves of each point."""
    with drawing(name, WIDTH, 2.2) as plot:
        axes = plot.figure.subplots()
        axes.axhline(0, color=GRAY, linewidth=0.8)
        rest = [100 * (p.activation_ratio - p.by_law) for p in fit.points]
        axes.plot([p.x for p in fit.points], rest, "o", color=BLUE, markersize=3.5)
        if fit.law == "lambda":
            axes.set_xscale("log")
        axes.set_xlabel(fit.x_name)
        axes.set_ylabel("residual (points)")
        axes.grid(axis="y")
    return plot.svg


def law_notes(record: LawsRecord) -> list[str]:
    """Return what a reader must know of the numbers on the page."""
    notes = [
        "The activation ratio is the share of non-zero entries of x_1, the input of down_proj: 1 minus "
        "sparsity.",
        "Intervals are Student's, of the law linearized at its least squares; those of numbers that cannot "
        "change sign are symmetric in the logarithm. They say how sure the numbers are if the law "
        "holds, not whether it holds.",
    ]
    if any(fit.law.startswith("data") for fit in record.fits):
        notes.append(
            "D counts from the start of the run: what a model had seen before is not in it. A line of a "
            "log is a mean since the line before and stands in the middle. Where neighboring "
            "residuals are alike, the intervals are widened by sqrt((1 + r) / (1 - r))."
        )
    return notes


def law_facts(record: LawsRecord) -> list[tuple[str, str]]:
    """Return what belongs to such a record alone, as names and values."""
    return [
        ("laws", listing(list(dict.fromkeys(f"{fit.law}: {fit.formula}" for fit in record.fits)))),
        ("points", listing([f"{fit.num_points} of {fit.name}" for fit in record.fits])),
    ]


def _in_words(record: LawsRecord, fit: LawFit) -> str:
    last = fit.parameters[-1]  # the limit, or the offset
    return (
        f"{fit.name}: {last.name} is {_number(last.value)} ({percent(record.confidence, 0)} confidence: "
        f"{_interval(last.low, last.high)}), R² {fit.r_squared:.4f} over {fit.num_points} points."
    )


def _draw(axes: Axes, curve: Sequence[LawPrediction], line: str, color: str, label: str) -> None:
    x = [p.x for p in curve]
    axes.plot(x, [100 * p.activation_ratio for p in curve], line, color=color, label=label)
    band = [(p.low, p.high) for p in curve if p.low is not None and p.high is not None]
    if len(band) == len(curve) and all(map(math.isfinite, (v for pair in band for v in pair))):
        low, high = ([100 * v for v in side] for side in zip(*band, strict=True))
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return NO_INTERVAL
    return f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:.4g}"
