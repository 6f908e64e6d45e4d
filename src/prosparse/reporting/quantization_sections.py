# SPDX-License-Identifier: Apache-2.0
"""The page on a quantized checkpoint; importing it makes `headline`, `tiles`, `sections` know it."""

from __future__ import annotations

from typing import Any

from prosparse.records.quantization import QuantizedLayer, QuantizeRecord
from prosparse.records.sparsity import pool_layer_sparsity
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import increase, listing, percent, with_error
from prosparse.reporting.section import Section
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import Tile, headline, tiles


@headline.register
def _(record: QuantizeRecord) -> str:
    cost = increase(record.perplexity_increase, record.perplexity_increase_stderr)
    budget = percent(record.max_perplexity_increase, 1)
    verdict = "within the budget" if record.is_within_budget else "more than the budget"
    return (
        f"Of {len(record.layers)} linear layers and embeddings, {listing(_counts(record))}: the weights "
        f"shrink from {_megabytes(record.bytes_before)} to {_megabytes(record.bytes_after)} at {cost} "
        f"perplexity, {verdict} of {budget}, on text that took no part in deciding."
    )


@tiles.register
def _(record: QuantizeRecord) -> list[Tile]:
    return [
        (_megabytes(record.bytes_after), f"of weights, {_megabytes(record.bytes_before)} before"),
        (increase(record.perplexity_increase), "perplexity over the model as it was"),
        (
            f"{len(record.held_in(record.bits))}",
            f"of {len(record.layers)} layers in {record.bits} bits",
        ),
    ]


@sections.register
def _(record: QuantizeRecord, log: list[dict[str, Any]]) -> list[Section]:
    higher = [layer for layer in record.layers if layer.bits != record.bits]
    text = (
        f"Decided on {record.deciding_tokens:,} tokens: each layer is measured alone, and the longest "
        "beginning of their order by cost for each weight that stays within the budget together is taken. "
        "With all decisions together the predictions on that text moved by a KL divergence of "
        f"{record.deciding_divergence:.4f} nats per token."
    )
    if record.cutting_tokens is not None and record.cutting_increase is not None:
        text += (
            f" What they cost together was measured on {record.cutting_tokens:,} other tokens, as perplexity: "
            f"{increase(record.cutting_increase)}, a standard error added."
        )
    kept = (
        f"What {record.bits} bits would have cost too much of the budget, with the KL divergence, in "
        "nats per token, that each causes alone. A dash: not measured alone, because its decoder layer "
        "cost so little, or not tried."
    )
    return [
        Section(
            "Perplexity", "The same held-out windows before and after.", grid=quality_grid(record)
        ),
        Section("Layers by bits", text, grid=bits_grid(record)),
        *([Section("Layers kept higher", kept, grid=layers_grid(higher))] if higher else []),
        Section("All layers", grid=layers_grid(record.layers), is_folded=True),
    ]


def quality_grid(record: QuantizeRecord) -> Grid:
    """Return size, perplexity of each data set and sparsity over all tokens, before and after."""
    rows = [
        (
            name,
            _megabytes(num_bytes),
            *(with_error(m.perplexity, m.perplexity_stderr) for m in measures),
            percent(_mean(pool_layer_sparsity(measures))),
        )
        for name, num_bytes, measures in (
            (f"as it was ({record.kept_dtype})", record.bytes_before, record.before),
            (f"quantize --bits {record.bits}", record.bytes_after, record.after),
        )
    ]
    titles = [f"ppl {measure.data}" for measure in record.before]
    return Grid(("", "weights", *titles, "sparsity"), tuple(rows))


def bits_grid(record: QuantizeRecord) -> Grid:
    """Return how many layers and weights are held in how many bits."""
    total = sum(layer.num_weights for layer in record.layers)
    rows = []
    for bits in (4, 8, None):
        held = record.held_in(bits)
        if held:
            weights = sum(layer.num_weights for layer in held)
            name = record.kept_dtype if bits is None else f"{bits} bits"
            rows.append((name, f"{len(held)}", f"{weights:,}", percent(weights / total, 1)))
    return Grid(("held in", "layers", "weights", "share"), tuple(rows))


def layers_grid(layers: tuple[QuantizedLayer, ...] | list[QuantizedLayer]) -> Grid:
    """Return the bits of layers and what they cost alone."""
    return Grid(
        ("layer", "bits", "weights", "alone in 8 bits", "alone in 4 bits"),
        tuple(
            (
                layer.name,
                "stays" if layer.bits is None else str(layer.bits),
                f"{layer.num_weights:,}",
                _nats(layer.divergence_8),
                _nats(layer.divergence_4),
            )
            for layer in layers
        ),
    )


def _counts(record: QuantizeRecord) -> list[str]:
    counts = []
    for bits in (4, 8, None):
        held = len(record.held_in(bits))
        if held:
            stay = "stays as it was" if held == 1 else "stay as they were"
            how = stay if bits is None else f"{'is' if held == 1 else 'are'} in {bits} bits"
            counts.append(f"{held} {how}")
    return counts


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
