# SPDX-License-Identifier: Apache-2.0
"""Train the predictor of a layer: balanced binary cross-entropy, the best kept (Appendix F).

A neuron that is inactive counts p in the loss, the share of active ones, as in the trainer of DejaVu's
predictors by the paper's first author. There an active one counts 1; here that is the mean, and half of
it goes by what missing the neuron would cost: the square of its share of the FFN's output. Some layers have
neurons that write "massive activations" at the first token of a text, and a model without one of those is no
model any more. The epoch with the highest recall on the validation rows is kept; the start counts as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from prosparse.predictors.pairs import decode_shares
from prosparse.predictors.predictor import Predictor
from prosparse.predictors.quality import Quality, qualities

if TYPE_CHECKING:
    from prosparse.predictors.pairs import Pairs

MORE_THAN_MEAN = 0.005
"""Added to p, so that a layer that is hardly ever active learns from its inactive neurons, too."""
ENOUGH_RECALL = 0.99
ROWS_OF_MEAN = 8192
"""Rows that the mean squared share is taken of."""
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
    device = start.fc1.device
    inputs = pairs.inputs(layer, train=True)[: options.most_rows]
    codes = pairs.shares(layer, train=True)
    held_out = pairs.inputs(layer, train=False), pairs.shares(layer, train=False)
    mean_square = mean_squared_share(codes)
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
            shares = decode_shares(codes[rows].to(device))
            balanced_bce(Predictor(fc1, fc2).logits(x), shares, mean_square).backward()
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


def mean_squared_share(codes: torch.Tensor) -> float:
    """Return the mean over active neurons of their squared shares; 1 where none is active."""
    stride = max(1, len(codes) // ROWS_OF_MEAN)
    shares = decode_shares(codes[::stride])
    active = int((shares != 0).sum())
    return float(shares.square().sum()) / active if active else 1.0


def balanced_bce(logits: torch.Tensor, shares: torch.Tensor, mean_square: float) -> torch.Tensor:
    """Return the mean cross-entropy of a prediction of which neurons are active.

    Args:
        logits: [T, F].
        shares: Of the neurons in the FFN's output, [T, F], 0 where they are inactive.
        mean_square: Of the shares of active neurons.
    """
    is_active = shares != 0
    inactive_weight = is_active.float().mean() + MORE_THAN_MEAN
    active_weight = 0.5 + 0.5 * shares.square() / mean_square
    weight = torch.where(is_active, active_weight, inactive_weight)
    return functional.binary_cross_entropy_with_logits(
        logits, is_active.to(logits.dtype), weight=weight
    )
