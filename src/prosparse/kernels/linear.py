# SPDX-License-Identifier: Apache-2.0
"""A dense projection of a few tokens, as PyTorch knows it: its time is that of reading its weights.

Attention's projections and the head of a sparse model are dense, and at decode they are most of what
is left to read. A warp takes each row, as it does the gate's. T tokens, D inputs, F outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prosparse.kernels.backend import choose_backend, implementation
from prosparse.kernels.checks import check_biases, check_tokens
from prosparse.kernels.ffn_weights import FFNWeights

__all__ = ["linear"]

ALL_PASS = float("-inf")
"""A threshold that no output is below: the gate's kernel is then a plain projection."""


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, weights_ready: bool = False
) -> Tensor:
    """Return x W^T + bias, summed in float32 and rounded once.

    Args:
        x: [T, D], 1 <= T <= 16; float32, bfloat16 or float16.
        weight: [F, D], contiguous, in the dtype of x.
        bias: [F], in the dtype of x.
        weights_ready: The GPU work queued just before does not write `weight`, as inside a model; the
            kernel may then be launched while that work still runs.

    Returns:
        y [T, F] in the dtype of x.

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.
    """
    return _linear(x, weight, bias, weights_ready)


@torch.library.custom_op("prosparse::linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, weights_ready: bool) -> Tensor:
    check_tokens(x, weight, None)
    weights = FFNWeights(weight, None, weight, gate_bias=bias, threshold=ALL_PASS)
    check_biases(weights, x)
    run = implementation(x.device).gate_up
    if choose_backend(x.device) != "cuda":
        return run(x.contiguous(), weights)
    return run(x.contiguous(), weights, weights_ready)


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, weights_ready: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])
