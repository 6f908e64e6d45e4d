# SPDX-License-Identifier: Apache-2.0
"""Figures of which neurons were active, when and how strongly, each returned as SVG text."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from prosparse.reporting.plots import WIDTH
from prosparse.reporting.svg import BLUE, GRAY, GREEN, INK, ORANGE, drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from prosparse.records.activity import Activity, LayerCounts, Layers

LOOKS = tuple(zip((BLUE, ORANGE, GREEN, INK, GRAY), ("o-", "s--", "^-.", "D:", "v-"), strict=True))
"""Color and line of each data set: told apart without color too."""

Named = tuple[tuple[str, "Activity"], ...]
"""Data sets by name."""


def layer_map(name: str, counts: LayerCounts, ticks: Sequence[str], label: str, what: str) -> str:
    """Return a distribution for each layer, layers upward, as a heat map of shares.

    Args:
        name: Of the plot.
        counts: One row of bins for each layer.
        ticks: Names of the bins' edges, one more than bins; an empty one shows no tick.
        label: Of the axis of bins.
        what: What is counted, e.g. `neurons`.
    """
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    with drawing(name, WIDTH, 3.6) as plot:
        axes = plot.figure.subplots()
        edges = range(len(ticks))
        layer_edges = [layer - 0.5 for layer in range(len(counts) + 1)]
        mesh = axes.pcolormesh(edges, layer_edges, shares, rasterized=True)
        shown = [place for place in edges if ticks[place]]
        axes.set_xticks(shown, [ticks[place] for place in shown])
        axes.set_xlabel(label)
        axes.set_ylabel("layer (0 is next to the input)")
        axes.locator_params(axis="y", integer=True)
        bar = plot.figure.colorbar(mesh, ax=axes, pad=0.015, aspect=28)
        bar.set_label(f"share of the layer's {what} (%)")
        bar.outline.set_visible(False)
    return plot.svg


def union_curves(named: Named) -> str:
    """Return the share of neurons that several tokens need, over their number: spans and batches.

    The gray lines are what tokens would need if each neuron fired independently of the other tokens
    at its layer's rate: how far a curve is below them is what tokens share.
    """
    with drawing("union-curves", WIDTH, 3.6) as plot:
        left, right = plot.figure.subplots(1, 2, sharey=True)
        for (name, activity), (color, line) in zip(named, cycle(LOOKS), strict=False):
            for axes, sizes, unions in (
                (left, activity.span_sizes, activity.span_union),
                (right, activity.batch_sizes, activity.batch_union),
            ):
                apart = independent(unions, sizes)
                axes.plot(sizes, apart, ":", color=GRAY, linewidth=1)
                values = [100 * share for share in mean_over_layers(unions)]
                axes.plot(sizes, values, line, color=color, markersize=4, label=name)
        left.set_xlabel("k consecutive tokens")
        right.set_xlabel("b windows, at the same place")
        left.set_ylabel("neurons that any of them needs (%)")
        left.legend(loc="lower right")
        for axes in (left, right):
            _doubling(axes)
            axes.set_ylim(0, 100)
            axes.grid(axis="y")
    return plot.svg


def position_curve(named: Named) -> str:
    """Return the active share over the place in the window, one line for each data set."""
    with drawing("position-curve", WIDTH, 3.2) as plot:
        axes = plot.figure.subplots()
        for (name, activity), (color, line) in zip(named, cycle(LOOKS), strict=False):
            values = [100 * share for share in mean_over_layers(activity.position_active)]
            places = [start + 1 for start in activity.position_starts]
            axes.plot(places, values, line, color=color, markersize=4, label=name)
        axes.set_xlabel("place in the window, from 1; a point stands for places up to the next one")
        axes.set_ylabel("active neurons (%)")
        _doubling(axes)
        axes.grid(axis="y")
        axes.legend(loc="best")
    return plot.svg


def mean_over_layers(rows: Layers) -> list[float]:
    """Return the mean of each column."""
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def independent(unions: Layers, sizes: Sequence[int]) -> list[float]:
    """Return the union in % if tokens had nothing in common: mean over layers of 1 - (1 - p)^n."""
    return [100 * sum(1 - (1 - row[0]) ** n for row in unions) / len(unions) for n in sizes]


def _doubling(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
