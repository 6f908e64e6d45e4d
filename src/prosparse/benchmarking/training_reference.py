# SPDX-License-Identifier: Apache-2.0
"""The inputs of the training benchmark, and what its results are held against: float32.

The two pre-activations are rounded to the dtype that is timed, as every contender has them rounded:
else a gate next to zero would fall on its other side and its gradient be another one. Nothing else
is rounded. T tokens, D = d_model, F = d_ff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prosparse.benchmarking.layers import WEIGHT_STD
from prosparse.benchmarking.reference import relative_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prosparse.model.shapes import Shape

GRAD_STD = 1e-3
"""Of the output's gradient. That of the L1 norm is as large as a typical gradient of x_1, so that a
wrong sign or a missing one shows."""

COUNTS = ("l1", "num_active")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every contender is given; the first four require gradients."""

    x: Tensor
    """[T, D]"""
    gate_proj: Tensor
    """[F, D]"""
    up_proj: Tensor
    """[F, D]"""
    down_proj: Tensor
    """[D, F]"""
    grad_y: Tensor
    """[T, D], the gradient of the output."""
    grad_l1: Tensor
    """float32 scalar, the gradient of the L1 norm."""


@dataclass(frozen=True, slots=True)
class Intermediates:
    """The same for the elementwise part; the first two require gradients."""

    gate_pre: Tensor
    """[T, F]"""
    up: Tensor
    """[T, F]"""
    grad_x1: Tensor
    """[T, F]"""
    grad_l1: Tensor


def make_inputs(
    shape: Shape, num_tokens: int, dtype: torch.dtype, device: torch.device, seed: int
) -> Inputs:
    """Return random inputs and weights."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(rows: int, columns: int, std: float) -> Tensor:
        values = torch.randn(rows, columns, generator=generator, device=device)
        return (values * std).to(dtype)

    D, F = shape.d_model, shape.d_ff
    return Inputs(
        x=normal(num_tokens, D, 1.0).requires_grad_(),
        gate_proj=normal(F, D, WEIGHT_STD).requires_grad_(),
        up_proj=normal(F, D, WEIGHT_STD).requires_grad_(),
        down_proj=normal(D, F, WEIGHT_STD).requires_grad_(),
        grad_y=normal(num_tokens, D, GRAD_STD),
        grad_l1=torch.tensor(GRAD_STD * WEIGHT_STD * D**0.5, device=device),
    )


class Reference:
    """Results of one activation, with or without the L1 norm, by name in float32.

    Args:
        inputs: What the contenders are given.
        activation: Of the gate.
        is_penalized: Whether the gradient of the L1 norm takes part.
    """

    @torch.no_grad()
    def __init__(
        self, inputs: Inputs, activation: Callable[[Tensor], Tensor], is_penalized: bool
    ) -> None:
        dtype = inputs.x.dtype
        x, gate_proj, up_proj, down_proj, grad_y = (
            tensor.float()
            for tensor in (
                inputs.x, inputs.gate_proj, inputs.up_proj, inputs.down_proj, inputs.grad_y
            )
        )  # fmt: skip
        gate_pre, up = ((x @ weight.T).to(dtype) for weight in (gate_proj, up_proj))
        grad_x1 = (grad_y @ down_proj).to(dtype)
        self.intermediates = Intermediates(
            gate_pre.requires_grad_(), up.requires_grad_(), grad_x1, inputs.grad_l1
        )
        with torch.enable_grad():
            leaves = [tensor.detach().float().requires_grad_() for tensor in (gate_pre, up)]
            x1 = activation(leaves[0]) * leaves[1]
            l1 = x1.abs().sum()
            outputs, slopes = [x1, l1], [grad_x1.float(), inputs.grad_l1]
            kept = 2 if is_penalized else 1
            d_gate, d_up = torch.autograd.grad(outputs[:kept], leaves, slopes[:kept])
        x1 = x1.detach()
        l1_sum = x1.abs().sum(dtype=torch.float64).float()
        counts = {"l1": l1_sum, "num_active": x1.to(dtype).count_nonzero()}
        self.sparsity = 1 - float(counts["num_active"]) / x1.numel()
        self.elementwise = {"x1": x1, "d_gate_pre": d_gate, "d_up": d_up, **counts}
        self.ffn = {
            "y": x1 @ down_proj.T,
            "d_x": d_gate @ gate_proj + d_up @ up_proj,
            "d_gate_proj": d_gate.T @ x,
            "d_up_proj": d_up.T @ x,
            "d_down_proj": grad_y.T @ x1,
            **counts,
        }


@dataclass(frozen=True, slots=True)
class Errors:
    """How far results are from the reference."""

    error: float
    """Largest of the matrices."""
    l1: float | None
    count: float | None

    @classmethod
    def of(cls, results: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Errors:
        """Compare results with the reference of the same names; what is not computed has none."""
        found = {
            name: relative_error(value, reference[name].float()) for name, value in results.items()
        }
        matrices = [error for name, error in found.items() if name not in COUNTS]
        return cls(max(matrices), found.get("l1"), found.get("num_active"))

    def worst(self, other: Errors) -> Errors:
        """Return the larger of each."""
        l1 = None if self.l1 is None or other.l1 is None else max(self.l1, other.l1)
        count = None if self.count is None or other.count is None else max(self.count, other.count)
        return Errors(max(self.error, other.error), l1, count)
