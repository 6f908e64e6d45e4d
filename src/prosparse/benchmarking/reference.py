# SPDX-License-Identifier: Apache-2.0
"""What a benchmarked result is held against: float32 from end to end, nothing rounded on the way.

The error of a result is ||out - ref|| / ||ref||. A contender that rounds where a model of its dtype
rounds (after each projection, after act(gate) * up, at the end) has about 0.3 units of rounding
error; leaving out a single one of a thousand active neurons costs 3 percent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.benchmarking.layers import Layer

# What is allowed at least: about twice the error of PyTorch's own operators on large layers.
ERROR_BOUND = {torch.bfloat16: 5e-3, torch.float16: 7e-4, torch.float32: 2e-5}


def relative_error(result: Tensor, reference: Tensor) -> float:
    """Return ||result - reference|| / ||reference||, infinity for a NaN or another shape.

    A reference that is zero throughout admits nothing but zeros.
    """
    if result.shape != reference.shape or result.isnan().any():
        return math.inf
    difference = float((result.float() - reference).norm())
    size = float(reference.norm())
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / size


def gate(layer: Layer) -> Tensor:
    """Step (1): ReLU(x W_s^T), [T, F]."""
    return (layer.x.float() @ layer.gate_proj.float().T).relu()


def dense_up(layer: Layer) -> Tensor:
    """The up projection of all neurons, x W_1^T, [T, F]."""
    return layer.x.float() @ layer.up_proj.float().T


def sparse_up(layer: Layer) -> Tensor:
    """Step (2): x_1 = ReLU(gate) * (x W_1^T), [T, F], of the gate that was given."""
    return layer.gate_pre.float().relu() * dense_up(layer)


def down(layer: Layer) -> Tensor:
    """Step (3): y = x_1 W_2^T, [T, D], of the x_1 that was given."""
    return layer.x1.float() @ layer.down_projT.float()


def ffn(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_projT: Tensor) -> Tensor:
    """The whole FFN of x [T, D] with these weights, [T, D]."""
    pre_TF = x.float() @ gate_proj.float().T
    return (pre_TF.relu() * (x.float() @ up_proj.float().T)) @ down_projT.float()


def whole_ffn(layer: Layer) -> Tensor:
    """The whole FFN of a copy, [T, D]."""
    return ffn(layer.x, layer.gate_proj, layer.up_proj, layer.down_projT)


def error_bounds(layers: Sequence[Layer]) -> dict[str, float]:
    """Return the error allowed to each step: twice that of PyTorch's own operators in the same dtype.

    Measured on the same inputs, because it depends on them: with few active neurons, the rounding of
    a handful of values is all there is.
    """
    own: dict[str, float] = {"gate": 0.0, "up": 0.0, "down": 0.0, "ffn": 0.0}
    for layer in layers:
        up = F.linear(layer.x, layer.up_proj)
        active = F.linear(layer.x, layer.gate_proj).relu()
        x1 = active * up
        for step, result, right in (
            ("gate", active, gate(layer)),
            ("up", layer.gate_pre.relu() * up, sparse_up(layer)),
            ("down", F.linear(layer.x1, layer.down_proj), down(layer)),
            ("ffn", F.linear(x1, layer.down_proj), whole_ffn(layer)),
        ):
            own[step] = max(own[step], relative_error(result, right))
    least = ERROR_BOUND[layers[0].x.dtype]
    return {step: max(2 * error, least) for step, error in own.items()}
