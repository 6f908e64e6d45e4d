# SPDX-License-Identifier: Apache-2.0
"""Predictors at several cuts, on the validation rows whose x_1 is kept: what a choice is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from prosparse.predictors.predictor import Predictor
from prosparse.predictors.quality import Counts, cut_for_recall, missed_shares
from prosparse.records.predictor import PredictorPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from prosparse.predictors.cost import FFNTimer
    from prosparse.predictors.pairs import Pairs

CUTS = (-4.0, -3.0, -2.5, -2.0, -1.6, -1.3, -1.0, -0.7, -0.4, -0.2, 0.0, 0.3, 0.6, 1.0, 1.5, 2.0)
"""Logits to try; 0 is where the loss sees a probability of one half."""


@torch.no_grad()
def points_at(
    predictor: Predictor, pairs: Pairs, layer: int, down_projT: Tensor, cuts: Sequence[float]
) -> list[PredictorPoint]:
    """Return what a predictor gives at each cut, without times.

    Args:
        predictor: Of this layer.
        pairs: Their kept rows are taken.
        layer: Which layer.
        down_projT: [F, D].
        cuts: Those to try.
    """
    device = predictor.fc1.device
    x1_TF = pairs.values(layer).to(device)
    logits_TF = predictor.logits(pairs.inputs(layer, train=False)[: len(x1_TF)].to(device))
    counts = Counts(cuts, device)
    counts.add(logits_TF, x1_TF != 0)
    missed = missed_shares(logits_TF, x1_TF, down_projT.detach().to(device, torch.float32), cuts)
    return [
        PredictorPoint(predictor.rank, q.cut, q.recall, q.predicted_sparsity, share)
        for q, share in zip(counts.qualities(), missed.tolist(), strict=True)
    ]


def with_times(
    predictors: Sequence[Predictor],
    points: Sequence[Sequence[PredictorPoint]],
    timer: FFNTimer,
) -> list[list[PredictorPoint]]:
    """Return the points of each layer with measured times; all layers have the same cuts."""
    timed: list[list[PredictorPoint]] = [[] for _ in predictors]
    for of_cut in zip(*points, strict=True):
        at_cut = [
            Predictor(p.fc1, p.fc2, point.cut) for p, point in zip(predictors, of_cut, strict=True)
        ]
        times = timer.predicted_us(at_cut)
        for found, point, us in zip(timed, of_cut, times, strict=True):
            found.append(replace(point, us=us))
    return timed


def recall_cut(predictor: Predictor, pairs: Pairs, layer: int, recall: float) -> float:
    """Return the highest cut that keeps a recall on the kept rows."""
    kept = pairs.layout.num_values
    inputs, shares = pairs.inputs(layer, train=False), pairs.shares(layer, train=False)
    return cut_for_recall(predictor, inputs[:kept], shares[:kept], recall)
