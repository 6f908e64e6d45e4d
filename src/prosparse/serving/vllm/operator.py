# SPDX-License-Identifier: Apache-2.0
"""The FFN of a step of vLLM, sparse for few tokens and dense for many, as one operator of PyTorch's.

vLLM compiles a model once, for any number of tokens, and drops the guards: a branch on that number
would be decided for good while it traces. Inside an operator it is decided in each call, and in each
CUDA graph that vLLM captures, as these are for one number of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.ops import sparse_ffn
from prosparse.kernels.registration import operator
from prosparse.serving.dense import dense_ffn
from prosparse.serving.live import live


def _like_x(x: Tensor, *_arguments: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operator(_like_x)
def _served_ffn(
    x: Tensor,
    gate_up: Tensor,
    down_projT: Tensor,
    gate_up_bias: Tensor | None,
    down_bias: Tensor | None,
    is_gated: bool,
    threshold: float,
    shift: float,
    up_relu: bool,
    max_tokens: int,
) -> Tensor:
    """Return y [T, D] of x [T, D].

    Args:
        x: The FFN's input, of any number of tokens.
        gate_up: [2F, D], the rows of the gate and then of up; or [F, D] of an FFN without a gate.
        down_projT: [F, D], contiguous.
        gate_up_bias: [2F] or [F].
        down_bias: [D].
        is_gated: Which of the two `gate_up` is.
        threshold: t of FATReLU.
        shift: b of shifted ReLU.
        up_relu: dReLU.
        max_tokens: Up to so many tokens go the sparse way.
    """
    gate, up = gate_up.chunk(2) if is_gated else (gate_up, None)
    gate_bias, up_bias = gate_up_bias, None
    if is_gated and gate_up_bias is not None:
        gate_bias, up_bias = gate_up_bias.chunk(2)
    weights = FFNWeights(
        gate_proj=gate,
        up_proj=up,
        down_projT=down_projT,
        gate_bias=gate_bias,
        up_bias=up_bias,
        down_bias=down_bias,
        threshold=threshold,
        shift=shift,
        up_relu=up_relu,
    )
    is_sparse = 0 < len(x) <= max_tokens
    live().note(x, is_sparse, lambda: weights)
    if is_sparse:
        return sparse_ffn(x, weights, weights_ready=True)
    return dense_ffn(x, weights, gate_up, gate_up_bias)


served_ffn = _served_ffn
