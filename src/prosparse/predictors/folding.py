# SPDX-License-Identifier: Apache-2.0
"""A cut of 0 in place of another, for engines that have one threshold for all layers.

Without biases a predictor cannot add a constant to its logits. But the sum of its hidden units is nearly
one: they are many, each the rectified coordinate of an input whose norm RMSNorm has fixed. Spread over them,

    fc2' = fc2 - cut / E[sum of ReLU(fc1 h)],

the cut moves into the second layer, up to how far the sum is from its mean for a token; what that costs is
measured on the result, as everything is. It is the greater where activations are massive: with a cut below 0, the
usual case, more neurons are then computed, not fewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prosparse.predictors.predictor import Predictor

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 8192
"""Rows that the mean is taken of, spread evenly."""


@torch.no_grad()
def fold_cut(predictor: Predictor, inputs_TD: Tensor) -> Predictor:
    """Return a predictor with a cut of 0 that predicts nearly what this one does with its own."""
    if predictor.cut == 0:
        return predictor
    rows = inputs_TD[:: max(1, len(inputs_TD) // ROWS)].to(predictor.fc1)
    mean = torch.relu(rows @ predictor.fc1.T).sum(dim=1).mean()
    return Predictor(predictor.fc1, predictor.fc2 - predictor.cut / mean)
