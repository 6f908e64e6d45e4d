# SPDX-License-Identifier: Apache-2.0
"""A predictor without training: the gate itself at low rank, where its inputs really are.

A neuron is active where its gate's pre-activation g = W x is positive, so the best predictor of rank r
in the least-squares sense is the W_r that keeps E||N (W - W_r) x||^2 smallest, N dividing each neuron by
the standard deviation of its g: a neuron that is always small counts as much as any other. With the
second moments C = E[x x^T] of the inputs this is the truncated SVD of N W C^(1/2) ("whitened"), whose
right singular vectors V give W_r = (N W C^(1/2) V) (V^T C^(-1/2)).

ReLU between the two layers takes nothing away: z = ReLU(z) - ReLU(-z), so a rank r takes 2r hidden units.
Sorted by singular values, the start of lower rank is the beginning of the one of higher.
D = d_model, F = d_ff.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prosparse.predictors.predictor import Predictor

if TYPE_CHECKING:
    from torch import Tensor

MOST_ROWS = 65536
"""Rows that the second moments are taken of."""
CHUNK = 8192
LEAST_VARIANCE = 1e-6
"""Of a direction, over the largest: below it the inputs are taken not to go there."""
SLOPE = 4.0
"""Logits for one standard deviation: where training starts, a sigmoid that has made up its mind."""


def second_moments(inputs_TD: Tensor, device: torch.device) -> Tensor:
    """Return E[x x^T] over the rows of `inputs_TD`, spread evenly, float64 [D, D]."""
    stride = max(1, len(inputs_TD) // MOST_ROWS)
    rows = inputs_TD[::stride]
    total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=device)
    for chunk in rows.split(CHUNK):
        x = chunk.to(device, torch.float32)
        total += (x.T @ x).double()
    return total / len(rows)


def svd_start(gate_proj: Tensor, moments: Tensor, rank: int) -> Predictor:
    """Return the predictor of a layer by whitened SVD, float32.

    Args:
        gate_proj: [F, D], of inputs such as `moments` is of.
        moments: E[x x^T], float64 [D, D].
        rank: Hidden units, even; half of them is the rank of the gate's approximation, at most D.
    """
    gate = gate_proj.detach().to(moments.device, torch.float64)
    variance_D, axes_DD = torch.linalg.eigh(moments)
    variance_D = variance_D.clamp_min(LEAST_VARIANCE * variance_D[-1])
    whitened_FD = gate @ (axes_DD * variance_D.sqrt())
    whitened_FD = whitened_FD / whitened_FD.norm(dim=1, keepdim=True).clamp_min(1e-30)
    strengths_D, right_DD = torch.linalg.eigh(whitened_FD.T @ whitened_FD)
    order = strengths_D.argsort(descending=True)[: rank // 2]
    right_Dr = right_DD[:, order]
    first_rD = (axes_DD / variance_D.sqrt() @ right_Dr).T
    second_Fr = SLOPE * whitened_FD @ right_Dr
    return Predictor(interleave(first_rD, dim=0).float(), interleave(second_Fr, dim=1).float())


def narrowed(start: Predictor, rank: int) -> Predictor:
    """Return the start of a lower rank."""
    return Predictor(start.fc1[:rank].contiguous(), start.fc2[:, :rank].contiguous(), start.cut)


def interleave(x: Tensor, dim: int) -> Tensor:
    """Return x and -x in turn along a dimension: the first 2r are then a start of rank r."""
    return torch.stack([x, -x], dim=dim + 1).flatten(dim, dim + 1)
