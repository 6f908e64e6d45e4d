# SPDX-License-Identifier: Apache-2.0
"""What a search for the FATReLU threshold found (Appendix O of ProSparse)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prosparse.records.provenance import Provenance
from prosparse.records.sparsity import DataMeasure

Method = Literal["fixed", "per-layer", "cett"]
ONE_SIDED_95 = 1.645
"""Standard errors to the point below which a normal variable is with 95 % probability."""


@dataclass(frozen=True, slots=True)
class ThresholdCandidate:
    """One row of the trade-off: the model under FATReLU with these thresholds."""

    threshold: float
    """The setting; 0 is plain ReLU, the baseline of the increase. `fixed`: t of Equation 3 for all
    layers. `cett`: the relative output error that the layers have in common. `per-layer`: the
    relative increase of perplexity that the costs of single layers predict."""
    sparsity: float
    """Mean over all measured tokens, then over layers, in [0, 1]."""
    layer_sparsity: tuple[float, ...]
    data: tuple[DataMeasure, ...]
    perplexity_increase: float
    """exp(mean over data sets of loss(t) - loss(0)) - 1: 0.01 is one percent worse."""
    perplexity_increase_stderr: float
    """Standard error of the increase, from paired differences of the same context windows."""
    within_budget: bool
    """When thresholds are chosen: that `highest_increase` is. When they are checked: that
    `perplexity_increase` is."""
    method: Method = "fixed"
    """Where the thresholds come from."""
    layer_thresholds: tuple[float, ...] = ()
    """t of each layer, lowest first; empty in records from before layers could differ."""

    @property
    def highest_increase(self) -> float:
        """What the increase is not above, with 95 % confidence; itself where its error is unknown."""
        noise = self.perplexity_increase_stderr
        return self.perplexity_increase + (0.0 if math.isnan(noise) else ONE_SIDED_95 * noise)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What a threshold in one layer alone costs: the evidence of `per-layer`."""

    threshold: float
    """t that was tried in this layer, all others plain ReLU."""
    error: float
    """Relative output error of the layer at this threshold (CETT), in [0, 1]."""
    loss_increase: float
    """Mean over data sets of loss(t) - loss(0), in nats per token."""
    loss_increase_stderr: float
    """From paired differences of the same context windows, of all data sets together."""


@dataclass(frozen=True, slots=True)
class ThresholdRecord:
    """The result of `prosparse threshold`."""

    model: str
    max_perplexity_increase: float
    candidates: tuple[ThresholdCandidate, ...]
    """By method and rising setting; the first is the unshifted model."""
    chosen: float
    """The setting of `method` that was applied: of those within the budget the largest, and with
    several methods the sparsest; 0 when none was within, and the model stays ReLU."""
    context_length: int
    dtype: str
    seconds: float
    provenance: Provenance
    method: Method = "fixed"
    """The chosen one's."""
    check: tuple[ThresholdCandidate, ...] = ()
    """The unshifted model and each method's choice on text that nothing was chosen by, the increase
    being over the former there; empty when there was no such text."""
    layer_costs: tuple[LayerCost, ...] = ()
    """`per-layer`: of each layer, lowest first."""
    notes: tuple[str, ...] = ()
    """What a user must know of the outcome, a sentence each."""
    kind: Literal["threshold"] = "threshold"

    @property
    def chosen_candidate(self) -> ThresholdCandidate:
        """The candidate that was applied."""
        return next(
            c
            for c in self.candidates
            if c.threshold == self.chosen and (self.chosen == 0 or c.method == self.method)
        )

    @property
    def checked(self) -> ThresholdCandidate | None:
        """What was applied, on the text of the check; None without such text."""
        chosen = self.chosen_candidate
        same = (c for c in self.check if c.threshold == self.chosen)
        return next((c for c in same if self.chosen == 0 or c.method == chosen.method), None)
