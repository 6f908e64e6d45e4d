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
from prosparse.records.activity import GROUP_SIZES, Activity
from prosparse.records.sparsity import DataMeasure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from prosparse.measurement.activity import ActivityMeter


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

    def summary(self, activity: Activity | None = None) -> DataMeasure:
        """Return the record of this measurement, with what else was counted on the way."""
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
            activity=activity,
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
    model: PreTrainedModel,
    windows: Windows,
    *,
    precision: str,
    progress: str | None = None,
    activity: ActivityMeter | None = None,
) -> WindowMeasure:
    """Return losses and layer-wise sparsity of a model on some windows.

    The model is put into eval mode for the passes and back afterwards. No padding exists, so every
    token counts once.

    Args:
        model: Any causal language model whose FFNs are known.
        windows: What to run.
        precision: `float32` or `bfloat16`, see `prosparse.model.device.forward_precision`.
        progress: Text for a progress bar; None shows none.
        activity: Counts the distributions of these windows too. Windows then run in another order,
            see `far_apart`; their losses come back in their own.
    """
    device = model.device
    meter = SparsityMeter(ffns(model), device) if activity is None else activity
    num_windows, length = windows.ids_WS.shape
    was_training = model.training
    model.eval()
    order_W = torch.arange(num_windows) if activity is None else far_apart(num_windows)
    loss_W = torch.empty(num_windows, dtype=torch.float64)
    bar = tqdm(
        total=num_windows * length, unit="tok", desc=progress, disable=progress is None, leave=False
    )
    try:
        with meter.watch(), autocast(precision, device), bar:
            for rows_B in order_W.split(windows_in_pass(model, length)):
                batch_BS = windows.ids_WS[rows_B].to(device)
                loss_W[rows_B] = window_losses(model, batch_BS).cpu()
                bar.update(batch_BS.numel())
    finally:
        model.train(was_training)
    return WindowMeasure(windows, loss_W, meter.layer_sparsity())


def windows_in_pass(model: PreTrainedModel, length: int) -> int:
    """Return how many windows of `length` tokens run at once.

    On a GPU as many as 32,768 tokens have, unless their logits would be over 2^31 numbers (4 GiB in
    bfloat16); on a CPU 2,048 tokens.
    """
    num_tokens = 2048
    if model.device.type == "cuda":
        num_tokens = min(32768, 2**31 // model.config.get_text_config().vocab_size)
    return max(1, num_tokens // length)


def far_apart(num_windows: int) -> Tensor:
    """Return the windows in an order in which up to 32 that follow each other are far apart.

    Windows next to each other in a file are often of one document; a batch at serving time is not.

    Returns:
        A permutation of 0..num_windows-1, int64.
    """
    stride = -(-num_windows // GROUP_SIZES[-1])
    return torch.cat([torch.arange(start, num_windows, stride) for start in range(stride)])


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


def paired_increase(losses: Sequence[Tensor], baseline: Sequence[Tensor]) -> tuple[float, float]:
    """Return the relative increase of perplexity and its standard error.

    The increase is exp(mean over data sets of the mean loss difference) - 1: every data set counts
    the same, however many windows it has.

    Args:
        losses: For each data set, the windows' losses, float64 [W].
        baseline: The same windows under the model that is compared with.
    """
    differences = [
        mean_and_stderr(loss - base) for loss, base in zip(losses, baseline, strict=True)
    ]
    mean = sum(d for d, _ in differences) / len(differences)
    stderr = math.sqrt(sum(s * s for _, s in differences)) / len(differences)
    if mean > 700:  # exp would overflow
        return math.inf, math.inf
    return math.expm1(mean), math.exp(mean) * stderr
