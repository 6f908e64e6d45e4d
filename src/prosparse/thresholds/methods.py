# SPDX-License-Identifier: Apache-2.0
"""The methods of choosing thresholds, each as a family that one number makes more severe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prosparse.thresholds.layers import (
    CostModel,
    LayerCurves,
    measure_costs,
)
from prosparse.thresholds.search import find_edge, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.measurement.passes import Passes
    from prosparse.records.threshold import LayerCost, Method, ThresholdCandidate
    from prosparse.thresholds.judge import Judge

FIRST_THRESHOLD = 0.02
FIRST_ERROR = 0.1


@dataclass(frozen=True, slots=True)
class Found:
    """What was tried, and what was learned of the layers on the way."""

    rows: tuple[ThresholdCandidate, ...]
    layer_costs: tuple[LayerCost, ...] = ()
    silent_layers: tuple[int, ...] = ()
    """Layers in which no neuron was ever active on the calibration text."""


def try_methods(
    judge: Judge, methods: Sequence[Method], candidates: Sequence[float], learning: Passes
) -> Found:
    """Return the candidates of some methods, measured.

    Args:
        judge: Measures them.
        learning: The judge's model on text to learn its layers by. What layers cost is fitted to that
            text, so the judge should have other.
        methods: What to try. `fixed` alone measures `candidates`; among others it is searched for the
            edge of the budget as they are, or a coarse list would decide against it.
        candidates: Thresholds above 0, rising.
    """
    if tuple(methods) == ("fixed",):
        return Found(tuple(sweep(judge, candidates)))
    curves = LayerCurves(learning)
    rows: list[ThresholdCandidate] = []
    costs: list[LayerCost] = []
    if "fixed" in methods:
        rows += _fixed(judge, curves)
    if "per-layer" in methods:
        costs = measure_costs(learning, curves)
        rows += _per_layer(judge, CostModel.of(curves, costs))
    if "cett" in methods:
        rows += _cett(judge, curves)
    return Found(tuple(rows), tuple(costs), tuple(curves.silent))


def _fixed(judge: Judge, curves: LayerCurves) -> list[ThresholdCandidate]:
    largest = curves.thresholds_LG.max().item()
    first = min(FIRST_THRESHOLD, largest)
    return find_edge(judge, "fixed", lambda t: [t] * judge.num_layers, first, largest, power=2)


def _per_layer(judge: Judge, model: CostModel) -> list[ThresholdCandidate]:
    costs_LG = model.costs_LG
    whole = costs_LG.masked_fill(costs_LG.isinf(), 0).amax(1).sum().item()
    largest = max(math.expm1(min(whole, 700)), judge.max_increase)
    return find_edge(
        judge,
        "per-layer",
        lambda increase: model.thresholds(math.log1p(increase)),
        judge.max_increase,
        largest,
        power=1,
    )


def _cett(judge: Judge, curves: LayerCurves) -> list[ThresholdCandidate]:
    return find_edge(
        judge,
        "cett",
        lambda error: curves.thresholds(error)[0],
        FIRST_ERROR,
        1.0,
        power=2,
    )
