# SPDX-License-Identifier: Apache-2.0
"""The figures of a report, each returned as SVG text.

They have the shape of the paper's: sparsity along the training process (Figure 2) with loss and
lambda, layer-wise sparsity before and after threshold shifting (Figure 4), and the trade-off
behind the choice of t (Appendix O) as a curve. `log` is the content of a run's `log.jsonl`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from prosparse.reporting.numerals import compact_number, increase, percent
from prosparse.reporting.stage_strip import draw_stages
from prosparse.reporting.svg import BLUE, GRAY, GREEN, INK, ORANGE, drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from prosparse.records.run import StageRecord
    from prosparse.records.threshold import ThresholdCandidate, ThresholdRecord

Log = list[dict[str, Any]]

WIDTH = 9.0  # inches; the page scales the drawing
BUDGETS_SHOWN = 4.0  # the trade-off's axis ends at this multiple of the budget


def training_curve(log: Log, stages: tuple[StageRecord, ...]) -> str:
    """Return sparsity and lambda over the steps, above the language-modeling loss."""
    steps, losses, factors = (_column(log, key) for key in ("step", "loss", "factor"))
    with drawing("training-curve", WIDTH, 5.4) as plot:
        strip, top, bottom = plot.figure.subplots(3, 1, sharex=True, height_ratios=(0.24, 3, 2))
        draw_stages(strip, (top, bottom), log, stages)

        _curve(top, steps, [100 * share for share in _column(log, "sparsity")], BLUE)
        top.set_ylabel("sparsity of the training batch (%)", color=BLUE)
        top.set_ylim(0, 100)
        _target(top, log)
        _factor_behind(top, steps, factors)

        reach = len(log) // 40
        _curve(bottom, steps, losses, "#B9C0C7", width=0.9, label="each log line")
        if reach > 0:
            label = f"mean of {2 * reach + 1} lines around"
            _curve(bottom, steps, _smooth(losses, reach), INK, label=label)
            bottom.legend(loc="upper right", ncols=2)
        bottom.set_ylabel("language-modeling\nloss (nats per token)")
        bottom.set_xlabel("optimizer step")
        for axes in (top, bottom):
            axes.grid(axis="y")
    return plot.svg


def sparsity_heatmap(log: Log, stages: tuple[StageRecord, ...]) -> str:
    """Return each layer's sparsity over the steps, layers upward, as a heat map."""
    with drawing("sparsity-heatmap", WIDTH, 3.6) as plot:
        strip, axes = plot.figure.subplots(2, 1, sharex=True, height_ratios=(0.24, 3))
        draw_stages(strip, (axes,), log, stages, color="white")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("layer (0 is next to the input)")
        if log:
            by_step = [[100 * float(share) for share in entry["layer_sparsity"]] for entry in log]
            by_layer = list(zip(*by_step, strict=True))
            step_edges = [0.0, *_column(log, "step")]
            layer_edges = [layer - 0.5 for layer in range(len(by_layer) + 1)]
            # one small bitmap instead of a rectangle for every layer and step
            mesh = axes.pcolormesh(step_edges, layer_edges, by_layer, rasterized=True)
            bar = plot.figure.colorbar(mesh, ax=[strip, axes], pad=0.015, aspect=28)
            bar.set_label("sparsity of the training batch (%)")
            bar.outline.set_visible(False)
            axes.locator_params(axis="y", integer=True)
    return plot.svg


def layer_sparsity(
    before: Sequence[float],
    after: Sequence[float] | None = None,
    labels: tuple[str, ...] = ("before", "after"),
) -> str:
    """Return sparsity over the layers as a line chart.

    Args:
        before: Sparsity of each layer, lowest first, in [0, 1].
        after: The same after threshold shifting; None for a single line.
        labels: What the lines are; each gets its mean added.
    """
    with drawing("layer-sparsity", WIDTH, 3.4) as plot:
        axes = plot.figure.subplots()
        layers = range(len(before))
        lines = [before] if after is None else [before, after]
        looks = [(GRAY, "o--"), (BLUE, "o-")][-len(lines) :]
        for shares, label, (color, shape) in zip(lines, labels, looks, strict=False):
            mean = sum(shares) / max(1, len(shares))
            values = [100 * share for share in shares]
            legend = f"{label} (mean {percent(mean, 1)})"
            axes.plot(layers, values, shape, color=color, markersize=4, label=legend)
        if after is not None:
            low, high = ([100 * share for share in shares] for shares in lines)
            axes.fill_between(layers, low, high, color=BLUE, alpha=0.08, linewidth=0)
        axes.set_xlabel("layer (0 is next to the input)")
        axes.set_ylabel("sparsity (%)")
        axes.grid(axis="y")
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.02)
        low, high = axes.get_ylim()
        if high - low < 1:  # a dense model's few zeros by rounding are no curve
            start = min(max(0, (low + high) / 2 - 0.5), 99)
            axes.set_ylim(start, start + 1)
        axes.legend(loc="lower right")
    return plot.svg


