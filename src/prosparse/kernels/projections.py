# SPDX-License-Identifier: Apache-2.0
"""A dense projection as the operators of an FFN see it: a gate that lets every neuron pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.kernels.checks import check_biases, check_tokens
from prosparse.kernels.ffn_weights import FFNWeights

if TYPE_CHECKING:
    from torch import Tensor

ALL_PASS = float("-inf")
"""A threshold that no output is below: steps (1) and (2) of an FFN are then a plain projection."""


def checked_projection(
    x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None
) -> FFNWeights:
    """Return x W^T + bias as the first step of an FFN.

    Args:
        x: [T, D]
        weight: [F, D], in the dtype of x, or its values in few bits.
        scales: float16 [F, groups] of those; else None.
        bias: [F]

    Raises:
        ValueError: Shapes, dtypes or devices do not go together.
    """
    check_tokens(x, weight, scales)
    projection = FFNWeights(
        weight, None, weight, scales, None, scales, gate_bias=bias, threshold=ALL_PASS
    )
    check_biases(projection, x)
    return projection
