# SPDX-License-Identifier: Apache-2.0
"""Lay a projection out by neurons, in place: the weight keeps its shape, its storage turns.

The sparse operators want every neuron as one contiguous row. Linear layers keep `down_proj` as
[D, F], where a neuron is a column; Conv1D (gpt2) keeps the others so. Such a weight is stored anew,
transposed, and the parameter becomes a view of that storage with the shape it had: one copy, and a
state dict, a deep copy, `.to(...)` and the dense path see what they always saw. D = d_model,
F = d_ff.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.pytorch_utils import Conv1D

from prosparse.model.quantized import QuantizedLinear

if TYPE_CHECKING:
    from torch import Tensor, nn


def rows_by_neuron(projection: nn.Module, *, is_down: bool) -> Tensor:
    """Return the weight of a projection as [F, D] (fused gate and up: [2F, D]), a view.

    Args:
        projection: A Linear, a Conv1D, or a QuantizedLinear, whose values are returned.
        is_down: Whether it is the down projection, whose neurons are its inputs.
    """
    if isinstance(projection, QuantizedLinear):
        return projection.values
    weight = projection.get_parameter("weight")
    return weight.T if isinstance(projection, Conv1D) != is_down else weight


def scales_by_neuron(projection: nn.Module) -> Tensor | None:
    """Return the scales [F, groups] of a QuantizedLinear; None for a weight that has none."""
    return projection.scales if isinstance(projection, QuantizedLinear) else None


def is_neuron_major(projection: nn.Module, *, is_down: bool) -> bool:
    """Whether every neuron of the projection is a contiguous row already."""
    return rows_by_neuron(projection, is_down=is_down).is_contiguous()


def make_neuron_major(projection: nn.Module) -> None:
    """Turn the storage of the projection's weight; its shape and values stay."""
    weight = projection.get_parameter("weight")
    weight.data = weight.data.T.contiguous().T


def make_row_major(projection: nn.Module) -> None:
    """Undo `make_neuron_major`."""
    weight = projection.get_parameter("weight")
    weight.data = weight.data.contiguous(memory_format=torch.contiguous_format)
