# SPDX-License-Identifier: Apache-2.0
"""An int8 copy of the gate that tells which neurons are inactive for certain.

Let w be a row of the gate, q its int8 copy and e = w - q. For every x, Cauchy and Schwarz give
w.x <= q.x + |e| |x|. Where even that bound stays below the threshold, the neuron is inactive and its
row of 2 D bytes need not be read; all other rows are, and decide exactly. The bound also covers the
rounding of the two float32 sums: a dot product of D terms, each lane of a warp adding D / 32 of them
in turn, is off by at most (D / 32 + 16) 2^-24 |w| |x| (Higham, 2002, Section 3.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prosparse.kernels.quantize import dequantize, quantize

GROUP_SIZE = 64


@dataclass(frozen=True, slots=True)
class Screen:
    """The int8 copy of `gate_proj` [F, D] and how far it can be off."""

    values: Tensor
    """int8 [F, D]"""
    scales: Tensor
    """float16 [F, D / 64]"""
    bound: Tensor
    """float32 [F]: the true pre-activation is within bound * |x| of the screen's."""


def make_screen(gate_proj: Tensor) -> Screen:
    """Return the screen of a gate [F, D] in bfloat16, float16 or float32; D a multiple of 64.

    Raises:
        ValueError: D is no multiple of 64.
    """
    values, scales = quantize(gate_proj, bits=8, group_size=GROUP_SIZE)
    copy = dequantize(values, scales).double()
    weight = gate_proj.double()
    rounding = (gate_proj.shape[1] / 32 + 16) * 2.0**-24
    bound = (weight - copy).norm(dim=1) + rounding * (2 * weight.norm(dim=1) + copy.norm(dim=1))
    # A little more for the float32 arithmetic of the bound itself, |x| included.
    return Screen(values, scales, (bound * (1 + 2.0**-10)).float())


def certain_below(threshold: float, dtype: torch.dtype) -> float:
    """Return the largest value that rounds to an inactive pre-activation in `dtype`.

    Pre-activations up to it are inactive after rounding: at threshold 0 those that are not
    positive, above it those at most the number of `dtype` next below the threshold.
    """
    cut = torch.tensor(threshold, dtype=dtype, device="cpu")
    if cut == 0:
        return 0.0
    return torch.nextafter(cut, torch.tensor(-math.inf, dtype=dtype)).item()


def candidates(x: Tensor, screen: Screen, threshold: float = 0.0) -> Tensor:
    """Return which neurons the screen cannot rule out for x [T, D], as a mask [T, F]."""
    approximate = x.float() @ dequantize(screen.values, screen.scales).T
    margin = x.float().norm(dim=1, keepdim=True) * screen.bound
    return ~(approximate + margin <= certain_below(threshold, x.dtype))
