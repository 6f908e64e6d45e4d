# SPDX-License-Identifier: Apache-2.0
"""Sparsity metrics: which neurons are weak, and what switching them off costs.

They are those of Sparsing Law (Luo et al., arXiv:2411.02335) and apply to any activation function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricName = Literal["fat", "topk", "cett"]


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """A model with the weak neurons of one setting switched off, against the model as it is."""

    metric: MetricName
    setting: float
    """epsilon of `fat`, the share k of `topk`, the relative output error of `cett`."""
    sparsity: float
    """Mean over all tokens, then over layers, in [0, 1]."""
    layer_sparsity: tuple[float, ...]
    perplexity: float
    """exp of the loss, mean over data sets."""
    perplexity_increase: float
    """exp(mean over data sets of the loss difference) - 1: 0.01 is one percent worse."""
    perplexity_increase_stderr: float
    """Standard error of the increase, from paired differences of the same context windows."""


@dataclass(frozen=True, slots=True)
class MetricMeasure:
    """The metric that a record was measured under."""

    point: MetricPoint
    dense_perplexity: tuple[float, ...]
    """Perplexity of the model as it is, for each data set of the record."""
    layer_thresholds: tuple[float, ...] = ()
    """CETT: t of each layer; neuron j is weak where |x_1j| * ||down_proj[:, j]|| < t."""
    layer_errors: tuple[float, ...] = ()
    """CETT: mean relative output error of each layer on the calibration tokens; <= the setting."""
    calibration_tokens: int = 0
    """CETT: tokens that the thresholds were found on, the first of every data set."""
    max_perplexity_increase: float | None = None
    """CETT-PPL: the budget p; None where the setting was given."""
    is_met: bool = True
    """CETT-PPL: whether a setting reaches the budget's edge; otherwise the best found is here."""
