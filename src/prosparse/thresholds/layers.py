# SPDX-License-Identifier: Apache-2.0
"""A threshold for each layer: by what a layer's error costs, or by one relative error for all.

Both methods rest on two curves of each layer over its threshold t, from passes over a few thousand
tokens of plain ReLU: the share of zeros, and the relative error that the neurons below t leave in the
layer's output (CETT, with FATReLU's rule in the place of CETT's own: weak is what has act(gate) < t).

`cett` gives all layers the same error. `per-layer` knows that an error is not as dear in one
layer as in another: it tries one threshold in each layer alone and pairs the losses. With the cost of
an error growing as its square, every layer then has a curve of cost over zeros, and the cheapest
zeros are taken first (`CostModel.thresholds`). TEAL (Liu et al., 2024) allocates greedily too, by
the error of a block's output; here the loss itself says what an error is worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from prosparse.measurement.cett import Calibration
from prosparse.measurement.perplexity import Windows, mean_and_stderr, window_losses
from prosparse.measurement.restart import Restart
from prosparse.measurement.strength import GateValues
from prosparse.model.activation import build_activation
from prosparse.model.device import autocast
from prosparse.model.ffn import ffns
from prosparse.records.threshold import LayerCost
from prosparse.thresholds.judge import apply_thresholds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.measurement.passes import Passes

CURVE_TOKENS = 4096
"""Tokens, spread over the data sets, that the curves are measured on; one window of each at least."""
COST_TOKENS = 16384
"""Tokens, spread over the data sets, that each layer's cost is measured on; likewise."""
COST_ERROR = 0.3
"""Relative output error at which a layer's cost is measured: large, or noise would hide it."""
FINER = 8
"""Points between two thresholds of the curve, straight lines between."""
HALVINGS = 60


class LayerCurves:
    """The curves of a model's layers, each with the inputs it has under plain ReLU.

    Args:
        passes: A ReLU or FATReLU model and its windows, of which the first are used.
    """

    def __init__(self, passes: Passes) -> None:
        found = ffns(passes.model)
        self.num_layers = len(found)
        self._model = passes.model
        self._shift_nothing()
        batches = [windows.ids_WS for windows in beginnings(passes.held_out, CURVE_TOKENS)]
        self._calibration = Calibration(
            passes.model, found, batches, passes.precision, GateValues(found)
        )
        self.thresholds_LG = self._calibration.curve.thresholds_LG
        """float32, rising, the first 0."""
        self.errors_LG = self._calibration.curve.errors_LG
        """float64: relative output error."""
        self.zeros_LG = self._calibration.weak_LG
        """float64: share of zeros."""
        self.silent = (self.zeros_LG[:, 0] == 1).nonzero().flatten().tolist()
        """Layers in which no neuron was ever active on this text."""

    def thresholds(self, error: float) -> tuple[list[float], list[float]]:
        """Return each layer's largest threshold known to stay within an error, and its own error.

        A layer without an active neuron has nothing to go by: its threshold is 0.
        """
        self._shift_nothing()
        thresholds, errors = self._calibration.thresholds(error)
        return [0.0 if i in self.silent else t for i, t in enumerate(thresholds)], errors

    def _shift_nothing(self) -> None:
        apply_thresholds(self._model, [0.0] * self.num_layers)


def measure_costs(passes: Passes, curves: LayerCurves) -> list[LayerCost]:
    """Return what a threshold in each layer alone adds to the loss; the model is left with ReLU."""
    thresholds, errors = curves.thresholds(COST_ERROR)
    passes.model.eval()
    windows = beginnings(passes.held_out, COST_TOKENS)
    num_windows = sum(len(w.ids_WS) for w in windows)
    bar = tqdm(
        total=num_windows,
        unit="window",
        desc="cost of layers",
        disable=not passes.progress,
        leave=False,
    )
    with bar:
        increases = [
            torch.cat([_increases(passes, thresholds, ids_1S, bar) for ids_1S in w.ids_WS.split(1)])
            for w in windows
        ]
    costs = []
    for layer, (threshold, error) in enumerate(zip(thresholds, errors, strict=True)):
        means = [increase_WL[:, layer].mean().item() for increase_WL in increases]
        # Of all windows together: a data set may have one only, and that has no error of its own.
        _, stderr = mean_and_stderr(torch.cat(increases)[:, layer])
        costs.append(LayerCost(threshold, error, sum(means) / len(means), stderr))
    return costs


