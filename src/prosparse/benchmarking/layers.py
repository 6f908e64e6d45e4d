# SPDX-License-Identifier: Apache-2.0
"""Copies of one FFN with random weights, whose active neurons are exactly those of a mask.

A real gate product decides, as in a model: the pre-activations keep the distribution that random
weights give them, shifted along x so that the cut of the wanted density lies at zero (what training
and a threshold do to a gate), and handed out to the neurons as the mask wants it. A small gap around
zero keeps rounding from moving a neuron across. T tokens, D = d_model, F = d_ff.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prosparse.kernels.cpu.memory import ask_for_huge_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prosparse.benchmarking.masks import Mask
    from prosparse.model.shapes import Shape

WEIGHT_STD = 0.02
GAP = 2.0  # in units of rounding error times standard deviation; noise is below a seventh of it
SUM_ERROR = 1e-4  # of a float32 sum: sums of another order must not move a neuron either


@dataclass
class Layer:
    """One copy of the FFN and its inputs. The gate and what follows from it change with the mask."""

    x: Tensor
    """[T, D]"""
    gate_proj: Tensor
    """[F, D]"""
    up_proj: Tensor
    """[F, D]"""
    down_proj: Tensor
    """[D, F], as checkpoints have it: what dense contenders read."""
    down_projT: Tensor
    """[F, D]"""
    gate_pre: Tensor
    """[T, F], the rounded gate product."""
    x1: Tensor
    """[T, F], the rounded intermediate."""
    mask: Tensor
    """bool [T, F], the active neurons."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What contenders made of `up_proj` and `down_projT`, which never change."""

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """Return `make()`, made once for the life of this copy."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]


def make_layers(
    shape: Shape, num_copies: int, dtype: torch.dtype, device: torch.device, seed: int
) -> list[Layer]:
    """Return copies with random up and down projections; `set_mask` fills in the rest."""
    generator = torch.Generator(device).manual_seed(seed)
    empty = torch.empty(0, dtype=dtype, device=device)
    layers = []
    for _ in range(num_copies):
        gate, up, down = (
            _normal((shape.d_ff, shape.d_model), WEIGHT_STD, dtype, generator) for _ in range(3)
        )
        for matrix in (gate, up, down):  # as `accelerate` does
            ask_for_huge_pages(matrix)
        no_mask = torch.empty(0, dtype=torch.bool, device=device)
        layers.append(Layer(empty, gate, up, down.T.contiguous(), down, empty, empty, no_mask))
    return layers


def set_mask(
    layers: list[Layer], mask: Mask, num_tokens: int, sparsity: float, seed: int
) -> tuple[float, float]:
    """Give every copy a fresh x and gate with the active neurons of its own draw of the mask.

    Returns:
        The sparsity that came true (the mean over copies and tokens), and the union: the share of
        neurons that at least one token of a copy needs.
    """
    d_ff, d_model = layers[0].up_proj.shape
    dtype, device = layers[0].up_proj.dtype, layers[0].up_proj.device
    generator = torch.Generator(device).manual_seed(seed)
    active, union = 0.0, 0.0
    for index, layer in enumerate(layers):
        mask_TF = mask.draw(num_tokens, d_ff, sparsity, index, seed).to(device)
        layer.x = _normal((num_tokens, d_model), 1.0, dtype, generator)
        pre_TF = _plant(layer, mask_TF, generator)
        layer.mask = mask_TF
        layer.gate_pre = pre_TF.to(dtype)
        up_TF = layer.x.float() @ layer.up_proj.float().T
        layer.x1 = (pre_TF * up_TF).masked_fill(~mask_TF, 0).to(dtype)
        active += float(mask_TF.float().mean())
        union += float(mask_TF.any(dim=0).float().mean())
    return 1 - active / len(layers), union / len(layers)


def _plant(layer: Layer, mask_TF: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a gate and move its rows along x until exactly the mask is above zero; return x W_s^T, float32."""
    x_TD = layer.x.float()
    # Not rounded yet: a change smaller than a rounded weight's spacing would be lost.
    gate_FD = _normal(layer.gate_proj.shape, WEIGHT_STD, torch.float32, generator)
    pre_TF = x_TD @ gate_FD.T
    target_TF = _handed_out(pre_TF, mask_TF, layer.gate_proj.dtype, generator)
    # The smallest change of the weights that gives these products, for all tokens at once.
    change_TD = torch.linalg.solve(x_TD @ x_TD.T, x_TD)
    layer.gate_proj.copy_(gate_FD + (target_TF - pre_TF).T @ change_TD)
    pre_TF = x_TD @ layer.gate_proj.float().T
    if not torch.equal(pre_TF > 0, mask_TF):
        raise RuntimeError("The planted gate does not have the mask it was made for.")
    return pre_TF


def _handed_out(
    pre_TF: Tensor, mask_TF: Tensor, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """Return the values of each token in a new order, shifted: positive in the mask, negative else."""
    ordered_TF = pre_TF.sort(dim=1, descending=True).values
    num_active_T1 = mask_TF.sum(dim=1, keepdim=True)
    edge = torch.full_like(ordered_TF[:, :1], torch.inf)
    bounded_TF = torch.cat([edge, ordered_TF, -edge], dim=1)
    above, below = (
        bounded_TF.gather(1, index).clamp(pre_TF.min(), pre_TF.max())
        for index in (num_active_T1, num_active_T1 + 1)
    )
    gap = GAP * max(torch.finfo(dtype).eps, SUM_ERROR) * float(pre_TF.std())
    shifted_TF = ordered_TF - (above + below) / 2
    rank_F = torch.arange(pre_TF.shape[1], device=pre_TF.device)
    shifted_TF += torch.where(rank_F < num_active_T1, gap, -gap)
    # Random numbers in [0, 1) are a random order; one more puts the active neurons in front.
    luck_TF = torch.rand(pre_TF.shape, generator=generator, device=pre_TF.device)
    order_TF = (luck_TF + mask_TF).argsort(dim=1, descending=True)
    return torch.empty_like(pre_TF).scatter_(1, order_TF, shifted_TF)


def _normal(
    size: Sequence[int], std: float, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    values = torch.randn(size, generator=generator, device=generator.device)
    return (values * std).to(dtype)
