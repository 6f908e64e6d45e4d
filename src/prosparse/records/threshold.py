# SPDX-License-Identifier: Apache-2.0
"""What a search for the FATReLU threshold found (Appendix O of ProSparse)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import DataMeasure


@dataclass(frozen=True, slots=True)
class ThresholdCandidate:
    """One row of the trade-off: the model under FATReLU with this threshold."""

    threshold: float
    """t of Equation 3; 0 is plain ReLU, the baseline of the increase."""
    sparsity: float
    """Mean over all measured tokens, then over layers, in [0, 1]."""
    layer_sparsity: tuple[float, ...]
    data: tuple[DataMeasure, ...]
    perplexity_increase: float
    """exp(mean over data sets of loss(t) - loss(0)) - 1: 0.01 is one percent worse."""
    perplexity_increase_stderr: float
    """Standard error of the increase, from paired differences of the same context windows."""
    within_budget: bool


@dataclass(frozen=True, slots=True)
class ThresholdRecord:
    """The result of `prosparse threshold`."""

    model: str
    max_perplexity_increase: float
    candidates: tuple[ThresholdCandidate, ...]
    """By rising threshold; the first is the unshifted model, t = 0."""
    chosen: float
    """The largest threshold within the budget; 0 when none was, and the model stays ReLU."""
    context_length: int
    dtype: str
    seconds: float
    provenance: Provenance
    kind: Literal["threshold"] = "threshold"

    @property
    def chosen_candidate(self) -> ThresholdCandidate:
        """The candidate that was applied."""
        return next(c for c in self.candidates if c.threshold == self.chosen)