@torch.no_grad()
def _increases(passes: Passes, thresholds: Sequence[float], ids_1S: Tensor, bar: tqdm) -> Tensor:
    """Return what each layer's threshold alone adds to the loss of a window, float64 [1, L]."""
    model, restart = passes.model, Restart(passes.model)
    ids_1S = ids_1S.to(model.device)
    found = []
    with autocast(passes.precision, model.device):
        with restart.keep():
            plain_1 = window_losses(model, ids_1S)
        for ffn, threshold in zip(ffns(model), thresholds, strict=True):
            ffn.set_activation(build_activation("fatrelu", threshold))
            with restart.above(ffn.layer):
                found.append(window_losses(model, ids_1S) - plain_1)
            ffn.set_activation(build_activation("relu"))
    bar.update()
    return torch.stack(found, dim=1).cpu()


@dataclass(frozen=True, slots=True)
class CostModel:
    """What zeros cost in each layer, at a ladder of thresholds."""

    thresholds_LG: Tensor
    """float32, rising, the first 0."""
    gains_LG: Tensor
    """float64: share of entries that become zero over plain ReLU, in [0, 1]."""
    costs_LG: Tensor
    """float64: the loss that this adds, in nats per token."""

    @classmethod
    def of(cls, curves: LayerCurves, costs: Sequence[LayerCost]) -> CostModel:
        """Return the model in which cost grows as the square of the relative output error.

        A layer costs at least a tenth of the median one: noise must not make it free.
        """
        thresholds_LG = _finer(curves.thresholds_LG)
        errors_LG = _finer(curves.errors_LG)
        gains_LG = _finer(curves.zeros_LG - curves.zeros_LG[:, :1])
        price_L = torch.tensor([price(cost) for cost in costs], dtype=torch.float64)
        price_L = price_L.clamp(min=0.1 * price_L.median().item())
        costs_LG = price_L[:, None] * errors_LG**2
        costs_LG[curves.silent, 1:] = math.inf
        return cls(thresholds_LG, gains_LG, costs_LG.nan_to_num(math.inf, posinf=math.inf))

    def thresholds(self, loss_increase: float) -> list[float]:
        """Return the threshold of each layer that together give the most zeros for a loss.

        The best of Lagrange's form, max gain - cost / worth in every layer by itself, the worth of a
        nat being as high as the sum of costs allows: no other choice from the ladder that costs as
        little has more zeros.

        Args:
            loss_increase: What the costs of layers may add up to, in nats per token, >= 0.
        """
        low, high = -40.0, 40.0  # log of zeros for a nat; the higher, the fewer zeros
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self._total(self._choice(math.exp(middle))) <= loss_increase:
                high = middle
            else:
                low = middle
        choice_L1 = self._choice(math.exp(high))[:, None]
        return self.thresholds_LG.gather(1, choice_L1)[:, 0].tolist()

    def _choice(self, worth: float) -> Tensor:
        return (self.gains_LG - worth * self.costs_LG).argmax(1)

    def _total(self, choice_L: Tensor) -> float:
        return self.costs_LG.gather(1, choice_L[:, None]).sum().item()


def price(cost: LayerCost) -> float:
    """Return a layer's loss for a relative output error of 1, by the square law, >= 0.

    A standard error is added: the layers that look cheapest are those that noise has flattered, and
    the allocation would seek them out.
    """
    if cost.error == 0:
        return 0.0
    noise = 0.0 if math.isnan(cost.loss_increase_stderr) else cost.loss_increase_stderr
    return (max(cost.loss_increase, 0.0) + noise) / cost.error**2


def beginnings(held_out: Sequence[Windows], num_tokens: int) -> list[Windows]:
    """Return the first windows of each data set, `num_tokens` in all or one window of each."""
    length = held_out[0].ids_WS.shape[1]
    each = max(1, num_tokens // (length * len(held_out)))
    return [Windows(w.name, w.source, w.ids_WS[:each]) for w in held_out]


def _finer(values_LG: Tensor) -> Tensor:
    """Return the values with `FINER` - 1 more between any two, on straight lines."""
    steps = torch.arange(FINER, dtype=values_LG.dtype) / FINER
    between_LGS = values_LG[:, :-1, None] + values_LG.diff(dim=1)[:, :, None] * steps
    return torch.cat([between_LGS.flatten(1), values_LG[:, -1:]], dim=1)
