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


def dense_ffn(
    x: Tensor, weights: FFNWeights, gate_up: Tensor, gate_up_bias: Tensor | None
) -> Tensor:
    """Return the FFN's output y [T, D].

    Args:
        x: [T, D].
        weights: The FFN, in the dtype of x and not quantized.
        gate_up: [2F, D]: gate and up as they lie in one matrix, which is one product then; of an FFN
            without a gate its first projection [F, D].
        gate_up_bias: [2F] or [F].
    """
    first = linear(x, gate_up, gate_up_bias)
    gate, up = (first, None) if weights.up_proj is None else first.chunk(2, dim=-1)
    _, x1 = activated(gate, up, weights)
    return linear(x1, weights.down_projT.T, weights.down_bias)


def gate_and_intermediate(x: Tensor, weights: FFNWeights) -> tuple[Tensor, Tensor]:
    """Return act(gate) and x_1 = act(gate) * up, each [T, F], of x [T, D]; quantized weights, too."""
    gate_proj = dequantize(weights.gate_proj, weights.gate_scales).to(x.dtype)
    gate = linear(x, gate_proj, weights.gate_bias)
    if weights.up_proj is None:
        return activated(gate, None, weights)
    up_proj = dequantize(weights.up_proj, weights.up_scales).to(x.dtype)
    return activated(gate, linear(x, up_proj, weights.up_bias), weights)


def activated(gate: Tensor, up: Tensor | None, weights: FFNWeights) -> tuple[Tensor, Tensor]:
    """Return act(gate) and x_1, one tensor where there is no up, of the projections [T, F]."""
    gate = activate(gate, weights.threshold, weights.shift)
    if up is None:
        return gate, gate
    return gate, gate * (up.masked_fill(up < 0, 0) if weights.up_relu else up)
