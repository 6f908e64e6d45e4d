# SPDX-License-Identifier: Apache-2.0
"""The report on a frontier; importing this makes `headline`, `tiles` and `sections` know it."""

from __future__ import annotations

import re
from typing import Any

from prosparse.records.frontier import FrontierPoint, FrontierRecord
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import compact_count, compact_number, percent, with_error
from prosparse.reporting.plots import WIDTH
from prosparse.reporting.sections import Section, sections
from prosparse.reporting.summary import Tile, headline, tiles
from prosparse.reporting.svg import BLUE, GRAY, GREEN, INK, ORANGE, drawing

COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", INK)
HIGHEST_SHOWN = 2.5
"""Times the control's perplexity; what lies above stands in the table alone."""


@headline.register
def _(record: FrontierRecord) -> str:
    best = max((p for p in record.points if p.is_chosen), key=lambda p: p.sparsity)
    return (
        f"{len({p.run for p in record.points})} runs against {record.control.run}: the sparsest, "
        f"{best.run} ({best.label}), has {percent(best.sparsity, 1)} zeros at "
        f"{best.ratio:.3f} times its perplexity."
    )


@tiles.register
def _(record: FrontierRecord) -> list[Tile]:
    best = max((p for p in record.points if p.is_chosen), key=lambda p: p.sparsity)
    return [
        (percent(best.sparsity, 1), f"of FFN activations are zero in {best.run}"),
        (f"{best.ratio:.3f}x", f"perplexity of {record.control.run}"),
    ]


@sections.register
def _(record: FrontierRecord, log: list[dict[str, Any]]) -> list[Section]:
    text = (
        f"Perplexity on held-out text over that of {record.control.run}, geometric mean over data "
        "sets. A hollow point is the run at the end of training; the line goes on through its "
        "thresholds, the chosen one filled. The dashed line joins runs that differ in a number alone."
    )
    grid = (
        "Sparsity and perplexity (± one standard error) of each run, then perplexity over the "
        "control's. All are of the same text, so their differences are known better than the errors "
        "of either tell; seeds are not in them."
    )
    return [
        Section(
            "The frontier",
            text,
            figure=frontier_plot(record),
            alternative=f"{headline(record)} All its points are in the table that follows.",
        ),
        Section("Runs", grid, grid=frontier_grid(record)),
    ]


def frontier_grid(record: FrontierRecord) -> Grid:
    """Return a row for the control and each point."""
    names = [measure.data for measure in record.control.data]
    header = ("run", "point", "sparsity", *(f"ppl {name}" for name in names), "over the control")
    points = [record.control, *record.points]
    rows = [
        (
            point.run,
            f"{point.label}, chosen"
            if point.is_chosen and point.label != "trained"
            else point.label,
            percent(point.sparsity),
            *(with_error(m.perplexity, m.perplexity_stderr) for m in point.data),
            f"{point.ratio:.3f}x",
            compact_number(point.factor),
            compact_count(point.num_tokens),
        )
        for point in points
    ]
    return Grid((*header, "lambda", "tokens"), tuple(rows), num_text_columns=2)


def frontier_plot(record: FrontierRecord) -> str:
    """Return perplexity over the control's, over sparsity."""
    families = list(dict.fromkeys(family(point.run) for point in record.points))
    with drawing("frontier", WIDTH, 5.0) as plot:
        axes = plot.figure.subplots()
        axes.axhline(1, color=GRAY, linewidth=1.0)
        for index, name in enumerate(families):
            color = COLORS[index % len(COLORS)]
            runs = dict.fromkeys(p.run for p in record.points if family(p.run) == name)
            trained = []
            for run in runs:
                points = [p for p in record.points if p.run == run and p.ratio <= HIGHEST_SHOWN]
                trained += [p for p in points if p.label == "trained"]
                _draw_run(axes, points, color)
            ends = sorted((100 * p.sparsity, p.ratio) for p in trained)
            if len(ends) > 1:
                axes.plot(*zip(*ends, strict=True), "--", color=color, linewidth=1.0)
            axes.plot([], [], "o-", color=color, label=name)
        axes.set_xlabel("sparsity (%)")
        axes.set_ylabel(f"perplexity over that of {record.control.run}")
        axes.margins(x=0.08, y=0.1)
        axes.grid()
        axes.legend(loc="upper left")
    return plot.svg


def family(run: str) -> str:
    """Return a run's name without the number at its end: `fixed-l1` of `fixed-l1-0.3`."""
    return re.sub(r"[-_]\d+(\.\d+)?(e-?\d+)?$", "", run)


def _draw_run(axes: Any, points: list[FrontierPoint], color: str) -> None:
    for point in points:
        at = (100 * point.sparsity, point.ratio)
        filled = color if point.is_chosen else "white"
        size = 7 if point.label == "trained" or point.is_chosen else 4
        axes.plot(*at, "o", color=color, markerfacecolor=filled, markersize=size, zorder=3)
        if point.label == "trained" and point.run != family(point.run):  # the legend has the others
            axes.annotate(point.run, at, xytext=(6, -11), textcoords="offset points", color=color)
    places = [(100 * p.sparsity, p.ratio) for p in points]
    if len(places) > 1:
        axes.plot(*zip(*places, strict=True), "-", color=color, linewidth=1.2)
