# SPDX-License-Identifier: Apache-2.0
"""Losses of context windows, and the perplexity they make, with its standard error.

Tokens of one text are not independent, so a standard error over tokens would look several times
too small. Whole windows are the units here: the loss of a data set is the mean of its windows'
mean losses, and its standard error is their standard deviation over the root of their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from prosparse.measurement.meter import SparsityMeter
from prosparse.model.device import autocast
from prosparse.model.ffn import ffns
from prosparse.records.sparsity import DataMeasure

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Windows:
    """Held-out text of one data set, cut to equal windows of token ids."""

    name: str
    source: str
    ids_WS: Tensor
    """int64, [num_windows, context_length]."""


@dataclass(frozen=True, slots=True)
class WindowMeasure:
    """One model's forward passes over some windows."""

    windows: Windows
    loss_W: Tensor
    """float64, [num_windows]: mean negative log-likelihood of a window's tokens, in nats."""
    layer_sparsity: tuple[float, ...]

    def summary(self) -> DataMeasure:
        """Return the record of this measurement."""
        num_windows, length = self.windows.ids_WS.shape
        loss, stderr = mean_and_stderr(self.loss_W)
        # exp overflows at 709: an untrained swap can be that bad, and must print as inf.
        perplexity = math.inf if loss > 700 else math.exp(loss)
        return DataMeasure(
            data=self.windows.name,
            source=self.windows.source,
            num_tokens=num_windows * length,
            num_predictions=num_windows * (length - 1),
            loss=loss,
            loss_stderr=stderr,
            perplexity=perplexity,
            perplexity_stderr=perplexity * stderr,
            sparsity=sum(self.layer_sparsity) / len(self.layer_sparsity),
            layer_sparsity=self.layer_sparsity,
        )


def forward_dtype(model: PreTrainedModel, precision: str) -> str:
    """Return the dtype that matrix products run in: autocast's, else the weights' own."""
    return precision if precision == "bfloat16" else str(model.dtype).removeprefix("torch.")


def mean_and_stderr(values_W: Tensor) -> tuple[float, float]:
    """Return the mean and its standard error; the latter is NaN for a single value."""
    mean = values_W.mean().item()
    if len(values_W) < 2:
        return mean, math.nan
    return mean, (values_W.std(unbiased=True) / math.sqrt(len(values_W))).item()


@torch.no_grad()
def measure_windows(
    model: PreTrainedModel, windows: Windows, *, precision: str, progress: str | None = None
) -> WindowMeasure:
    """Return losses and layer-wise sparsity of a model on some windows.

    The model is put into eval mode for the passes and back afterwards. No padding exists, so every
    token counts once.

    Args:
        model: Any causal language model whose FFNs are known.
        windows: What to run.
        precision: `float32` or `bfloat16`, see `prosparse.model.device.forward_precision`.
        progress: Text for a progress bar; None shows none.
    """
    device = model.device
    meter = SparsityMeter(ffns(model), device)
    num_windows, length = windows.ids_WS.shape
    batch_size = max(1, (16384 if device.type == "cuda" else 2048) // length)
    was_training = model.training
    model.eval()
    losses = []
    bar = tqdm(
        total=num_windows * length, unit="tok", desc=progress, disable=progress is None, leave=False
    )
    try:
        with meter.watch(), autocast(precision, device), bar:
            for batch_BS in windows.ids_WS.split(batch_size):
                losses.append(window_losses(model, batch_BS.to(device)).cpu())
                bar.update(batch_BS.numel())
    finally:
        model.train(was_training)
    return WindowMeasure(windows, torch.cat(losses), meter.layer_sparsity())


def window_losses(model: PreTrainedModel, ids_BS: Tensor) -> Tensor:
    """Return the mean loss of each window, float64 [B], in nats per predicted token."""
    logits_BSV = model(input_ids=ids_BS, use_cache=False).logits
    # One window at a time: float32 logits of a whole batch would be the largest tensor of the run.
    return torch.stack(
        [
            functional.cross_entropy(logits_SV[:-1].float(), ids_S[1:]).double()
            for logits_SV, ids_S in zip(logits_BSV, ids_BS, strict=True)
        ]
    )
