# SPDX-License-Identifier: Apache-2.0
"""Train the predictor of a layer: balanced binary cross-entropy, the best kept (Appendix F).

A neuron that is active counts 1 in the loss and one that is not counts p, the share of active ones, as
in the trainer of DejaVu's predictors by the paper's first author. Ours alone: one that is heavy, without
which the FFN's output is another, counts `HEAVY_WEIGHT` more. The epoch with the highest recall on the
validation rows is kept; the start counts as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from prosparse.predictors.pairs import unpack
from prosparse.predictors.predictor import Predictor
from prosparse.predictors.quality import Quality, qualities

if TYPE_CHECKING:
    from prosparse.predictors.pairs import Pairs

MORE_THAN_MEAN = 0.005
"""Added to p, so that a layer that is hardly ever active learns from its inactive neurons, too."""
HEAVY_WEIGHT = 20.0
ENOUGH_RECALL = 0.99
PATIENCE = 5
"""Epochs without a better recall after which training ends."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How predictors are trained."""

    epochs: int = 20
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 1024
    seed: int = 0
    most_rows: int | None = None
    """Train on the first so many rows only."""


def fit_layer(
    start: Predictor,
    pairs: Pairs,
    layer: int,
    options: FitOptions,
    on_rows: Callable[[int], object] = lambda count: None,
) -> tuple[Predictor, Quality, int]:
    """Return the trained predictor of a layer, its quality on the validation rows, and its epoch.

    Args:
        start: Where training starts, on the device to train on.
        pairs: Inputs and activity.
        layer: Which layer's.
        options: How.
        on_rows: Called with the number of rows after every step.
    """
    device, d_ff = start.fc1.device, len(start.fc2)
    inputs = pairs.inputs(layer, train=True)[: options.most_rows]
    bits, heavy_bits = pairs.bits(layer, train=True), pairs.heavy_bits(layer)
    held_out = pairs.inputs(layer, train=False), pairs.bits(layer, train=False)
    fc1 = start.fc1.clone().requires_grad_()
    fc2 = start.fc2.clone().requires_grad_()
    optimizer = torch.optim.AdamW(
        [fc1, fc2],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        fused=device.type == "cuda",
    )
    best, epoch_of_best = start, 0
    (quality,) = qualities(start, *held_out, [0.0])
    generator = torch.Generator().manual_seed(options.seed * 100_003 + layer)
    for epoch in range(1, options.epochs + 1):
        for rows in torch.randperm(len(inputs), generator=generator).split(options.batch_size):
            x = inputs[rows].to(device, torch.float32)
            is_active = unpack(bits[rows].to(device), d_ff)
            is_heavy = unpack(heavy_bits[rows].to(device), d_ff)
            logits = Predictor(fc1, fc2).logits(x)
            balanced_bce(logits, is_active, is_heavy).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            on_rows(len(rows))
        now = Predictor(fc1.detach(), fc2.detach())
        (found,) = qualities(now, *held_out, [0.0])
        if found.recall > quality.recall:
            best = Predictor(now.fc1.clone(), now.fc2.clone())
            quality, epoch_of_best = found, epoch
        if quality.recall > ENOUGH_RECALL or epoch - epoch_of_best >= PATIENCE:
            on_rows((options.epochs - epoch) * len(inputs))
            break
    return best, quality, epoch_of_best


def balanced_bce(
    logits: torch.Tensor, is_active: torch.Tensor, is_heavy: torch.Tensor
) -> torch.Tensor:
    """Return the mean cross-entropy, inactive neurons weighted by the share of active ones.

    Args:
        logits: [T, F].
        is_active: bool [T, F].
        is_heavy: bool [T, F], of active ones.
    """
    share = is_active.float().mean() + MORE_THAN_MEAN
    target = is_active.to(logits.dtype)
    weight = target * (1 - share) + share + HEAVY_WEIGHT * is_heavy
    return functional.binary_cross_entropy_with_logits(logits, target, weight=weight)
