# SPDX-License-Identifier: Apache-2.0
"""CETT: thresholds at which every layer makes the same relative output error.

The cumulative error of tail truncation of a layer at a threshold t is

    CETT(t) = mean over tokens of ||down_proj x_1^weak(t)|| / ||down_proj x_1||,

where x_1^weak(t) has the entries of x_1 with |x_1j| * ||down_proj[:, j]|| < t and zeros elsewhere
(Sparsing Law, arXiv:2411.02335, and its code). The layers are taken one by one, each with the
inputs it has in the untouched model. For a wanted error every layer gets the largest threshold
that stays within it, found without keeping an activation: a pass over the calibration text tries
some thresholds in every layer at once, and the next pass tries others between the two that matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prosparse.measurement.strength import Contributions, Strength
from prosparse.model.device import autocast
from prosparse.model.tap import tap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

    from prosparse.model.ffn import FFN

NUM_CURVE_POINTS = 32
NUM_BETWEEN = 7
"""Thresholds tried between two others: a pass makes the interval eight times smaller."""
NUM_CLOSER = 2
"""Passes that look closer than the curve."""


@dataclass(frozen=True, slots=True)
class Curve:
    """CETT of each layer at some thresholds."""

    thresholds_LG: Tensor
    """float32, rising, the first 0."""
    errors_LG: Tensor
    """float64, the first 0."""

    def bracket(self, error: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the thresholds around the wanted error, and the lower one's own error, each [L].

        The lower one is the last before the first that goes beyond `error`: the error of a sum need
        not rise with every neuron that joins it, and a threshold is trusted only if all below are.
        """
        beyond_LG = ~(self.errors_LG <= error)
        last = self.errors_LG.shape[1] - 1
        first_L = torch.where(beyond_LG.any(1), beyond_LG.int().argmax(1), last + 1)
        low_L, high_L = (first_L - 1)[:, None], first_L.clamp(max=last)[:, None]
        at = self.thresholds_LG.gather
        return at(1, low_L)[:, 0], at(1, high_L)[:, 0], self.errors_LG.gather(1, low_L)[:, 0]


class Calibration:
    """Thresholds of a model by CETT, from passes over some calibration text.

    Args:
        model: Runs in eval mode; its own mode comes back.
        ffns: Its FFNs.
        batches: Windows of token ids, int64 [B, S]; all are run in every pass.
        precision: `float32` or `bfloat16`.
        strength: What is compared with a threshold; None: what a neuron adds to the output.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ffns: Sequence[FFN],
        batches: Sequence[Tensor],
        precision: str,
        strength: Strength | None = None,
    ) -> None:
        self._model, self._ffns, self._batches, self._precision = model, ffns, batches, precision
        self._strength = strength or Contributions(ffns)
        self.num_tokens = sum(batch.numel() for batch in batches)
        self._known: dict[float, tuple[list[float], list[float]]] = {}
        grid_LG = self._spread()
        nothing_L1 = torch.zeros(len(ffns), 1)  # a threshold of zero prunes nothing
        tiny_L1 = torch.full_like(nothing_L1, torch.finfo(torch.float32).tiny)
        found_LG, self.weak_LG = self._measured(torch.cat([tiny_L1, grid_LG], dim=1))
        """Share of entries below each threshold of the curve, float64; for the first that of zeros."""
        errors_LG = found_LG[:, 1:]
        self.curve = Curve(
            torch.cat([nothing_L1, grid_LG], dim=1),
            torch.cat([nothing_L1.double(), errors_LG], dim=1),
        )

    def thresholds(self, error: float) -> tuple[list[float], list[float]]:
        """Return each layer's largest known threshold within a relative error, and its own error.

        Args:
            error: The wanted CETT, >= 0. What is returned never exceeds it on this text.
        """
        if error not in self._known:
            self._known[error] = self._closer(error)
        return self._known[error]

    def _closer(self, error: float) -> tuple[list[float], list[float]]:
        low_L, high_L, error_L = self.curve.bracket(error)
        steps = torch.arange(1, NUM_BETWEEN + 1) / (NUM_BETWEEN + 1)
        for _ in range(NUM_CLOSER):
            inner_LG = low_L[:, None] + (high_L - low_L)[:, None] * steps
            found_LG, _ = self._measured(inner_LG)
            edges_LG = torch.cat([low_L[:, None], inner_LG, high_L[:, None]], dim=1)
            beyond_L1 = torch.full((len(edges_LG), 1), torch.inf, dtype=torch.float64)
            errors_LG = torch.cat([error_L[:, None], found_LG, beyond_L1], dim=1)
            low_L, high_L, error_L = Curve(edges_LG, errors_LG).bracket(error)
        return low_L.tolist(), error_L.tolist()

    def _spread(self) -> Tensor:
        """Return thresholds [L, G] that cut the first window's strengths into equal shares."""
        grid: dict[int, Tensor] = {}

        def observe(layer: int, x1: Tensor) -> None:
            size = self._strength.of(layer, x1).flatten()
            size = size[size > 0].sort().values.cpu()
            shares = torch.linspace(0, 1, NUM_CURVE_POINTS)
            places = (shares * (len(size) - 1)).round().long()
            grid[layer] = size[places] if len(size) else shares

        self._run([self._batches[0][:1]], observe)
        return torch.stack([grid[layer] for layer in range(len(self._ffns))])

    def _measured(self, thresholds_LG: Tensor) -> tuple[Tensor, Tensor]:
        """Return CETT of each layer at its thresholds, and the share of entries below them.

        Both are float64 [L, G], from one pass over the text.
        """
        device = self._model.device
        errors_LG = torch.zeros(thresholds_LG.shape, dtype=torch.float64, device=device)
        weak_LG = torch.zeros_like(errors_LG)

        def observe(layer: int, x1: Tensor) -> None:
            x1_TF = x1.flatten(0, -2)
            down_DF = self._ffns[layer].weights()["down_proj"]
            size_TF = self._strength.of(layer, x1_TF)
            whole_T = _row_norms(x1_TF @ down_DF.T)
            for index, threshold in enumerate(thresholds_LG[layer].tolist()):
                is_kept_TF = size_TF >= threshold
                weak_LG[layer, index] += is_kept_TF.numel() - torch.count_nonzero(is_kept_TF)
                weak_TF = x1_TF.masked_fill(is_kept_TF, 0)
                # A token without any output loses nothing.
                share_T = _row_norms(weak_TF @ down_DF.T) / whole_T
                errors_LG[layer, index] += share_T.masked_fill(whole_T == 0, 0).sum()

        self._run(self._batches, observe)
        entries_L1 = torch.tensor([[self.num_tokens * ffn.d_ff] for ffn in self._ffns])
        return (errors_LG / self.num_tokens).cpu(), weak_LG.cpu() / entries_L1

    @torch.no_grad()
    def _run(self, batches: Sequence[Tensor], observe: Callable[[int, Tensor], None]) -> None:
        device, was_training = self._model.device, self._model.training
        self._model.eval()
        try:
            with (
                self._strength.watch(),
                tap(self._ffns, observe),
                autocast(self._precision, device),
            ):
                for ids_BS in batches:
                    # The head's logits are of no interest.
                    self._model.base_model(input_ids=ids_BS.to(device), use_cache=False)
        finally:
            self._model.train(was_training)


def _row_norms(rows_TD: Tensor) -> Tensor:
    return rows_TD.double().norm(dim=-1)
