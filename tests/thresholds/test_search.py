# SPDX-License-Identifier: Apache-2.0
"""Candidates are measured; the edge of the budget is found; the largest within it wins."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prosparse as ps
from prosparse.records.threshold import ThresholdCandidate
from prosparse.thresholds.search import (
    CLOSE_ENOUGH,
    SEARCH_STEPS,
    check_candidates,
    check_method,
    choose,
    chosen_of_methods,
    find_edge,
    refuse_dense,
    sweep,
)


def candidate(threshold: float, within_budget: bool, sparsity=0.5, method="fixed"):
    return ThresholdCandidate(
        threshold, sparsity, (sparsity,), (), 0.0, 0.0, within_budget, method, (threshold,)
    )


class Curve:
    """Stands in for a judge: the increase is a function of the threshold of the only layer."""

    def __init__(self, increase, max_increase=0.01, stderr=0.0):
        self.increase, self.max_increase, self.stderr = increase, max_increase, stderr

    def measure(self, method, setting, thresholds):
        found = self.increase(thresholds[0])
        row = dataclasses.replace(
            candidate(setting, True, method=method),
            perplexity_increase=found,
            perplexity_increase_stderr=self.stderr,
        )
        return dataclasses.replace(row, within_budget=row.highest_increase <= self.max_increase)


def edge(curve, first=0.02, largest=10.0, power=2):
    return find_edge(curve, "cett", lambda t: [t], first, largest, power)


def largest_within(rows):
    return max((row for row in rows if row.within_budget), key=lambda row: row.threshold)


def test_sparsity_rises_with_the_threshold(judge):
    rows = [judge.baseline, *sweep(judge, (0.05, 0.2, 0.8, 3.0))]
    assert [row.threshold for row in rows] == [0, 0.05, 0.2, 0.8, 3.0]
    for lower, higher in zip(rows, rows[1:], strict=False):
        assert higher.sparsity > lower.sparsity
        pairs = zip(lower.layer_sparsity, higher.layer_sparsity, strict=True)
        assert all(after >= before for before, after in pairs)


@given(scale=st.floats(0.1, 100), power=st.floats(1, 4))
def test_the_edge_of_any_power_law_is_found_just_below_the_budget(scale, power):
    rows = edge(Curve(lambda t: scale * t**power), largest=1e6)
    best = largest_within(rows)
    assert (1 - CLOSE_ENOUGH) * 0.01 <= best.perplexity_increase <= 0.01
    assert len(rows) <= SEARCH_STEPS
    assert [r.threshold for r in rows] == sorted(r.threshold for r in rows)


def test_a_cliff_is_found_to_a_hundredth():
    best = largest_within(edge(Curve(lambda t: 0.0 if t < 0.37 else math.inf)))
    assert 0.98 * 0.37 < best.threshold < 0.37


@pytest.mark.parametrize(
    ("found", "stderr", "is_over"),
    [(0.006, 0.002, True), (0.0055, 0.002, False), (0.0091, math.nan, False), (0.004, 1, False)],
)
def test_noise_is_not_chased(found, stderr, is_over):
    rows = edge(Curve(lambda t: found * t / 0.02, stderr=stderr))
    assert (len(rows) == 1) == is_over


def test_a_search_ends_at_the_largest_setting():
    rows = edge(Curve(lambda t: -0.001), largest=0.5)
    assert rows[-1].threshold == 0.5
    assert all(row.threshold < 0.5 for row in rows[:-1])


@pytest.mark.parametrize("found", [math.nan, math.inf, 5.0])
def test_a_budget_that_nothing_meets_is_given_up(found):
    rows = edge(Curve(lambda t: found))
    assert len(rows) == SEARCH_STEPS
    assert not any(row.within_budget for row in rows)
    assert rows[0].threshold < 0.02 / 4**5  # it has looked far down


def test_the_largest_within_the_budget_is_chosen():
    rows = [candidate(0, True), candidate(0.1, True), candidate(0.2, False)]
    assert choose(rows).threshold == 0.1


def test_a_curve_that_gets_better_again_is_followed_to_its_end():
    rows = [candidate(0, True), candidate(0.1, False), candidate(0.2, True), candidate(0.3, False)]
    assert choose(rows).threshold == 0.2


def test_none_within_the_budget_is_plain_relu():
    assert choose([candidate(0, True), candidate(0.1, False)]).threshold == 0.0


def test_of_several_methods_the_sparsest_choice_wins():
    rows = [
        candidate(0, True, 0.5),
        candidate(0.1, True, 0.6),
        candidate(0.01, True, 0.7, "per-layer"),
        candidate(0.02, False, 0.9, "per-layer"),
        candidate(0.3, True, 0.65, "cett"),
    ]
    assert choose(rows) is rows[2]
    assert chosen_of_methods(rows) == [rows[1], rows[2], rows[4]]


def test_candidates_are_sorted_and_come_once():
    assert check_candidates([0.3, 0.1, 0.3]) == (0.1, 0.3)


@pytest.mark.parametrize("bad", [[], [0.0], [-0.1], [0.1, math.nan], [math.inf]])
def test_candidates_that_are_refused(bad):
    with pytest.raises(ps.UserError, match="--candidates"):
        check_candidates(bad)


def test_methods():
    assert check_method("fixed", 0.0) == ("fixed",)
    assert check_method("all", 0.01) == ("fixed", "per-layer", "cett")
    for method, budget, words in (
        ("greedy", 0.01, "must be one of fixed, per-layer, cett, all; found 'greedy'"),
        ("cett", 0.0, "a finite number above 0; found 0.0"),
        ("per-layer", math.inf, "found inf"),
        ("fixed", math.nan, "must be >= 0; found nan"),
    ):
        with pytest.raises(ps.UserError, match=words):
            check_method(method, budget)


def test_a_dense_model_is_refused(checkpoint):
    with pytest.raises(ps.UserError, match="activation function is silu; a threshold shifts ReLU"):
        refuse_dense(ps.load(checkpoint))