def threshold_tradeoff(record: ThresholdRecord) -> str:
    """Return perplexity increase over sparsity, one point per candidate, with the budget.

    A large t can cost hundreds of percent. The axis ends at a few budgets so that the choice can
    be seen; candidates beyond it stand as triangles at the edge with their increase in words.
    """
    budget = 100 * record.max_perplexity_increase
    ceiling = BUDGETS_SHOWN * budget if budget > 0 else math.inf
    candidates = record.candidates
    shown = [
        c
        for c in candidates
        if math.isfinite(c.perplexity_increase) and 100 * c.perplexity_increase <= ceiling
    ]
    with drawing("threshold-tradeoff", WIDTH, 3.9) as plot:
        axes = plot.figure.subplots()
        axes.axhline(budget, color=ORANGE, linestyle="--", linewidth=1.2)
        axes.axhline(0, color="#9AA1A9", linewidth=0.8)
        axes.errorbar(
            [100 * c.sparsity for c in shown],
            [100 * c.perplexity_increase for c in shown],
            yerr=[100 * _finite(c.perplexity_increase_stderr) for c in shown],
            fmt="o-",
            color=BLUE,
            ecolor="#7FB3D5",
            capsize=3,
            markersize=5,
        )
        _budget_label(axes, budget)
        for candidate in shown:
            _annotate(axes, candidate, candidate.threshold == record.chosen)
        _off_scale(axes, [c for c in candidates if c not in shown])
        axes.set_xlabel("sparsity (%)")
        axes.set_ylabel("perplexity increase over t = 0 (%)")
        axes.margins(x=0.06, y=0.22)
        axes.grid(axis="y")
    return plot.svg


def _factor_behind(axes: Axes, steps: list[float], factors: list[float]) -> None:
    behind = axes.twinx()
    behind.fill_between(steps, factors, color=ORANGE, alpha=0.10, linewidth=0)
    _curve(behind, steps, factors, ORANGE, width=1.3, linestyle="--")
    behind.set_ylabel("lambda (regularization factor)", color=ORANGE)
    behind.set_ylim(0, 1.08 * max(factors, default=0.0) or 1.0)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)


def _target(axes: Axes, log: Log) -> None:
    """Draw the sparsity that lambda was steered to, where it was, and what was held against it."""
    steered = [entry for entry in log if "target_sparsity" in entry and entry["factor"] > 0]
    if not steered:
        return
    steps, targets, estimates = (
        _column(steered, key) for key in ("step", "target_sparsity", "estimated_sparsity")
    )
    held_out = [100 * share for share in estimates]
    _curve(axes, steps, held_out, GREEN, width=1.2, linestyle=":", label="held out, estimated")
    target = f"target {percent(targets[-1], 1)}"
    _curve(axes, steps, [100 * share for share in targets], GREEN, width=1.2, label=target)
    axes.legend(loc="lower right")


def _curve(
    axes: Axes, x: list[float], y: list[float], color: str, width: float = 1.8, **options: Any
) -> None:
    marker = "o" if len(x) < 3 else ""  # a line through one point would not show
    axes.plot(x, y, color=color, linewidth=width, marker=marker, markersize=3, **options)


def _budget_label(axes: Axes, budget: float) -> None:
    axes.annotate(
        f"budget {compact_number(budget)} %",
        (0, budget),
        xycoords=("axes fraction", "data"),
        xytext=(6, 4),
        textcoords="offset points",
        color=ORANGE,
    )


def _annotate(axes: Axes, candidate: ThresholdCandidate, is_chosen: bool) -> None:
    point = (100 * candidate.sparsity, 100 * candidate.perplexity_increase)
    name = f"t = {compact_number(candidate.threshold)}"
    if is_chosen:
        axes.plot(*point, "o", color=GREEN, markersize=12, markerfacecolor="none", zorder=4)
    axes.annotate(
        f"{name}, chosen" if is_chosen else name,
        point,
        xytext=(5, -9),
        textcoords="offset points",
        rotation=-30,  # small thresholds lie close together
        rotation_mode="anchor",
        va="top",
        color=GREEN if is_chosen else INK,
        fontweight="bold" if is_chosen else "normal",
    )


def _off_scale(axes: Axes, candidates: list[ThresholdCandidate]) -> None:
    """Mark candidates beyond the axis at its upper edge."""
    across = axes.get_xaxis_transform()
    for candidate in candidates:
        sparsity = 100 * candidate.sparsity
        axes.plot(sparsity, 1, "^", color=BLUE, markersize=6, transform=across, clip_on=False)
        cost = increase(candidate.perplexity_increase)
        axes.annotate(
            f"t = {compact_number(candidate.threshold)}\n{cost}",
            (sparsity, 1),
            xycoords=across,
            xytext=(0, -8),
            textcoords="offset points",
            ha="center",
            va="top",
        )


def _smooth(values: list[float], reach: int) -> list[float]:
    spans = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(span) / len(span) for span in spans]


def _column(log: Log, key: str) -> list[float]:
    return [float(entry[key]) for entry in log]  # float() also reads the codec's "nan" and "inf"


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
