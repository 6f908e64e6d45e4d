# SPDX-License-Identifier: Apache-2.0
"""How good a predictor is on pairs: recall, predicted sparsity, and what of the output is missed.

Recall is the share of truly active neurons that are predicted active, predicted sparsity the share of
all neurons that are predicted inactive (Appendix C). Missed is ||down x_1'|| / ||down x_1||, x_1' being
x_1 at the neurons that are wrongly left out: as a mean over tokens or of all tokens together, whichever
is more. T tokens, D = d_model, F = d_ff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from prosparse.predictors.predictor import Predictor

CHUNK = 2048


@dataclass(frozen=True, slots=True)
class Quality:
    """A predictor at one cut, each number in [0, 1]."""

    cut: float
    recall: float
    """NaN where nothing is active."""
    predicted_sparsity: float
    sparsity: float
    """True share of inactive neurons on the same rows."""


class Counts:
    """Counts for `Quality` at several cuts, added up over rows."""

    def __init__(self, cuts: Sequence[float], device: torch.device) -> None:
        self.cuts = tuple(cuts)
        self._predicted = torch.zeros(len(cuts), dtype=torch.int64, device=device)
        self._hits = torch.zeros_like(self._predicted)
        self._active = torch.zeros((), dtype=torch.int64, device=device)
        self._total = 0

    def add(self, logits_TF: Tensor, is_active_TF: Tensor) -> None:
        """Count some tokens."""
        for index, cut in enumerate(self.cuts):
            predicted = (logits_TF < cut).logical_not()
            self._predicted[index] += predicted.sum()
            self._hits[index] += (predicted & is_active_TF).sum()
        self._active += is_active_TF.sum()
        self._total += is_active_TF.numel()

    def qualities(self) -> list[Quality]:
        """Return the quality at each cut."""
        active = int(self._active)
        return [
            Quality(
                cut=cut,
                recall=int(hits) / active if active else float("nan"),
                predicted_sparsity=1 - int(predicted) / self._total,
                sparsity=1 - active / self._total,
            )
            for cut, predicted, hits in zip(self.cuts, self._predicted, self._hits, strict=True)
        ]


@torch.no_grad()
def qualities(
    predictor: Predictor, inputs_TD: Tensor, shares_TF: Tensor, cuts: Sequence[float]
) -> list[Quality]:
    """Return the quality of a predictor at several cuts.

    Args:
        predictor: On the device to compute on.
        inputs_TD: What it reads.
        shares_TF: Coded shares, 0 where a neuron is inactive.
        cuts: Those to try in place of its own.
    """
    device = predictor.fc1.device
    counts = Counts(cuts, device)
    for x, shares in zip(inputs_TD.split(CHUNK), shares_TF.split(CHUNK), strict=True):
        counts.add(predictor.logits(x.to(device)), shares.to(device) != 0)
    return counts.qualities()


@torch.no_grad()
def cut_for_recall(
    predictor: Predictor, inputs_TD: Tensor, shares_TF: Tensor, recall: float
) -> float:
    """Return the highest cut with at least this recall on some rows, -inf where none are active."""
    device = predictor.fc1.device
    logits_TF = predictor.logits(inputs_TD.to(device))
    of_active = logits_TF[shares_TF.to(device) != 0].sort().values
    if not len(of_active):
        return float("-inf")
    misses = int((1 - recall) * len(of_active) + 1e-9)
    return float(of_active[min(misses, len(of_active) - 1)])


def missed_shares(
    logits_TF: Tensor, x1_TF: Tensor, down_projT: Tensor, cuts: Sequence[float]
) -> Tensor:
    """Return the share of the output's norm that is missed at each cut, float64; see `Missed`.

    Args:
        logits_TF: Of a predictor.
        x1_TF: The true intermediate, float32.
        down_projT: [F, D], float32.
        cuts: Logits below are predicted inactive.
    """
    whole_T = (x1_TF @ down_projT).norm(dim=1)
    shares = []
    for cut in cuts:
        left_out = x1_TF.masked_fill((logits_TF < cut).logical_not(), 0)
        missed = Missed(x1_TF.device)
        missed.add((left_out @ down_projT).norm(dim=1), whole_T)
        shares.append(missed.share())
    return torch.tensor(shares, dtype=torch.float64)


class Missed:
    """What of an output is missed, added up over tokens."""

    def __init__(self, device: torch.device) -> None:
        # tokens; the sum of their shares; the squared norms of what is missed, and of all
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, missed_T: Tensor, whole_T: Tensor) -> None:
        """Count some tokens by the norms of what is missed of their outputs, and of these."""
        shares_T = missed_T / whole_T.clamp_min(torch.finfo(torch.float32).tiny)
        found = [shares_T.sum(), missed_T.square().sum(), whole_T.square().sum()]
        self._sums += torch.stack([torch.full_like(found[0], len(missed_T)), *found]).double()

    def share(self) -> float:
        """Return the larger of two: the mean share of a token, and the share of all tokens together.

        The latter is decided by the few tokens with massive activations, without which a model is no
        model any more, and which a mean would not see.
        """
        tokens, shares, missed, whole = self._sums.tolist()
        return max(shares / tokens, (missed / whole) ** 0.5 if whole else 0.0)
