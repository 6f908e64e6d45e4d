# SPDX-License-Identifier: Apache-2.0
"""Figures that lay several runs over each other, each returned as SVG text."""

from __future__ import annotations

import math
from itertools import cycle, product
from typing import TYPE_CHECKING

from prosparse.reporting.numerals import compact_count
from prosparse.reporting.plots import WIDTH
from prosparse.reporting.svg import BLUE, GRAY, GREEN, INK, ORANGE, drawing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prosparse.reporting.compared_runs import ComparedRun

COLORS = (BLUE, ORANGE, GREEN, INK, "#CC79A7", GRAY)
LOOKS = tuple(zip(("o-", "s--", "^-.", "D:"), ("-", "--", "-.", ":"), strict=True))
HIGHEST_SHOWN = 0.25
"""Candidates that cost more perplexity than this are left to the table."""


def layer_curves(runs: Sequence[ComparedRun]) -> str:
    """Return sparsity over the layers, a line for each run (Figure 4 of ProSparse)."""
    with drawing("compared-layers", WIDTH, 3.6) as plot:
        axes = plot.figure.subplots()
        for run, color, marked, _ in _looks(runs):
            values = [100 * share for share in run.layer_sparsity]
            axes.plot(range(len(values)), values, marked, color=color, markersize=4, label=run.name)
        axes.set_xlabel("layer (0 is next to the input)")
        axes.set_ylabel("sparsity (%)")
        axes.grid(axis="y")
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.02)
        axes.legend(loc="best")
    return plot.svg


def training_curves(runs: Sequence[ComparedRun]) -> str:
    """Return sparsity, loss and lambda over training tokens, a line for each run (Figure 2)."""
    columns = (
        ("sparsity", "sparsity of the\ntraining batch (%)", 100.0),
        ("loss", "language-modeling\nloss (nats per token)", 1.0),
        ("factor", "lambda", 1.0),
    )
    with drawing("compared-training", WIDTH, 6.0) as plot:
        panels = plot.figure.subplots(3, 1, sharex=True, height_ratios=(3, 2.4, 1.3))
        for axes, (key, label, scale) in zip(panels, columns, strict=True):
            for run, color, _, line in _looks(runs):
                tokens = [float(entry["tokens"]) for entry in run.log]
                values = [scale * float(entry[key]) for entry in run.log]
                axes.plot(tokens, values, line, color=color, linewidth=1.5, label=run.name)
            axes.set_ylabel(label)
            axes.grid(axis="y")
        panels[0].legend(loc="lower right")
        panels[-1].set_xlabel("training tokens")
        panels[-1].xaxis.set_major_formatter(lambda value, _: compact_count(value))
    return plot.svg


def perplexity_dots(runs: Sequence[ComparedRun], names: Sequence[str]) -> str:
    """Return each run's perplexity on each data set, with its standard error, on a log axis."""
    with drawing("compared-perplexity", WIDTH, 1.2 + 0.55 * len(names)) as plot:
        axes = plot.figure.subplots()
        for index, (run, color, marked, _) in enumerate(_looks(runs)):
            shift = 0.5 * ((index + 0.5) / len(runs) - 0.5)
            found = [(row, m) for row, name in enumerate(names) if (m := run.measure(name))]
            axes.errorbar(
                [m.perplexity for _, m in found],
                [row + shift for row, _ in found],
                xerr=[_finite(m.perplexity_stderr) for _, m in found],
                fmt=marked[0],
                color=color,
                markersize=5,
                capsize=3,
                label=run.name,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}")
        axes.tick_params(axis="x", which="both", length=3)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("perplexity (log axis); bars are one standard error")
        axes.grid(axis="x", which="both")
        axes.legend(loc="best")
    return plot.svg


def threshold_curves(runs: Sequence[ComparedRun]) -> str:
    """Return what each candidate threshold gives and costs, a line for each run."""
    with drawing("compared-thresholds", WIDTH, 3.9) as plot:
        axes = plot.figure.subplots()
        axes.axhline(0, color=GRAY, linewidth=0.8)
        for run, color, marked, _ in _looks(runs):
            shown = [c for c in run.candidates if c.perplexity_increase <= HIGHEST_SHOWN]
            axes.errorbar(
                [100 * c.sparsity for c in shown],
                [100 * c.perplexity_increase for c in shown],
                yerr=[100 * _finite(c.perplexity_increase_stderr) for c in shown],
                fmt=marked,
                color=color,
                markersize=5,
                capsize=3,
                label=run.name,
            )
        axes.set_xlabel("sparsity (%)")
        axes.set_ylabel("perplexity increase over t = 0 (%)")
        axes.grid(axis="y")
        axes.legend(loc="best")
    return plot.svg


def frontier_dots(runs: Sequence[ComparedRun], names: Sequence[str]) -> str:
    """Return perplexity (geometric mean over shared data sets) over sparsity, a point for each run."""
    with drawing("compared-frontier", WIDTH, 3.9) as plot:
        axes = plot.figure.subplots()
        for run, color, marked, _ in _looks(runs):
            losses = [m.loss for name in names if (m := run.measure(name)) is not None]
            at = (100 * run.sparsity, math.exp(sum(losses) / len(losses)))
            axes.plot(*at, marked[0], color=color, markersize=7, label=run.name)
        axes.set_xlabel("sparsity (%)")
        axes.set_ylabel("perplexity, geometric mean")
        axes.margins(0.15)
        axes.grid()
        axes.legend(loc="best")
    return plot.svg


def _looks(runs: Sequence[ComparedRun]) -> Iterator[tuple[ComparedRun, str, str, str]]:
    """Yield each run with its color, its line with markers and its line alone.

    Lines differ in more than color; pairs repeat only after 12 runs.
    """
    pairs = list(product(range(len(COLORS)), range(len(LOOKS))))
    pairs.sort(key=lambda pair: ((pair[1] - pair[0]) % len(LOOKS), pair[0]))
    for run, (color, look) in zip(runs, cycle(pairs), strict=False):
        yield run, COLORS[color], *LOOKS[look]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
