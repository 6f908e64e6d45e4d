# SPDX-License-Identifier: Apache-2.0
"""The FFN as dense products, for more tokens than skipping pays for. T tokens, D = d_model, F = d_ff."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import linear

from prosparse.kernels.quantize import dequantize
from prosparse.kernels.reference import activate

if TYPE_CHECKING:
    from torch import Tensor

    from prosparse.kernels.ffn_weights import FFNWeights


def dense_ffn(x: Tensor, weights: FFNWeights) -> Tensor:
    """Return y [T, D] of x [T, D]; the weights in the dtype of x, not quantized."""
    _, x1 = gate_and_intermediate(x, weights)
    return linear(x1, weights.down_projT.T, weights.down_bias)


def gate_and_intermediate(x: Tensor, weights: FFNWeights) -> tuple[Tensor, Tensor]:
    """Return act(gate) and x_1 = act(gate) * up, each [T, F], of x [T, D]; one tensor without up."""
    gate_proj = dequantize(weights.gate_proj, weights.gate_scales).to(x.dtype)
    gate = activate(linear(x, gate_proj, weights.gate_bias), weights.threshold, weights.shift)
    if weights.up_proj is None:
        return gate, gate
    up_proj = dequantize(weights.up_proj, weights.up_scales).to(x.dtype)
    up = linear(x, up_proj, weights.up_bias)
    if weights.up_relu:
        up = up.masked_fill(up < 0, 0)
    return gate, gate * up
