# SPDX-License-Identifier: Apache-2.0
"""The whole FFN: steps (1) and (2) in one pass, then step (3)."""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.triton.gate_up import gate_up
from prosparse.kernels.triton.sparse_down import down


def sparse_ffn(
    x: Tensor,
    weights: FFNWeights,
    residual: Tensor | None = None,
    float32_output: bool = False,
) -> Tensor:
    """The whole FFN of x [T, D]: y [T, D], plus `residual` [T, D] if given.

    The sum is float32 until the end: the output is rounded once, to the dtype of x, or not at all
    with `float32_output`.
    """
    return down(
        gate_up(x, weights),
        weights.down_projT,
        weights.down_scales,
        weights.down_bias,
        residual,
        torch.float32 if float32_output else x.dtype,
    )
