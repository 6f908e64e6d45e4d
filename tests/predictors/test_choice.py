# SPDX-License-Identifier: Apache-2.0
"""The choice among measured points: within the budget, and nothing else that is would be faster."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prosparse.predictors.choice import choose, pareto_front
from prosparse.records.predictor import PredictorPoint


def point(us, missed, rank=8):
    return PredictorPoint(rank, 0.0, 0.9, 0.7, missed, us)


POINTS = st.lists(
    st.tuples(st.integers(1, 1000), st.integers(0, 1000)).map(lambda p: point(p[0], p[1] / 1000)),
    min_size=1, max_size=6,
)  # fmt: skip


def test_each_layer_takes_what_pays_most_there():
    steep = [point(10, 0.3), point(20, 0.0)]  # 10 us for 0.3
    flat = [point(10, 0.3), point(90, 0.0)]  # 80 us for 0.3
    assert choose([steep, flat], 0.15) == [steep[1], flat[0]]
    assert choose([steep, flat], 0.4) == [steep[0], flat[0]]
    assert choose([steep, flat], 0.0) == [steep[1], flat[1]]


def test_a_budget_that_nothing_keeps_takes_what_misses_least():
    points = [point(5, 0.5), point(50, 0.2)]
    assert choose([points], 0.1) == [points[1]]


@given(st.lists(POINTS, min_size=1, max_size=3), st.floats(0, 1))
def test_within_the_budget_and_on_the_hull(layers, budget):
    chosen = choose(layers, budget)
    mean = sum(p.missed for p in chosen) / len(chosen)
    least = sum(min(p.missed for p in points) for points in layers) / len(layers)
    assert mean <= max(budget, least) + 1e-12
    for of_layer, points in zip(chosen, layers, strict=True):
        assert of_layer in pareto_front(points)
    # whoever misses no more in all takes no less time
    for other in itertools.product(*layers):
        if sum(p.missed for p in other) <= sum(p.missed for p in chosen) - 1e-9:
            assert sum(p.us for p in other) >= sum(p.us for p in chosen) - 1e-6


@given(POINTS)
def test_the_front(points):
    front = pareto_front(points)
    assert front == sorted(front, key=lambda p: p.us)
    for p in points:
        assert any(q.us <= p.us and q.missed <= p.missed for q in front)
    for p, q in itertools.permutations(front, 2):
        assert not (q.us <= p.us and q.missed <= p.missed)


def test_points_without_times_cannot_be_chosen_among():
    with pytest.raises(AssertionError):
        choose([[PredictorPoint(8, 0.0, 0.9, 0.7, 0.1)]], 0.1)
