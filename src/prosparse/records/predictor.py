# SPDX-License-Identifier: Apache-2.0
"""What was found of activation predictors: how they were fitted, and how well they predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import DataMeasure


@dataclass(frozen=True, slots=True)
class PredictorPoint:
    """A predictor of one layer at one cut, on validation pairs."""

    rank: int
    """Width of its hidden layer."""
    cut: float
    """Logits below it are predicted inactive."""
    recall: float
    """Share of the truly active neurons that are predicted active, in [0, 1]."""
    predicted_sparsity: float
    """Share of neurons that are predicted inactive, in [0, 1]."""
    missed: float
    """||what is left out of the FFN's output|| / ||the output||: the larger of its mean over tokens and
    that of all tokens together, which the few with massive activations decide."""
    us: float | None = None
    """Measured microseconds of the FFN with it, one token; None where no time was taken."""


@dataclass(frozen=True, slots=True)
class FittedLayer:
    """The predictor of one layer."""

    sparsity: float
    """True share of inactive neurons on the validation pairs, in [0, 1]."""
    chosen: PredictorPoint
    start: PredictorPoint
    """The whitened SVD of the gate at the same rank, without training, at its own cut: the one with
    which it has the chosen one's recall."""
    epochs: int
    """Epochs behind the predictor that was kept; 0 is the start itself."""
    front: tuple[PredictorPoint, ...] = ()
    """What the choice was made of: no other point is both faster and misses less. Empty where rank and
    cut were given."""


@dataclass(frozen=True, slots=True)
class PredictorFitRecord:
    """The result of `prosparse predictor fit`."""

    model: str
    reads: str
    """`ffn-input`: the FFN's input after its norm; `residual`: the residual before it."""
    data: tuple[str, ...]
    """NAME=PATH of the text."""
    num_rows: int
    """Tokens; the last twentieth is for validation."""
    context_length: int
    precision: str
    """Of the passes that collected the pairs."""
    d_model: int
    d_ff: int
    layers: tuple[FittedLayer, ...]
    choice: str
    """How rank and cut were chosen, in a sentence."""
    exact_us: float | None
    """Measured microseconds of an exact sparse FFN in the same passes, mean over layers; None where no
    time was taken."""
    collect_seconds: float
    start_seconds: float
    """For the SVD starts of all layers, second moments included."""
    fit_seconds: float
    """For all training and the choice."""
    seconds: float
    provenance: Provenance
    kind: Literal["predictor_fit"] = "predictor_fit"

    @property
    def sparsity(self) -> float:
        """True sparsity on the validation pairs, mean over layers."""
        return _mean([layer.sparsity for layer in self.layers])

    def mean(self, field: str, of: str = "chosen") -> float:
        """Return the mean over layers of a number of `chosen` or `start`."""
        return _mean([getattr(getattr(layer, of), field) for layer in self.layers])


@dataclass(frozen=True, slots=True)
class PredictorQuality:
    """How well one layer's predictor does on text (Appendix C)."""

    rank: int
    cut: float
    recall: float
    predicted_sparsity: float
    sparsity: float
    missed: float


@dataclass(frozen=True, slots=True)
class PredictorEvalRecord:
    """The result of `prosparse predictor eval`."""

    model: str
    predictors: str
    reads: str
    context_length: int
    dtype: str
    layers: tuple[PredictorQuality, ...]
    """Over all tokens of all data sets, in the model as it is."""
    dense: tuple[DataMeasure, ...]
    """The model as it is."""
    predicted: tuple[DataMeasure, ...]
    """With predicted-inactive neurons skipped in every layer at once."""
    perplexity_increase: float
    """exp(mean over data sets of the loss difference) - 1: 0.01 is one percent worse."""
    perplexity_increase_stderr: float
    """From paired differences of the same windows."""
    seconds: float
    provenance: Provenance
    kind: Literal["predictor_eval"] = "predictor_eval"

    def mean(self, field: str) -> float:
        """Return the mean over layers of one of their numbers, as the paper's Table 2 has it."""
        return _mean([getattr(layer, field) for layer in self.layers])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
