# SPDX-License-Identifier: Apache-2.0
"""The parts of a report on thresholds: what they give and cost, by method and layer, and the check."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prosparse.reporting import plots
from prosparse.reporting.alternatives import layers_in_words
from prosparse.reporting.grids import Grid, threshold_grid, threshold_setting
from prosparse.reporting.numerals import compact_number, increase, listing, percent
from prosparse.reporting.section import Section
from prosparse.reporting.svg import BLUE, GRAY, GREEN, ORANGE, drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.threshold import LayerCost, ThresholdCandidate, ThresholdRecord

LOOKS = {
    "fixed": ("one t for all layers", GRAY, "s--"),
    "per-layer": ("per layer, by cost", BLUE, "o-"),
    "cett": ("per layer, equal error (CETT)", ORANGE, "^-."),
}
SHOWN_UP_TO = 3.0
"""The plot of methods ends at this multiple of the budget."""


def threshold_sections(record: ThresholdRecord) -> list[Section]:
    """Return the parts on a search for thresholds."""
    parts = [_tradeoff(record), *_check(record), _shift(record)]
    if any(len(set(row.layer_thresholds)) > 1 for row in record.candidates):
        chosen = chosen_of_methods(record)
        text = "What each method chose; the fixed t, if it was tried, is the level line."
        figure = layer_thresholds_plot(chosen)
        words = ". ".join(f"{LOOKS[row.method][0]}: {named(row)}" for row in chosen) + "."
        parts.append(Section("Thresholds by layer", text, figure, alternative=words))
        grid = layer_thresholds_grid(chosen)
        parts.append(Section("Thresholds by layer, in numbers", grid=grid, is_folded=True))
    if record.layer_costs:
        text = (
            "A threshold that leaves a large relative error in the output of one layer alone, and what "
            "it adds to the loss there; ± is the standard error of paired windows. The dearer a "
            "layer's error, the lower its threshold."
        )
        figure = layer_costs_plot(record.layer_costs)
        words = _dearest(record.layer_costs)
        parts.append(Section("What an error costs, by layer", text, figure, alternative=words))
        grid = layer_costs_grid(record.layer_costs)
        parts.append(Section("What an error costs, in numbers", grid=grid, is_folded=True))
    return parts


def threshold_outcome(record: ThresholdRecord) -> list[str]:
    """Return what was applied, what it costs on other text and what went amiss, a sentence each."""
    if record.chosen == 0:
        return list(record.notes)
    chosen, checked = record.chosen_candidate, record.checked
    sentences = [
        f"Applied {named(chosen)}: sparsity {percent(chosen.sparsity)} at {_cost(chosen)} perplexity."
    ]
    if checked is not None:
        sentences.append(
            f"On text that it was not chosen by: sparsity {percent(checked.sparsity)} at "
            f"{_cost(checked)} perplexity, {'within' if checked.within_budget else 'over'} the budget."
        )
    return [*sentences, *record.notes]


def chosen_of_methods(record: ThresholdRecord) -> list[ThresholdCandidate]:
    """Return the largest setting within the budget of each method, in the order they were tried."""
    best: dict[str, ThresholdCandidate] = {}
    for row in record.candidates:
        if row.within_budget and row.threshold > 0:
            best[row.method] = row
    return list(best.values())


def method_plot(record: ThresholdRecord) -> str:
    """Return perplexity increase over sparsity, a line for each method, with the budget."""
    budget = 100 * record.max_perplexity_increase
    with drawing("threshold-methods", plots.WIDTH, 3.9) as plot:
        axes = plot.figure.subplots()
        axes.axhline(0, color=GRAY, linewidth=0.8)
        axes.axhline(budget, color=GREEN, linestyle=":", linewidth=1.2, label="budget")
        for method, (label, color, line) in LOOKS.items():
            own = [row for row in record.candidates if row.method == method and row.threshold > 0]
            shown = [r for r in own if 100 * r.perplexity_increase <= SHOWN_UP_TO * budget]
            if shown:
                shown = [record.candidates[0], *shown]
                axes.errorbar(
                    [100 * row.sparsity for row in shown],
                    [100 * row.perplexity_increase for row in shown],
                    yerr=[100 * _finite(row.perplexity_increase_stderr) for row in shown],
                    fmt=line,
                    color=color,
                    capsize=3,
                    markersize=5,
                    label=label,
                )
        axes.set_xlabel("sparsity (%)")
        axes.set_ylabel("perplexity increase over t = 0 (%)")
        axes.grid(axis="y")
        axes.legend(loc="upper left")
    return plot.svg


def layer_thresholds_plot(chosen: Sequence[ThresholdCandidate]) -> str:
    """Return the threshold over the layers, a line for each method."""
    with drawing("layer-thresholds", plots.WIDTH, 3.4) as plot:
        axes = plot.figure.subplots()
        for row in chosen:
            label, color, line = LOOKS[row.method]
            axes.plot(row.layer_thresholds, line, color=color, markersize=4, label=label)
        axes.set_xlabel("layer (0 is next to the input)")
        axes.set_ylabel("threshold t")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.02)
        axes.legend(loc="upper right")
    return plot.svg


def layer_costs_plot(costs: Sequence[LayerCost]) -> str:
    """Return what an error costs in each layer alone, as bars with their standard error."""
    with drawing("layer-costs", plots.WIDTH, 3.0) as plot:
        axes = plot.figure.subplots()
        axes.bar(
            range(len(costs)),
            [cost.loss_increase for cost in costs],
            yerr=[_finite(cost.loss_increase_stderr) for cost in costs],
            color=BLUE,
            ecolor=GRAY,
            capsize=2,
        )
        axes.axhline(0, color=GRAY, linewidth=0.8)
        axes.set_xlabel("layer (0 is next to the input)")
        axes.set_ylabel("loss increase (nats per token)")
        axes.grid(axis="y")
        axes.locator_params(axis="x", integer=True)
        axes.margins(x=0.02)
    return plot.svg


def layer_thresholds_grid(chosen: Sequence[ThresholdCandidate]) -> Grid:
    """Return threshold and sparsity of each layer by each method."""
    names = [name for row in chosen for name in (f"t, {row.method}", f"sparsity, {row.method}")]
    layers = range(len(chosen[0].layer_sparsity))
    return Grid(
        ("layer", *names),
        tuple(
            (
                str(layer),
                *(
                    cell
                    for row in chosen
                    for cell in (
                        compact_number(row.layer_thresholds[layer]),
                        percent(row.layer_sparsity[layer]),
                    )
                ),
            )
            for layer in layers
        ),
    )


def layer_costs_grid(costs: Sequence[LayerCost]) -> Grid:
    """Return what was tried in each layer, and what it cost."""
    return Grid(
        ("layer", "t tried", "relative output error", "loss increase (nats)"),
        tuple(
            (
                str(layer),
                compact_number(cost.threshold),
                f"{cost.error:.4f}",
                f"{cost.loss_increase:+.5f} ± {_finite(cost.loss_increase_stderr):.5f}",
            )
            for layer, cost in enumerate(costs)
        ),
    )


def check_grid(record: ThresholdRecord) -> Grid:
    """Return each method's choice on the text it was chosen by and on the text of the check."""
    chosen = {row.method: row for row in record.candidates if row in chosen_of_methods(record)}
    rows = [
        (
            threshold_setting(row),
            percent(chosen[row.method].sparsity),
            _cost(chosen[row.method]),
            percent(row.sparsity),
            _cost(row),
            "within budget" if row.within_budget else "over budget",
        )
        for row in record.check[1:]
        if row.method in chosen
    ]
    methods = [row.method for row in record.check[1:] if row.method in chosen]
    marked = methods.index(record.method) if record.chosen and record.method in methods else None
    header = ("t", "sparsity", "ppl increase", "sparsity, check", "ppl increase, check", "verdict")
    return Grid(header, tuple(rows), marked=marked)


