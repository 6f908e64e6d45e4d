# SPDX-License-Identifier: Apache-2.0
"""What a figure shows, in a sentence or two, for readers who cannot see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosparse.reporting.numerals import compact_number, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.activity import LayerCounts


def training_in_words(log: Sequence[dict[str, Any]]) -> str:
    """Return where sparsity, loss and lambda of a log begin and end; empty for an empty log."""
    if not log:
        return ""
    first, last = log[0], log[-1]
    return (
        f"From step {first['step']:,} to step {last['step']:,} the batch's sparsity goes from "
        f"{percent(float(first['sparsity']), 1)} to {percent(float(last['sparsity']), 1)}, the loss "
        f"from {float(first['loss']):.2f} to {float(last['loss']):.2f} nats, and lambda from "
        f"{compact_number(float(first['factor']))} to {compact_number(float(last['factor']))}."
    )


def layers_in_words(shares: Sequence[float], label: str) -> str:
    """Return the extremes and the mean of sparsity by layer, e.g. for one line of a chart."""
    if not shares:
        return ""
    low = min(range(len(shares)), key=lambda layer: shares[layer])
    high = max(range(len(shares)), key=lambda layer: shares[layer])
    return (
        f"{label}: the lowest is {percent(shares[low], 1)} in layer {low}, the highest "
        f"{percent(shares[high], 1)} in layer {high}, the mean {percent(sum(shares) / len(shares), 1)}."
    )


def histograms_in_words(counts: LayerCounts, edges: Sequence[str], what: str) -> str:
    """Return the fullest bin of each layer's histogram, over all layers.

    Args:
        counts: One row of bins for each layer.
        edges: Names of all the bins' edges, one more than bins.
        what: What is counted, e.g. `tokens`.
    """
    totals = [sum(column) for column in zip(*counts, strict=True)]
    fullest = max(range(len(totals)), key=lambda bin: totals[bin])
    share = totals[fullest] / max(1, sum(totals))
    return (
        f"All layers together, most {what} ({percent(share, 1)}) are between {edges[fullest]} and "
        f"{edges[fullest + 1]}."
    )
