# SPDX-License-Identifier: Apache-2.0
"""An activation predictor: two linear layers with ReLU between them, and a cut (Appendix F).

    logits = fc2 ReLU(fc1 h),   neuron f is predicted active where logits_f >= cut.

No biases, and the names and shapes of its weights are those of DejaVu's and PowerInfer's predictors, so
files pass both ways. T tokens, D = d_model, F = d_ff, R = rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.model.ffn_inputs import InputKind


@dataclass(frozen=True, slots=True)
class Predictor:
    """The predictor of one layer."""

    fc1: Tensor
    """[R, D]"""
    fc2: Tensor
    """[F, R]"""
    cut: float = 0.0
    """Compared with the logit itself; 0 is a probability of one half, as the loss sees it."""

    @property
    def rank(self) -> int:
        """R, the width of the hidden layer."""
        return len(self.fc1)

    def logits(self, h: Tensor) -> Tensor:
        """Return the logits [..., F] of inputs [..., D], in the dtype of the weights."""
        return torch.relu(h.to(self.fc1.dtype) @ self.fc1.T) @ self.fc2.T

    def predicts(self, h: Tensor) -> Tensor:
        """Return where neurons are predicted active, bool [..., F]; NaN is."""
        return (self.logits(h) < self.cut).logical_not()

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Predictor:
        """Return the predictor on a device, in a dtype."""
        return Predictor(self.fc1.to(device, dtype), self.fc2.to(device, dtype), self.cut)


@dataclass(frozen=True, slots=True)
class Predictors:
    """The predictors of a model, and what they read."""

    layers: Sequence[Predictor] = field(default_factory=tuple)
    """One for each layer, lowest first."""
    reads: InputKind = "ffn-input"

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Predictors:
        """Return the predictors on a device, in a dtype."""
        return Predictors([layer.to(device, dtype) for layer in self.layers], self.reads)