def _tradeoff(record: ThresholdRecord) -> Section:
    title = "Activation threshold shifting"
    budget = compact_number(100 * record.max_perplexity_increase)
    if {row.method for row in record.candidates} == {"fixed"}:
        text = (
            "Gate values below t become zero as well (FATReLU). The largest t whose perplexity "
            f"increase stays within {budget} % is chosen."
        )
        return Section(title, text, plots.threshold_tradeoff(record), threshold_grid(record))
    text = (
        "Gate values below a layer's t become zero as well (FATReLU). Each method looks for the edge "
        f"of the budget of {budget} %; of its settings within, the largest counts, and of the methods "
        "the sparsest is chosen. Further right at the same height is better."
    )
    return Section(title, text, method_plot(record), threshold_grid(record))


def _check(record: ThresholdRecord) -> list[Section]:
    title = "On text that nothing was chosen by"
    notes = " ".join(record.notes)
    if not record.check:
        return [Section(title, notes)] if notes else []
    sources = [f"{m.num_tokens:,} tokens of {m.data} ({m.source})" for m in record.check[0].data]
    text = f"The choice again, against plain ReLU, on {listing(sources)}. {notes}".rstrip()
    if len(record.check) < 2:
        return [Section(title, text)]
    return [Section(title, text, grid=check_grid(record))]


def _shift(record: ThresholdRecord) -> Section:
    before = record.candidates[0].layer_sparsity
    if record.chosen == 0:
        figure = plots.layer_sparsity(before, labels=("ReLU",))
        words = layers_in_words(before, "ReLU")
        return Section("Sparsity by layer", figure=figure, alternative=words)
    chosen = record.chosen_candidate
    labels = ("ReLU", f"FATReLU, {named(chosen)}")
    after = chosen.layer_sparsity
    figure = plots.layer_sparsity(before, after, labels)
    words = " ".join(map(layers_in_words, (before, after), labels))
    title = "Sparsity by layer, before and after shifting"
    return Section(title, figure=figure, alternative=words)


def _dearest(costs: Sequence[LayerCost]) -> str:
    layer = max(range(len(costs)), key=lambda i: costs[i].loss_increase)
    return f"The dearest layer is {layer}, at {costs[layer].loss_increase:+.5f} nats per token."


def named(row: ThresholdCandidate) -> str:
    """Return the thresholds of a candidate, e.g. `t = 0.02`."""
    if row.method == "fixed":
        return f"t = {compact_number(row.threshold)}"
    low, high = min(row.layer_thresholds), max(row.layer_thresholds)
    return f"t from {compact_number(low)} to {compact_number(high)} by layer ({row.method})"


def _cost(row: ThresholdCandidate) -> str:
    return increase(row.perplexity_increase, row.perplexity_increase_stderr)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
