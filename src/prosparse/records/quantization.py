# SPDX-License-Identifier: Apache-2.0
"""What `prosparse quantize` decided, by which measurements, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import DataMeasure


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """One linear layer or embedding."""

    name: str
    bits: int | None
    """8 or 4; None where it stays as it was."""
    num_weights: int
    divergence_8: float | None
    """KL divergence of the predictions in nats per token, on the deciding text, with this one alone in 8 bits; None
    where its whole decoder layer cost so little that it was not taken apart."""
    divergence_4: float | None
    """The same in 4 bits; None also where 4 bits were not tried."""


@dataclass(frozen=True, slots=True)
class QuantizeRecord:
    """The result of `prosparse quantize`."""

    model: str
    bits: int
    """The least that was tried: 8 or 4."""
    group_size: int
    max_perplexity_increase: float
    """The budget: 0.01 is one percent."""
    perplexity_increase: float
    """exp(mean over data sets of loss(after) - loss(before)) - 1, on the text of `before`."""
    perplexity_increase_stderr: float
    """Its standard error, from paired differences of the same context windows."""
    before: tuple[DataMeasure, ...]
    """The model as it was, on text that took no part in deciding."""
    after: tuple[DataMeasure, ...]
    """The quantized model on the same text."""
    layers: tuple[QuantizedLayer, ...]
    """All that could be quantized, in the order of the model."""
    kept_dtype: str
    """Of what is not quantized."""
    bytes_before: int
    """Of all weights in `kept_dtype`."""
    bytes_after: int
    """Of all weights, scales included."""
    deciding_tokens: int
    deciding_divergence: float
    """KL divergence on the deciding text with all decisions together, nats per token."""
    context_length: int
    dtype: str
    """Of the matrix products that were measured with."""
    seconds: float
    provenance: Provenance
    cutting_tokens: int | None = None
    """Of the text that decided how many layers are quantized; None where that was the deciding text."""
    cutting_increase: float | None = None
    """Increase of perplexity there, one standard error added: what had to stay within the budget."""
    kind: Literal["quantize"] = "quantize"

    @property
    def is_within_budget(self) -> bool:
        """Whether the text that took no part agrees with the decision."""
        return self.perplexity_increase <= self.max_perplexity_increase

    def held_in(self, bits: int | None) -> tuple[QuantizedLayer, ...]:
        """Return the layers that are held in so many bits; None: those that stay."""
        return tuple(layer for layer in self.layers if layer.bits == bits)
