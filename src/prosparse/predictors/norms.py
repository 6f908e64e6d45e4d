# SPDX-License-Identifier: Apache-2.0
"""The same predictor before and after the norm.

Between residual h and FFN input x stands RMSNorm in most families: x = g * h / rms(h). A predictor has
no biases and its ReLU is positively homogeneous, so one whose fc1 has been multiplied by g reads h and
gives rms(h) times the logits that the other gives for x. rms(h) is positive: with a cut of 0 both choose
the same neurons, exactly. With another cut they do not, because rms(h) differs from token to token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.model.ffn_inputs import norm_of
from prosparse.predictors.predictor import Predictor, Predictors

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from prosparse.model.ffn_inputs import InputKind

TOLERANCE = 1e-3


def as_reading(predictors: Predictors, reads: InputKind, model: PreTrainedModel) -> Predictors:
    """Return predictors that choose the same neurons and read another input of the FFNs.

    Raises:
        UserError: They cannot be had: a cut is not 0, or there is no RMSNorm in between.
    """
    if predictors.reads == reads:
        return predictors
    cuts = sorted({layer.cut for layer in predictors.layers})
    if cuts != [0.0]:
        raise UserError(
            f"These predictors read '{predictors.reads}' and are to read '{reads}', which is the same "
            f"only with a cut of 0; theirs are from {cuts[0]:g} to {cuts[-1]:g}. Fit with --zero-cuts, or "
            f"on --input {reads}."
        )
    layers = []
    for ffn, layer in zip(ffns(model), predictors.layers, strict=True):
        norm = norm_of(model, ffn)
        gain_D = None if norm is None else rms_gain(norm, ffn.d_model)
        if gain_D is None or (reads == "ffn-input" and not gain_D.all()):
            raise UserError(
                f"These predictors read '{predictors.reads}' and are to read '{reads}', which takes an "
                f"RMSNorm without zero weights before the FFN; {ffn.name} has none. Fit on --input "
                f"{reads}."
            )
        gain_D = gain_D.to(layer.fc1.device)
        fc1 = layer.fc1 * gain_D if reads == "residual" else layer.fc1 / gain_D
        layers.append(Predictor(fc1, layer.fc2))
    return Predictors(layers, reads)


@torch.no_grad()
def rms_gain(norm: nn.Module, width: int) -> Tensor | None:
    """Return g, float32 [D], of a module that computes g * h / rms(h); None if it computes else.

    The module is asked, not read: families differ in what their weight means (gemma adds 1).
    """
    parameter = next(norm.parameters(), None)
    if parameter is None:
        return None
    generator = torch.Generator().manual_seed(0)
    ones_D, other_D = torch.ones(width), torch.randn(width, generator=generator)
    x_2D = torch.stack([ones_D, other_D]).to(parameter.device, parameter.dtype)
    y_2D = norm(x_2D).float().cpu()
    gain_D = y_2D[0]
    expected_D = gain_D * x_2D[1].float().cpu() * x_2D[1].float().cpu().square().mean().rsqrt()
    unit = max(TOLERANCE, 4 * torch.finfo(parameter.dtype).eps)
    if (y_2D[1] - expected_D).norm() > unit * expected_D.norm():
        return None
    return gain_D
