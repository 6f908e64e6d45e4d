# SPDX-License-Identifier: Apache-2.0
"""Choose rank and cut of every layer: the most time saved for what may be missed.

Neither recall nor predicted sparsity says what a predictor is worth: a higher recall reads more rows,
and a higher rank costs before it saves. So candidates are compared by the measured time of the FFN and
by the share of its output that is missed. With one price for missed output in all layers, each takes the
candidate with the least time + price * missed, which lies on the lower hull of its Pareto front; the
price is the lowest at which the mean over layers stays within the budget.
"""

from __future__ import annotations

from collections.abc import Sequence

from prosparse.records.predictor import PredictorPoint

NUM_HALVINGS = 60
HIGHEST_PRICE = 1e12  # microseconds for all of the output


def choose(layers: Sequence[Sequence[PredictorPoint]], max_missed: float) -> list[PredictorPoint]:
    """Return a point for each layer.

    Args:
        layers: Candidates of each layer, with times.
        max_missed: Budget for the mean over layers of the missed share, >= 0. Where no candidates
            keep it, those that miss the least are returned.
    """
    low, high = 0.0, HIGHEST_PRICE
    for _ in range(NUM_HALVINGS):
        price = (low * high) ** 0.5 if low else high * 1e-6
        if _mean_missed(_at(layers, price)) <= max_missed:
            high = price
            if high < 1e-9:
                break
        else:
            low = price
    return _at(layers, high)


def pareto_front(points: Sequence[PredictorPoint]) -> list[PredictorPoint]:
    """Return the points than which no other is both as fast and misses as little, fastest first."""
    front: list[PredictorPoint] = []
    for point in sorted(points, key=lambda p: (_us(p), p.missed)):
        if not front or point.missed < front[-1].missed:
            front.append(point)
    return front


def _at(layers: Sequence[Sequence[PredictorPoint]], price: float) -> list[PredictorPoint]:
    return [min(points, key=lambda p: (_us(p) + price * p.missed, p.missed)) for points in layers]


def _us(point: PredictorPoint) -> float:
    assert point.us is not None
    return point.us


def _mean_missed(points: Sequence[PredictorPoint]) -> float:
    return sum(point.missed for point in points) / len(points)
